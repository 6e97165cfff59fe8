"""The likeliest words of a vocabulary, by a head over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from topwork._display.excerpts import excerpt

from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import Head
from topwork_server.heads.serving.head_cache import OpenedHead
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.types import Array

#: Probabilities that are computed at a time: 16 MiB.
AT_A_TIME = 1 << 22
#: Values whose largest is looked at first.
BLOCK = 64


@dataclass(frozen=True, slots=True)
class LikelyWords:
    """Words, likeliest first, their entries in the vocabulary (k,) int64, and their probabilities (k,) float32; none of any, and
    `finite` False, where scores of the vocabulary overflow."""

    words: tuple[str, ...]
    entries: Array
    probabilities: Array
    finite: bool = True


@dataclass(frozen=True)
class WordChoice:
    """A head and how many words of its vocabulary are wanted, of all or `among` some entries, (n,) int64."""

    opened: OpenedHead
    encoder: Encoder
    k: int
    among: Array | None

    @classmethod
    def of(cls, opened: OpenedHead, encoder: Encoder, k: int, targets: Sequence[str]) -> WordChoice:
        """Choose among `targets`, if there are any. InvalidInput where one is no entry, or where `k` is more than all words."""
        words = int(opened.head.chosen["words"])
        if k > words:
            raise InvalidInput(f"k is {k}, and {opened.head.encoder} has {words} words", remedy=f"ask for at most {words}")
        return cls(opened, encoder, k, _entries(opened.head.encoder, encoder, targets))

    @property
    def head(self) -> Head:
        return self.opened.head

    def parts(self, rows: Array) -> Iterator[Array]:
        """Cut rows into parts that are computed in a fraction of a second each."""
        step = max(1, AT_A_TIME // int(self.head.chosen["words"]))
        return (rows[start : start + step] for start in range(0, len(rows), step))

    def words_for(self, rows: Array) -> list[LikelyWords]:
        """The likeliest words for each of (n, dim) rows."""
        _, probabilities = self.opened.predict(rows)
        return [self._likeliest(row) for row in probabilities]

    def _likeliest(self, probabilities: Array) -> LikelyWords:
        if not np.isfinite(probabilities.sum()):
            return LikelyWords((), np.zeros(0, np.int64), probabilities[:0], finite=False)
        if self.among is None:
            best = largest(probabilities, self.k)
        else:
            best = self.among[largest(probabilities[self.among], min(self.k, len(self.among)))]
        return LikelyWords(tuple(self.encoder.words(best.tolist())), best, probabilities[best])


def largest(values: Array, k: int) -> Array:
    """Positions of the `k` largest of (n,) values, falling; of equal ones the first is first.

    The k-th largest of the largest of each block is a bound that few values reach: to sort these takes 1/20 of the time that
    `argpartition` takes for 5 of 30,000, which is that of the head itself.
    """
    highest = np.maximum.reduceat(values, np.arange(0, len(values), BLOCK))
    bound = np.partition(highest if 4 * k < len(highest) else values, -k)[-k]
    there = np.flatnonzero(values >= bound)
    return np.asarray(there[np.argsort(-values[there], kind="stable")[:k]])


def _entries(name: str, encoder: Encoder, targets: Sequence[str]) -> Array | None:
    """The entries of some words of the vocabulary, each once; None of no words. InvalidInput names a word that is no entry."""
    entries = {encoder.entry(word): word for word in reversed(targets)}
    if -1 in entries:
        raise InvalidInput(
            f"the target {excerpt(entries[-1])} is no entry of the vocabulary of {name}",
            remedy="name words that it has whole; a word of several tokens has no probability of its own",
        )
    return np.array(sorted(entries), np.int64) if entries else None
