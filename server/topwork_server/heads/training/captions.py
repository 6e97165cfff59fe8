"""Captions as what an alignment learns: vectors of length 1 in the space of a text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.errors import InvalidInput
from topwork_server.heads.pair_features import Encode
from topwork_server.types import Array

#: Shorter vectors have no direction.
SHORTEST = 1e-6


@dataclass(frozen=True)
class CaptionVectors:
    """(dim,) float32 of length 1 for each caption, and why the others have none."""

    vectors: Mapping[str, Array]
    refused: Mapping[str, str]

    @classmethod
    def of(cls, captions: Iterable[str], encode: Encode, report: Report) -> CaptionVectors:
        """Encode different captions. One that the encoder does not take, or to which it gives a vector of length 0, has none."""
        texts, failures = sorted(set(captions)), dict[int, InvalidInput]()
        [rows] = encode(texts, report, failures).values()
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        usable = lengths > SHORTEST
        units = (rows / np.where(usable, lengths, 1)[:, None]).astype(np.float32)
        why = dict.fromkeys(np.flatnonzero(~usable).tolist(), "it has no direction in the space of the texts")
        why |= {at: error.message for at, error in failures.items()}
        return cls({texts[at]: units[at] for at in np.flatnonzero(usable)}, {texts[at]: reason for at, reason in why.items()})

    def rows(self, captions: Sequence[str]) -> Array:
        """Give (n, dim) float32; equal captions have equal rows."""
        return np.stack([self.vectors[caption] for caption in captions])


def first_of_each(captions: Sequence[str]) -> Array:
    """Give for each caption the position of the first equal one, (n,) int64."""
    _, first, several = np.unique(np.array(captions, object).astype(str), return_index=True, return_inverse=True)
    return np.asarray(first[several.ravel()], np.int64)
