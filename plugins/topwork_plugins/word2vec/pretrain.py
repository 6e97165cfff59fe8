"""Word vectors of one's own texts: CBOW and skip-gram with negative sampling (Mikolov et al. 2013), by gensim."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from topwork_server import (
    BaseEncoder,
    InvalidInput,
    Measure,
    Pretrainer,
    PretrainerSpec,
    PretrainResult,
    Report,
    option,
)

from topwork_plugins.word2vec import output_vectors, tokens
from topwork_plugins.word2vec.held_out import FEWEST_WORDS, FIRST, HeldOutPlaces
from topwork_plugins.word2vec.training_lines import TrainingLines, join_phrases, split

FAMILY = "word2vec"
#: Lines between two reports.
STEP = 1000
#: Lines that judge where none are held out; words of texts that are few, for vectors.
MOST_JUDGED, FEW_WORDS = 2000, 100_000
#: A loss that is so near to that of the vectors as they begin says that they are still near to random.
HARDLY = 0.98
#: A word comes so often at least, where many words are learned; gensim's and word2vec's own default.
MIN_COUNT = 5


@dataclass(frozen=True)
class WordsOptions:
    """Options of a training of word vectors; defaults are word2vec's own."""

    algorithm: Literal["cbow", "skip-gram"] = option("cbow", "cbow: a word from those around it; skip-gram: those around from it")
    dim: int = option(100, "numbers of a word's vector", minimum=2, maximum=2000)
    window: int = option(5, "words on each side that count as around", minimum=1, maximum=100)
    min_count: int = option(MIN_COUNT, "words that come less often are left out", minimum=1, maximum=10**9)
    negative: int = option(5, "other words that are drawn for each", minimum=1, maximum=100)
    epochs: int = option(5, "passes over the texts", minimum=1, maximum=10_000)
    learning_rate: float = option(0.025, "of the first step; it falls to a 250th", minimum=1e-6, maximum=1.0)
    subsample: float = option(
        1e-3, "words that are a larger part of the texts are passed over at times; 0: never", minimum=0.0, maximum=1.0
    )
    lowercase: bool = option(True, "learn words in lower case")
    phrases: bool = option(False, "join words that come together more often than by chance: New_York")
    max_seconds: float = option(0.0, "stop after so many seconds of training; 0: no limit", minimum=0.0, maximum=1e7)


