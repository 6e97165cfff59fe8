"""The likeliest of many words."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.heads.serving.word_choice import largest


@pytest.mark.parametrize("count", [1, 5, 63, 64, 65, 1000])
@pytest.mark.parametrize("k", [1, 3, 64, 1000])
def test_the_largest_are_those_of_a_whole_sort(count, k):
    rng = np.random.default_rng(count)
    for values in (rng.normal(size=count), rng.integers(0, 4, count), np.zeros(count)):
        values = values.astype(np.float32)
        expected = np.argsort(-values, kind="stable")[: min(k, count)]
        np.testing.assert_array_equal(largest(values, min(k, count)), expected)
