"""rows.py: what truncating, normalizing and quantizing do to numbers, extremes included."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.inference.output_format import OutputFormat, RowType, format_rows, normalize, pack, truncate


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(50, 37)).astype(np.float32)


def test_rows_pass_untouched_when_nothing_is_asked(rows):
    packed = format_rows(rows, OutputFormat())
    assert packed.values.dtype == np.float32
    assert np.array_equal(packed.values, rows)


def test_normalized_rows_have_unit_length_and_their_direction(rows):
    unit = normalize(rows)
    assert unit.dtype == np.float32
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.allclose(unit * np.linalg.norm(rows, axis=1, keepdims=True), rows, atol=1e-5)


@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1e30, 3e38])
def test_normalizing_survives_extreme_magnitudes(magnitude):
    unit = normalize(np.array([[magnitude, 0, 0], [magnitude, magnitude, 0]], np.float32))
    assert np.allclose(unit, [[1, 0, 0], [0.5**0.5, 0.5**0.5, 0]], atol=1e-6)


def test_a_row_of_zeros_stays_zeros():
    zeros = np.zeros((2, 9), np.float32)
    for dtype in RowType:
        packed = format_rows(zeros, OutputFormat(dtype, normalize=True))
        assert not packed.values.any()
        assert packed.scales is None or not packed.scales.any()


def test_truncation_comes_before_normalization(rows):
    packed = format_rows(rows, OutputFormat(normalize=True, dimensions=5))
    assert packed.values.shape == (50, 5)
    assert np.allclose(np.linalg.norm(packed.values, axis=1), 1, atol=1e-6)


def test_more_dimensions_than_there_are_is_refused(rows):
    with pytest.raises(InvalidInput, match="38 dimensions of a tap that has 37"):
        truncate(rows, 38)


def test_half_precision_keeps_three_digits(rows):
    packed = pack(rows, RowType.FLOAT16)
    assert packed.values.dtype == np.float16
    assert np.allclose(packed.values, rows, rtol=1e-3)


def test_what_float16_cannot_hold_is_refused_not_infinite():
    with pytest.raises(InvalidInput, match="65504") as caught:
        pack(np.array([[1.0, 7e4]], np.float32), RowType.FLOAT16)
    assert "normalized" in caught.value.remedy


def test_int8_rows_are_within_half_a_step(rows):
    packed = pack(rows, RowType.INT8)
    assert packed.values.dtype == np.int8
    assert packed.scales is not None
    assert packed.scales.dtype == np.float32
    error = np.abs(packed.values * packed.scales[:, None] - rows)
    assert (error <= packed.scales[:, None] * 0.5001).all()
    assert (np.abs(packed.values).max(axis=1) == 127).all()


@pytest.mark.parametrize("magnitude", [1.4e-45, 1.4e-43, 3.4e38])
def test_int8_never_wraps_at_extreme_magnitudes(magnitude):
    row = np.array([[magnitude, -magnitude, 0]], np.float32)
    values = pack(row, RowType.INT8).values[0].astype(int)
    assert values[0] == -values[1] >= 0
    assert values[2] == 0


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 384])
def test_binary_rows_unpack_to_their_signs(dim):
    rows = np.random.default_rng(dim).normal(size=(6, dim)).astype(np.float32)
    packed = pack(rows, RowType.BINARY)
    assert packed.values.shape == (6, (dim + 7) // 8)
    assert np.array_equal(np.unpackbits(packed.values, axis=1, count=dim).astype(bool), rows > 0)


def test_the_first_dimension_is_the_most_significant_bit():
    assert pack(np.array([[1, -1, -1]], np.float32), RowType.BINARY).values.tolist() == [[128]]


@pytest.mark.parametrize("dtype", [RowType.FLOAT16, RowType.INT8])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(dtype, bad):
    with pytest.raises(TopworkError, match="row 1"):
        pack(np.array([[1, 2], [3, bad]], np.float32), dtype)


@pytest.mark.parametrize("dtype", list(RowType))
def test_no_rows_are_no_rows(dtype):
    packed = format_rows(np.empty((0, 16), np.float32), OutputFormat(dtype, normalize=True, dimensions=8))
    assert packed.dim == 8
    assert len(packed.values) == 0
