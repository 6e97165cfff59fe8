"""Rows that are equal as features: copies in other bytes are found, and rows that merely lie near one another are not."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.heads.training import equal_rows as module
from topwork_server.heads.training.equal_rows import equal_rows, item_means

RANDOM = np.random.default_rng(0)


def rows(count, dim):
    return np.random.default_rng(1).normal(size=(count, dim)).astype(np.float32)


COPIES = {
    "as they are": lambda x: x,
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: (x.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32),
    "rounded": lambda x: x * (1 + 1e-6 * RANDOM.normal(size=x.shape)),
    "negative zeros": lambda x: np.where(x == 0, -0.0, x),
    "multiples": lambda x: 3 * x,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dim", [8, 300])
def test_copies_are_equal_with_other_bytes(how, dim):
    x = rows(60, dim)
    x[:, 0] = 0
    x[::2, 0] = 1
    found = equal_rows(np.concatenate([x, COPIES[how](x).astype(np.float32)]))
    np.testing.assert_array_equal(found, np.tile(np.arange(60), 2))


@pytest.mark.parametrize(("offset", "scale"), [(0, 1e-20), (0, 1e20), (1e4, 1), (-1e6, 1e3)])
def test_neither_offset_nor_scale_matters(offset, scale):
    x = (offset + scale * rows(60, 16).astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(equal_rows(np.concatenate([x, x])), np.tile(np.arange(60), 2))


def test_an_outlier_does_not_make_all_others_equal():
    x = rows(50, 12)
    x[3] = 1e30
    assert len(np.unique(equal_rows(x))) == 50


def test_a_column_of_small_numbers_tells_rows_apart():
    x = np.stack([np.repeat(RANDOM.normal(size=20) * 1e6, 3), np.tile([0.1, 0.2, 0.3], 20)], axis=1).astype(np.float32)
    assert len(np.unique(equal_rows(x))) == 60


def test_dense_rows_of_one_column_are_no_single_chain():
    assert len(np.unique(equal_rows(rows(1000, 1)))) > 500


def test_multiples_of_few_columns_are_equal_for_heads_that_read_directions():
    x = rows(30, 3)
    both = np.concatenate([x, 2 * x])
    assert len(np.unique(equal_rows(both))) == 60
    assert len(np.unique(equal_rows(both, by_direction=True))) == 30


def test_rows_that_are_all_equal_stand_for_themselves():
    assert equal_rows(np.ones((5, 9), np.float32)).tolist() == [0, 1, 2, 3, 4]
    assert equal_rows(np.zeros((0, 3), np.float32)).tolist() == []
    assert equal_rows(np.ones((1, 3), np.float32)).tolist() == [0]


def test_many_copies_of_few_rows_are_found_in_a_moment():
    x = rows(10, 20)
    of = RANDOM.integers(0, 10, 5000)
    of[:10] = np.arange(10)
    noisy = x[of] * (1 + 1e-6 * RANDOM.normal(size=(5000, 20)))
    np.testing.assert_array_equal(equal_rows(noisy.astype(np.float32)), of)


def test_few_and_many_rows_are_compared_alike(monkeypatch):
    x = rows(300, 12)
    both = np.concatenate([x, x.astype(np.float16), 2 * x]).astype(np.float32)
    few = equal_rows(both)
    monkeypatch.setattr(module, "FEW", 0)
    np.testing.assert_array_equal(equal_rows(both), few)
    np.testing.assert_array_equal(few, np.tile(np.arange(300), 3))


def test_items_of_several_rows_are_told_by_their_means():
    x = rows(6, 4)
    means = item_means(x[[0, 1, 1, 0, 2]], np.array([0, 0, 1, 1, 2]), 3)
    np.testing.assert_allclose(means, [x[:2].mean(0), x[:2].mean(0), x[2]], atol=1e-6)
