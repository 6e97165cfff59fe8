"""A corpus as a word2vec training reads it: a file of lines, words with spaces between, written once and read each epoch."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from topwork_server import InvalidInput

from topwork_plugins.word2vec import tokens

#: Words of a line; gensim leaves out what is beyond 10,000.
LONGEST_LINE = 1000
#: One line in so many is held out, where there are enough.
HELD_PART, FEWEST_LINES, MOST_HELD = 20, 200, 5000
#: Texts between two reports.
STEP = 1000


@dataclass
class TrainingLines:
    """The lines of a file that are learned from. `counts` are of their words; `held` are lines that are not learned from."""

    path: Path
    lines: int = 0
    words: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    held: list[list[str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[str]]:
        with self.path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.split()


def split(texts: Collection[str], lowercase: bool, path: Path, report: Callable[[float], None]) -> TrainingLines:
    """Split texts into words, and write them. Equal lines are all held out, or all learned from. InvalidInput: no words."""
    made = TrainingLines(path)
    enough = len(texts) >= FEWEST_LINES or sum(map(len, texts)) >= FEWEST_LINES * LONGEST_LINE * 6
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, text in enumerate(texts):
            if number % STEP == 0:
                report(number / len(texts))
            for words in _lines(text.lower() if lowercase else text):
                line = " ".join(words)
                if enough and len(made.held) < MOST_HELD and zlib.crc32(line.encode()) % HELD_PART == 0:
                    made.held.append(words)
                    continue
                file.write(f"{line}\n")
                made.lines, made.words = made.lines + 1, made.words + len(words)
                made.counts.update(words)
    if not made.words:
        raise InvalidInput("the texts hold no words", remedy="give texts of letters, with spaces between words")
    return made


def join_phrases(lines: TrainingLines, min_count: int, path: Path) -> TrainingLines:
    """Write the lines again with words that come together joined by "_" (Mikolov et al. 2013, section 4): "New_York"."""
    from gensim.models.phrases import Phrases

    joined = Phrases(lines, min_count=min_count, delimiter="_").freeze()
    made = TrainingLines(path, held=[list(joined[words]) for words in lines.held])
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for words in lines:
            phrased = joined[words]
            file.write(f"{' '.join(phrased)}\n")
            made.lines, made.words = made.lines + 1, made.words + len(phrased)
            made.counts.update(phrased)
    return made


def _lines(text: str) -> Iterator[list[str]]:
    words = tokens.words(text)
    return (words[start : start + LONGEST_LINE] for start in range(0, len(words), LONGEST_LINE))
