"""What an encoder does that overrides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topwork_server import Encoder, EncoderSpec, InvalidInput, Item, Modality, Sample, TextItem, Trunk


class Lengths(Encoder):
    """Refuses the empty text, and counts what it has begun."""

    begun = 0

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        raise NotImplementedError

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        assert isinstance(item, TextItem)
        self.begun += 1
        if not item.text:
            raise InvalidInput("empty")
        return [Sample({"length": np.full((2, 3), len(item.text)).T})]


@pytest.fixture
def encoder(tmp_path: Path) -> Lengths:
    return Lengths(EncoderSpec("lengths", Lengths, "file:/none", Modality.TEXT), tmp_path)


def test_an_item_that_is_refused_leaves_the_others(encoder: Lengths) -> None:
    first, refused, last = encoder.preprocess_many([TextItem("a"), TextItem(""), TextItem("abc")], None)
    assert isinstance(refused, InvalidInput)
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)
    assert [int(sample.inputs["length"][0, 0]) for sample in (*first, *last)] == [1, 3]


def test_items_are_prepared_as_they_are_taken(encoder: Lengths) -> None:
    made = iter(encoder.preprocess_many([TextItem("a")] * 5, None))
    next(made)
    assert encoder.begun == 1


def test_one_sample_makes_the_batch_that_it_makes_with_others(encoder: Lengths) -> None:
    samples = [sample for text in ("a", "abc") for sample in encoder.preprocess(TextItem(text), None)]
    alone, together = encoder.collate(samples[:1])["length"], encoder.collate(samples)["length"]
    assert alone.shape == (1, 3, 2)
    assert alone.flags.c_contiguous
    np.testing.assert_array_equal(alone[0], together[0])


def test_a_sample_may_have_a_number_of_its_own(encoder: Lengths) -> None:
    samples = [Sample({"scale": np.array(2.0)})]
    assert encoder.collate(samples)["scale"].shape == (1,)
    assert encoder.collate(samples * 2)["scale"].shape == (2,)
