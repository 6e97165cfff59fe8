"""Batches are padded to a few shapes, and nothing of the padding is seen."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server.runtime.gpu import shape_buckets
from topwork_server.runtime.gpu.shape_buckets import (
    MOST_ROWS,
    ROWS,
    ROWS_STEP,
    TOKENS,
    TOKENS_STEP,
    ShapeBuckets,
    pad_into,
    round_up,
)

TEXT = ShapeBuckets.of_axes(
    {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")},
    {"pooled": ("batch", 384), "hidden.1": ("batch", "rows", 384)},
)
PICTURES = ShapeBuckets.of_axes({"pictures": ("batch", 3, 224, 224)}, {"pooled": ("batch", 1024), "layer1": ("batch", 3136, 128)})
CLIPS = ShapeBuckets.of_axes({"clips": ("batch", 3, "2*halves", 224, 224)}, {"pooled": ("batch", 1024)})


@pytest.mark.parametrize("steps", [(ROWS, ROWS_STEP), (TOKENS, TOKENS_STEP)])
def test_a_bucket_holds_what_is_put_into_it_and_not_much_more(steps: tuple[tuple[int, ...], int]) -> None:
    found = [round_up(*steps, count) for count in range(1, 1025)]
    assert all(bucket >= count for count, bucket in enumerate(found, 1))
    assert found == sorted(found)
    assert all(round_up(*steps, bucket) == bucket for bucket in found)
    assert max(bucket / count for count, bucket in enumerate(found, 1) if count >= 16) <= 1.5
    assert len(set(found)) < 50


def test_rows_and_tokens_of_texts_are_padded_together() -> None:
    padded = TEXT.padded({"input_ids": (5, 21), "attention_mask": (5, 21)})
    assert padded == {"input_ids": (6, 24), "attention_mask": (6, 24)}
    assert TEXT.token_count({"input_ids": (5, 21)}) == 21


def test_only_rows_are_padded_where_no_mask_says_what_is_real() -> None:
    assert PICTURES.padded({"pictures": (5, 3, 224, 224)}) == {"pictures": (6, 3, 224, 224)}
    assert CLIPS.padded({"clips": (5, 3, 18, 224, 224)}) == {"clips": (6, 3, 18, 224, 224)}
    assert CLIPS.token_count({"clips": (5, 3, 18, 224, 224)}) is None


def test_an_axis_that_the_graph_fixes_is_left_alone() -> None:
    assert ShapeBuckets.of_axes({"x": (5, 3)}, {}).padded({"x": (5, 3)}) == {"x": (5, 3)}


def test_a_length_beyond_the_longest_keeps_its_own_shape() -> None:
    short = ShapeBuckets(TEXT.inputs, TEXT.outputs, TEXT.tokens, longest=95)
    assert short.padded({"input_ids": (1, 65)}) == {"input_ids": (1, 65)}
    assert short.padded({"input_ids": (1, 33)}) == {"input_ids": (1, 40)}


def test_rows_and_tokens_of_padding_are_cut_from_outputs() -> None:
    assert TEXT.remove_padding("pooled", np.zeros((6, 384)), 5, 21).shape == (5, 384)
    assert TEXT.remove_padding("hidden.1", np.zeros((6, 24, 384)), 5, 21).shape == (5, 21, 384)
    assert PICTURES.remove_padding("layer1", np.zeros((6, 3136, 128)), 5, None).shape == (5, 3136, 128)


def test_rows_of_padding_are_real_rows_and_tokens_of_padding_are_masked() -> None:
    target = np.full((3, 4), 9)
    pad_into(target, np.array([[1, 2], [3, 4]]))
    assert target.tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [1, 2, 0, 0]]


def test_a_batch_beyond_the_most_rows_runs_in_parts_and_comes_back_whole() -> None:
    feeds = {"x": np.arange(2 * MOST_ROWS + 3)[:, None]}
    pieces = shape_buckets.split_rows(feeds)
    assert [len(piece["x"]) for piece in pieces] == [MOST_ROWS, MOST_ROWS, 3]
    (joined,) = shape_buckets.concat_outputs([[piece["x"]] for piece in pieces])
    assert (joined == feeds["x"]).all()
