"""Captions as what an alignment learns: vectors of length 1 in the space of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.errors import InvalidInput
from topwork_server.heads.pair_features import Encode
from topwork_server.types import Array

#: Shorter vectors have no direction.
SHORTEST = 1e-6


def caption_vectors(captions: Sequence[str], ids: Sequence[str], encode: Encode, report: Report) -> Array:
    """Encode captions to (n, dim) float32 of length 1; equal ones have equal rows. InvalidInput names the item of one that the
    encoder does not take, or that has a vector of length 0."""
    first, several = _numbered(captions)
    texts = [captions[i] for i in first]
    try:
        [rows] = encode(texts, report).values()
    except InvalidInput as error:
        whose = f"the caption of item {ids[first[error.item]]!r}: " if error.item is not None else ""
        raise InvalidInput(f"{whose}{error.message}", remedy=error.remedy) from None
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    for at in np.flatnonzero(~(lengths > SHORTEST))[:1]:
        raise InvalidInput(
            f"the caption of item {ids[first[at]]!r} has no direction in the text encoder's space: {texts[at]!r:.100}",
            remedy="write another caption, or choose another text encoder",
        )
    return np.asarray((rows / lengths[:, None])[several], np.float32)


def first_of_each(captions: Sequence[str]) -> Array:
    """Give for each caption the position of the first equal one, (n,) int64."""
    first, several = _numbered(captions)
    return first[several]


def _numbered(captions: Sequence[str]) -> tuple[Array, Array]:
    """The positions of different captions, and the number of each among them."""
    _, first, several = np.unique(np.array(captions, object).astype(str), return_index=True, return_inverse=True)
    return np.asarray(first, np.int64), np.asarray(several.ravel(), np.int64)
