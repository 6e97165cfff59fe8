"""What every encoder promises of `preprocess_many`: to the bit what `preprocess` gives of each item, errors too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from topwork_server import Encoder, Item, Sample
from topwork_server.types import Array


def check_batch(encoder: Encoder, items: Sequence[Item], options: Any) -> None:
    """Raises AssertionError where one item comes out otherwise than alone."""
    for item, found in zip(items, encoder.preprocess_many(items, options), strict=True):
        try:
            expected: list[Sample] | Exception = list(encoder.preprocess(item, options))
        except Exception as error:
            expected = error
        if isinstance(expected, Exception) or isinstance(found, Exception):
            assert (type(found), str(found)) == (type(expected), str(expected))
        else:
            for one, other in zip(expected, found, strict=True):
                same(one, other)


def same(one: Sample, other: Sample) -> None:
    """Equal to the bit, dtypes and shapes too."""
    assert list(one.inputs) == list(other.inputs)
    assert (one.window, one.box, one.notes) == (other.window, other.box, other.notes)
    assert (one.tokens is None) == (other.tokens is None)
    for expected, found in zip(_arrays(one), _arrays(other), strict=True):
        assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
        np.testing.assert_array_equal(np.ascontiguousarray(found).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


def _arrays(sample: Sample) -> list[Array]:
    spans = [sample.tokens.positions, sample.tokens.chars, sample.tokens.parts] if sample.tokens else []
    return [*sample.inputs.values(), *spans]
