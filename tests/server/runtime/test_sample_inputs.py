"""An encoder that preprocesses otherwise than when it was exported is refused when it is loaded, with what differs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from passes import of_encoder
from topwork_server import AudioItem, ImageItem, Item, Sample, TextItem, VideoItem
from topwork_server.config import Config
from topwork_server.errors import NotReady
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.runtime import sample_inputs
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.parity import ParityBatch
from toys import FakePlugins, Letters, letters_spec


class Salted(Letters):
    """Shifts each letter by what stands for the salt of `hash()`, which is another in every process."""

    salt: ClassVar[int] = 0
    most: ClassVar[int] = 1000

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        for sample in super().preprocess(item, options):
            codes = (sample.inputs["codes"][: self.most] + self.salt) % 128
            yield Sample({"codes": codes}, sample.tokens, notes=sample.notes)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    spec = letters_spec("salted", Salted)
    artifacts.publish(tmp_path, spec, lambda folder: export_encoder(spec, Path(), folder))
    return tmp_path


def embed(home: Path) -> Any:
    async def once() -> Any:
        engine = Engine(Catalog(FakePlugins([letters_spec("salted", Salted)]), home), Config(home=home, provider="cpu"))
        try:
            return await engine.embed(EmbedParams(of_encoder("salted")), [TextItem("owl")])
        finally:
            await engine.close()

    return asyncio.run(once())


def test_the_same_preprocessing_is_served(home: Path) -> None:
    assert embed(home).taps[0].rows.shape == (1, 8)


@pytest.mark.parametrize(
    ("attribute", "value", "fault"),
    [("salt", 1, r"input 'codes' has \d+ at \[0, 0\], and had \d+"), ("most", 1, r"input 'codes' is int64 \[1, 1\], and was")],
)
def test_another_one_is_refused_with_what_differs(
    home: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, fault: str
) -> None:
    monkeypatch.setattr(Salted, attribute, value)
    with pytest.raises(NotReady, match=fault) as caught:
        embed(home)
    assert "the text" in caught.value.message
    assert "hash()" in caught.value.remedy
    assert "--force" in caught.value.remedy


def test_an_artifact_without_kept_items_is_taken_as_it_is(home: Path) -> None:
    folder = artifacts.find(home, letters_spec("salted", Salted))
    assert folder is not None
    (folder / sample_inputs.FILE).unlink()
    sample_inputs.check(Salted(letters_spec("salted", Salted), folder), folder)


def test_every_form_of_item_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    kept = [
        TextItem("a \ud800 b", "\N{OWL}"),
        TextItem(""),
        ImageItem(b"\x00\xff"),
        VideoItem(b"bytes"),
        VideoItem(tmp_path / "clip.mp4"),
        AudioItem(b"wav"),
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    ]
    sample = Sample({"x": np.zeros(1)})
    batches = [ParityBatch([sample], {"x": np.full((1, 1), i)}, [(i, 0)]) for i in range(len(kept))]
    sample_inputs.save(kept, [*batches, ParityBatch([sample] * 2, {}, [(0, 0)] * 2)], tmp_path)
    found = [item for _, item, _ in sample_inputs._kept(tmp_path / sample_inputs.FILE)]
    np.testing.assert_array_equal(found.pop(), kept.pop())
    assert found == [*kept[:4], VideoItem(b"clip"), AudioItem(b"wav")]


def test_an_item_too_long_to_keep_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_inputs, "LONGEST_ITEM", 3)
    batches = [ParityBatch([Sample({})], {"x": np.zeros(1)}, [(i, 0)]) for i in range(2)]
    sample_inputs.save([TextItem("long"), TextItem("owl")], batches, tmp_path)
    assert [item for _, item, _ in sample_inputs._kept(tmp_path / sample_inputs.FILE)] == [TextItem("owl")]
