"""Word vectors of a corpus of one's own beside GloVe: do words that people call similar have similar vectors?

The judgments are WordSim-353 (Finkelstein et al. 2002) and SimLex-999 (Hill et al. 2015), which gensim brings. The corpus is the
docstrings of the Python packages of this machine, read from their files; no package is imported.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from topwork import Client
from topwork_server.types import Array

PREFIX = "transfer-words"
GLOVE = "glove-6b-50d"
RESAMPLES = 1000
#: Bytes of a source file; larger ones are data.
LARGEST = 1 << 20


@dataclass(frozen=True)
class Judged:
    """Spearman's rank correlation of cosines and judgments over those `pairs` of `all_pairs` whose words all encoders know, with
    its 95% bootstrap interval."""

    judgments: str
    encoder: str
    seed: int
    pairs: int
    all_pairs: int
    correlation: float
    low: float
    high: float


def judgments() -> dict[str, list[tuple[str, str, float]]]:
    """Read the judgments by their names: pairs of words, and how similar people call them."""
    from gensim.test.utils import datapath

    found = {}
    for name, file in (("WordSim-353", "wordsim353.tsv"), ("SimLex-999", "simlex999.txt")):
        lines = Path(datapath(file)).read_text("utf-8").splitlines()
        rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
        found[name] = [(row[0].lower(), row[1].lower(), float(row[2])) for row in rows if _is_number(row[2])]
    return found


def docstrings() -> Iterator[str]:
    """Yield the docstrings of Python's modules and of its installed packages, each text once."""
    seen: set[str] = set()
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(folder).rglob("*.py")):
            if path.stat().st_size <= LARGEST:
                for text in _docstrings_of(path):
                    if text not in seen and "\0" not in text:  # some show what a NUL does
                        seen.add(text)
                        yield text


def word_runs(
    client: Client, texts: Sequence[str], seeds: Sequence[int], options: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Judged]:
    """Judge GloVe, and word vectors that each seed learns of the texts with `options` of `topwork pretrain words`. All are judged
    on the pairs that all know. The encoders stay: `pretraining.forget` deletes them."""
    encoders = {GLOVE: 0}
    for seed in seeds:
        name = f"{PREFIX}-{options.get('algorithm', 'cbow')}-{seed}"
        say(f"learning words of {len(texts):,} texts, seed {seed}")
        say(str(client.pretrain("words", texts, name=name, options=options, seed=seed, source="docstrings")))
        encoders[name] = seed
    for what, pairs in judgments().items():
        words = sorted({word for one, other, _ in pairs for word in (one, other)})
        vectors = {name: _vectors(client, name, words) for name in encoders}
        known = set.intersection(*(set(found) for found in vectors.values()))
        shared = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        for name, seed in encoders.items():
            yield _judged(what, name, seed, shared, len(pairs), vectors[name])


def _vectors(client: Client, encoder: str, words: Sequence[str]) -> dict[str, Array]:
    """The vectors of words, of unit length, by those that the encoder knows."""
    found = client.embed(encoder, list(words), normalize=True, skip_bad_items=True)
    return {words[item]: row for item, row in zip(found.items, np.asarray(found), strict=True)}


def _judged(
    what: str, encoder: str, seed: int, pairs: Sequence[tuple[str, str, float]], count: int, vectors: Mapping[str, Array]
) -> Judged:
    cosines = np.array([float(vectors[one] @ vectors[other]) for one, other, _ in pairs])
    people = np.array([judgment for _, _, judgment in pairs])
    chance = np.random.default_rng(0)
    drawn = (chance.integers(len(pairs), size=len(pairs)) for _ in range(RESAMPLES))
    low, high = np.quantile([spearmanr(cosines[rows], people[rows]).statistic for rows in drawn], [0.025, 0.975])
    correlation = float(spearmanr(cosines, people).statistic)
    return Judged(what, encoder, seed, len(pairs), count, correlation, float(low), float(high))


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of code that Python calls out of date
            tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
