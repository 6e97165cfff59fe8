"""Judges word vectors on lines that were not learned from: the loss of negative sampling, and how often a word is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from topwork_server import Array

#: Places of held-out lines that are judged, and those of which the missing word is predicted.
MOST_PLACES, MOST_PREDICTED = 20_000, 1000
#: The missing word counts as found among the first so many.
FIRST = 5
#: Among fewer words chance alone finds more than a tenth of those that are missing.
FEWEST_WORDS = 10 * FIRST


class HeldOutPlaces:
    """Places of words with those around them, (places, 2 * window) int64 with -1 where there are fewer, and other words that are
    drawn as negative sampling draws them. The same seed gives the same."""

    def __init__(
        self, lines: Sequence[Sequence[str]], rows: Mapping[str, int], counts: Array, window: int, negative: int, seed: int
    ) -> None:
        chance = np.random.default_rng(seed)
        known = [[rows[word] for word in line if word in rows] for line in lines]
        places = [(line, place) for line in known if len(line) > 1 for place in range(len(line))]
        chosen = chance.permutation(len(places))[:MOST_PLACES]
        self.targets = np.array([places[i][0][places[i][1]] for i in chosen], np.int64)
        self.around = np.full((len(chosen), 2 * window), -1, np.int64)
        for row, i in enumerate(chosen):
            line, place = places[i]
            beside = line[max(0, place - window) : place] + line[place + 1 : place + 1 + window]
            self.around[row, : len(beside)] = beside
        weights = counts.astype(np.float64) ** 0.75
        self.others = chance.choice(len(counts), (len(chosen), negative), p=weights / weights.sum())

    def __len__(self) -> int:
        return len(self.targets)

    def loss(self, vectors: Array, output: Array, *, skip_gram: bool) -> float:
        """The mean loss of a word: -log s(u_y . h) - sum of log s(-u_n . h), of h the mean of the words around it, or, of
        skip-gram, one of them."""
        hidden = vectors[self.around[:, 0]] if skip_gram else _means(vectors, self.around)
        found = np.einsum("ij,ij->i", output[self.targets], hidden)
        others = np.einsum("ikj,ij->ik", output[self.others], hidden)
        return float((np.logaddexp(0, -found) + np.logaddexp(0, others).sum(axis=1)).mean())

    def found(self, vectors: Array, output: Array) -> float:
        """The part of the missing words that are among the FIRST of the largest u_y . h, of h the mean of the words around."""
        hidden = _means(vectors, self.around[:MOST_PREDICTED])
        scores = hidden @ output.T
        wanted = scores[np.arange(len(hidden)), self.targets[:MOST_PREDICTED]]
        return float(((scores >= wanted[:, None]).sum(axis=1) <= FIRST).mean())


def _means(vectors: Array, around: Array) -> Array:
    there = (around >= 0)[..., None]
    return np.asarray((vectors[around] * there).sum(axis=1) / there.sum(axis=1), np.float32)