class WordsPretrainer(Pretrainer):
    """Learns word vectors, and keeps both: those of words and those that predict them."""

    options = WordsOptions

    @classmethod
    def check_texts(cls, texts: Collection[str], options: Any) -> None:
        """Raise InvalidInput where no text has two different words, or several texts are all equal; how often words come is
        counted in the job."""
        if not any(len({word.lower() if options.lowercase else word for word in tokens.words(text)}) > 1 for text in texts):
            raise InvalidInput(
                "no text has two different words: a word is learned from others beside it",
                remedy="give whole sentences, with spaces between words",
            )
        first = next(iter(texts))
        if len(texts) > 1 and all(text == first for text in texts):
            raise InvalidInput(
                f"all {len(texts):,} texts are equal: they tell nothing of a word that one of them does not",
                remedy="give texts that differ, a line each",
            )

    @classmethod
    def pretrain(
        cls,
        texts: Collection[str],
        base: BaseEncoder | None,
        options: WordsOptions,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> PretrainResult:
        """Train, and write the vectors into `out`. InvalidInput where the texts have too few words. With several threads no two
        trainings are equal to the bit."""
        with tempfile.TemporaryDirectory(prefix="topwork-words-") as scratch:
            lines = _lines(texts, options, Path(scratch), report)
            training = _Training(lines, options, seed, threads)
            training.run(report)
        model = training.model
        output_vectors.write(
            out, model.wv.index_to_key, model.wv.vectors, model.syn1neg, {"architecture": options.algorithm, **asdict(options)}
        )
        return PretrainResult(FAMILY, training.measures(), training.history, warnings=training.warnings)


SPEC = PretrainerSpec("words", WordsPretrainer, "word vectors: CBOW or skip-gram with negative sampling (word2vec)")


def _lines(texts: Collection[str], options: WordsOptions, scratch: Path, report: Report) -> TrainingLines:
    lines = split(texts, options.lowercase, scratch / "lines.txt", lambda part: report(0.1 * part, "splitting texts into words"))
    if options.phrases:
        report(0.1, "finding phrases")
        lines = join_phrases(lines, options.min_count, scratch / "phrases.txt")
    _check(lines, options.min_count)
    return lines


def _check(lines: TrainingLines, min_count: int) -> None:
    """Raise InvalidInput where there are no two words to learn from."""
    [(word, most)] = lines.counts.most_common(1)
    if len(lines.counts) == 1:
        raise InvalidInput(
            f"the texts have one word alone, {word[:40]!r}: a word is learned from others beside it", remedy="give more text"
        )
    kept = {word for word, count in lines.counts.items() if count >= min_count}
    if len(kept) < 2:
        raise InvalidInput(
            f"{'one word comes' if kept else 'no word comes'} {min_count} times (min_count): the most frequent, {word[:40]!r},"
            f" comes {'once' if most == 1 else f'{most} times'}",
            remedy="give more text, or lower min_count",
        )
    if not any(sum(word in kept for word in words) > 1 for words in lines):
        raise InvalidInput("no text has two of the words that are kept", remedy="give whole sentences, or lower min_count")


class _Training:
    """One training. `history` has an entry an epoch."""

    def __init__(self, lines: TrainingLines, options: WordsOptions, seed: int, threads: int) -> None:
        from gensim.models import Word2Vec

        self._lines, self._options = lines, options
        self.history: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.model = Word2Vec(
            vector_size=options.dim,
            window=options.window,
            min_count=options.min_count,
            negative=options.negative,
            alpha=options.learning_rate,
            min_alpha=options.learning_rate / 250,
            sample=options.subsample,
            sg=int(options.algorithm == "skip-gram"),
            seed=seed % 2**32,
            workers=threads,
        )
        self.model.build_vocab_from_freq(lines.counts, corpus_count=lines.lines)
        counts = np.array([self.model.wv.get_vecattr(word, "count") for word in self.model.wv.index_to_key])

        def places(of: Sequence[Sequence[str]]) -> HeldOutPlaces:
            return HeldOutPlaces(of, self.model.wv.key_to_index, counts, options.window, options.negative, seed)

        self._places, self._loss, self._found = places(lines.held), "held-out loss", f"missing word among {FIRST}"
        if not len(self._places):
            known = self.model.wv.key_to_index
            self._places = places(list(islice((words for words in lines if sum(w in known for w in words) > 1), MOST_JUDGED)))
            self._loss, self._found = "loss of learned texts", f"missing word of learned texts among {FIRST}"
            self.warnings.append("too few different texts to hold some out: figures are of texts that were learned from")
        if lines.words < FEW_WORDS:
            self.warnings.append(
                f"a small corpus: {lines.words:,} words, of which {len(counts):,} different ones have vectors."
                f" Vectors of fewer than {FEW_WORDS:,} words say little of what words mean"
            )

    def run(self, report: Report) -> None:
        """Train epoch by epoch. The rate falls over all of them."""
        self._before = self._judged()
        self._began = time.monotonic()
        self._learn(report)
        before, after = self._before[self._loss], self.history[-1][self._loss]
        if after > before * HARDLY:
            self.warnings.append(
                f"hardly anything was learned: {self._loss} {after:.4f}, {before:.4f} before. Few words need more epochs:"
                f" {self._options.epochs} were asked for"
            )

    def _learn(self, report: Report) -> None:
        options = self._options
        for epoch in range(options.epochs):
            start, end = (options.learning_rate * (1 - 0.996 * at / options.epochs) for at in (epoch, epoch + 1))
            lines = _Watched(self._lines, self._in_time, lambda part, at=epoch: self._report(report, at + part))  # type: ignore[misc]
            self.model.train(
                lines, total_examples=self._lines.lines, total_words=self._lines.words, epochs=1, start_alpha=start, end_alpha=end
            )
            self.history.append({"epoch": epoch + 1, **self._judged()})
            if not self._in_time():
                self.warnings.append(f"stopped in epoch {epoch + 1} of {options.epochs} by max_seconds")
                return

    def measures(self) -> list[Measure]:
        """The loss and, of words that are not too few, the part of missing ones that are found, after and before."""
        after = self.history[-1]
        return [Measure(name, after[name], before) for name, before in self._before.items()]

    def _judged(self) -> dict[str, float]:
        vectors, output = self.model.wv.vectors, self.model.syn1neg
        loss = self._places.loss(vectors, output, skip_gram=self._options.algorithm == "skip-gram")
        found = {self._found: self._places.found(vectors, output)} if len(output) >= FEWEST_WORDS else {}
        return {self._loss: loss, **found}

    def _in_time(self) -> bool:
        limit = self._options.max_seconds
        return not limit or time.monotonic() - self._began < limit

    def _report(self, report: Report, epochs: float) -> None:
        loss = (self.history[-1] if self.history else self._before)[self._loss]
        words = f"epoch {int(epochs) + 1} of {self._options.epochs}, {self._loss} {loss:.4f}"
        report(0.1 + 0.9 * epochs / self._options.epochs, words)


class _Watched:
    """Lines that tell how far they are read, and end where the time is over."""

    def __init__(self, lines: TrainingLines, in_time: Callable[[], bool], report: Callable[[float], None]) -> None:
        self._lines, self._in_time, self._report = lines, in_time, report

    def __iter__(self) -> Iterator[list[str]]:
        for number, words in enumerate(self._lines):
            if number % STEP == 0:
                self._report(number / self._lines.lines)
                if not self._in_time():
                    return
            yield words
