"""An encoder with a tower for each of two modalities, as the engine and the catalog have it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passes import of_encoder
from topwork_server import EncoderSpec, ImageItem, Modality, TextItem, Trunk
from topwork_server.config import Config
from topwork_server.errors import ExportFailed, InvalidInput, NotFound, TopworkError
from topwork_server.inference import model_cache
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.runtime.export import publish_towers
from topwork_server.runtime.session_factory import open_session
from topwork_server.types import VideoItem
from toy_towers import COLORS, ColorWords, colors_spec, picture
from toys import FakePlugins, letters_spec

PICTURES = [ImageItem(picture(color)) for color in COLORS.values()]
TEXTS = [TextItem(text) for text in COLORS]


class Stranger(ColorWords):
    """A tower whose taps do not go with the other's."""

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        trunk = super().export(spec, assets, out)
        return replace(trunk, taps=(trunk.taps[0], replace(trunk.taps[1], name=spec.settings["tap"])))


def export(home: Path, spec: EncoderSpec) -> Catalog:
    publish_towers(home, spec, lambda tower: Path())
    return Catalog(FakePlugins([spec, letters_spec()]), home)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    export(folder, colors_spec())
    return folder


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    catalog = export(home, colors_spec())
    with asyncio.Runner() as runner:
        made = Engine(catalog, Config(home=home, provider="cpu"))
        made.call = lambda *items, **more: runner.run(made.embed(EmbedParams(of_encoder("colors"), **more), items))  # type: ignore[attr-defined]
        yield made
        runner.run(made.close())


def failure(engine: Any, *items: Any, **more: Any) -> TopworkError:
    with pytest.raises(TopworkError) as caught:
        engine.call(*items, **more)
    return caught.value


def test_a_tower_that_does_not_open_leaves_none_open(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: Path, *rest: Any) -> Any:
        if len(folders := {*seen, folder.parent}) > 1:
            raise MemoryError(f"no room for {len(folders)}")
        seen.add(folder.parent)
        return open_session(folder, *rest)

    seen: set[Path] = set()
    monkeypatch.setattr(model_cache, "open_session", opened)
    before = set(threading.enumerate())
    with pytest.raises(MemoryError, match="no room"):
        engine.call(TEXTS[0])
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("session")]
    monkeypatch.undo()
    assert len(engine.call(TEXTS[0]).taps[0].rows) == 1


def test_items_of_both_modalities_come_back_in_order_as_each_alone(engine: Any) -> None:
    mixed = engine.call(TEXTS[2], PICTURES[0], PICTURES[2], TEXTS[0], np.full((5, 5, 3), 255, np.uint8)).taps[0]
    alone = [engine.call(item).taps[0] for item in (TEXTS[2], PICTURES[0], PICTURES[2], TEXTS[0])]
    np.testing.assert_array_equal(mixed.rows[:4], np.concatenate([one.rows for one in alone]))
    np.testing.assert_allclose(mixed.rows[4], 1)
    assert mixed.counts.tolist() == [1] * 5
    assert {one.tap.fingerprint for one in alone} == {mixed.tap.fingerprint}
    towers = {tower.encoder.spec.modality: tower.batcher.counters["samples"] for tower in engine.loaded_encoder("colors").towers}
    assert towers == {Modality.IMAGE: 5, Modality.TEXT: 4}, "each in its own queue"


def test_texts_and_pictures_of_a_color_are_near(engine: Any) -> None:
    texts, pictures = engine.call(*TEXTS).taps[0].rows, engine.call(*PICTURES).taps[0].rows
    assert (texts @ pictures.T).argmax(1).tolist() == [0, 1, 2]


def test_a_tap_of_one_tower_has_spans_and_is_refused_for_the_other_modality(engine: Any) -> None:
    found = engine.call(TEXTS[0], TextItem("gb"), taps=("letters", "mean"))
    assert [tap.counts.tolist() for tap in found.taps] == [[3, 2], [1, 1]]
    assert found.taps[0].spans.kind == "chars"
    error = failure(engine, TEXTS[0], PICTURES[0], taps=("letters",))
    assert (type(error), error.item) == (InvalidInput, 1)
    assert "letters" in error.message
    assert "mean" in error.remedy
    skipped = engine.call(PICTURES[0], TEXTS[0], taps=("letters",), skip_bad_items=True)
    assert (skipped.taps[0].counts.tolist(), list(skipped.failures)) == ([0, 3], [0])
    assert len(skipped.taps[0].spans.values) == 3


def test_taps_that_no_tower_has_together_are_refused(engine: Any) -> None:
    error = failure(engine, TEXTS[0], taps=("letters", "cells"))
    assert isinstance(error, InvalidInput)
    assert "cells of pictures" in error.message
    assert isinstance(failure(engine, TEXTS[0], taps=("tokens",)), NotFound)


def test_what_no_tower_reads_is_refused_or_skipped(engine: Any) -> None:
    error = failure(engine, TEXTS[0], VideoItem(b"film"))
    assert (type(error), error.item) == (InvalidInput, 1)
    assert "pictures and texts" in error.message
    found = engine.call(VideoItem(b"film"), TEXTS[0], skip_bad_items=True)
    assert (list(found.failures), found.taps[0].counts.tolist()) == ([0], [0, 1])
    nothing = engine.call(VideoItem(b"film"), skip_bad_items=True)
    assert (list(nothing.failures), nothing.taps[0].rows.shape) == ([0], (0, 3))
    assert engine.call().taps[0].rows.shape == (0, 3)


def test_a_bad_item_has_its_position_among_all(engine: Any) -> None:
    items = [PICTURES[0], TEXTS[0], PICTURES[1], TextItem(""), ImageItem(b"no picture")]
    assert failure(engine, *items[:4]).item == 3
    assert failure(engine, *items[:3], items[4]).item == 3
    found = engine.call(*items, skip_bad_items=True)
    assert sorted(found.failures) == [3, 4]
    assert {found.failures[i].item for i in found.failures} == {3, 4}
    assert found.taps[0].counts.tolist() == [1, 1, 1, 0, 0]


def test_options_go_to_the_tower_that_has_them(engine: Any) -> None:
    found = engine.call(TextItem("RB"), PICTURES[0], options={"case": "lower"}).taps[0].rows
    np.testing.assert_allclose(found[0], [0.505, 0.01, 0.505], atol=1e-6)
    assert "unknown option" in failure(engine, PICTURES[0], options={"size": 3}).message
    assert "case" in failure(engine, PICTURES[0], options={"case": "upper"}).message


def test_it_is_loaded_and_unloaded_as_one(engine: Any) -> None:
    engine.call(TEXTS[0])
    loaded = engine.loaded_encoder("colors")
    assert (len(loaded.towers), loaded.counters["samples"], loaded.serving) == (2, 1, True)
    assert engine.unload("colors")
    assert engine.loaded_encoder("colors") is None


def test_the_fingerprint_of_the_space_is_of_both_towers(tmp_path: Path, home: Path) -> None:
    def fingerprints(spec: EncoderSpec) -> dict[str, str]:
        manifest = export(tmp_path, spec).entry("colors").manifest
        assert manifest is not None
        return {info.tap.name: info.fingerprint for info in manifest.taps}

    known = fingerprints(colors_spec())
    assert sorted(known) == ["cells", "letters", "mean"]
    changed = {"pictures": fingerprints(colors_spec(pictures=2)), "words": fingerprints(colors_spec(words=2))}
    assert len({known["mean"], changed["pictures"]["mean"], changed["words"]["mean"]}) == 3
    assert (changed["pictures"]["letters"], changed["words"]["cells"]) == (known["letters"], known["cells"])


def test_the_catalog_has_one_entry_for_both(home: Path) -> None:
    entry = export(home, colors_spec()).entry("colors")
    assert entry.manifest is not None
    assert (entry.state, entry.manifest.parameters, set(entry.manifest.parity)) == (
        *(EncoderState.READY, 1 + 3 * 128),
        {"mean", "cells", "letters"},
    )
    assert [tower.spec.modality for tower in entry.towers] == [Modality.IMAGE, Modality.TEXT]
    assert entry.tower_with("letters").spec.modality is Modality.TEXT


def test_deleting_it_deletes_the_artifacts_of_both(tmp_path: Path) -> None:
    catalog = export(tmp_path, colors_spec())
    assert len(list((tmp_path / "artifacts").glob("colors-*"))) == 2
    assert not catalog.unused_artifacts()
    catalog.delete("colors")
    assert not list((tmp_path / "artifacts").glob("colors-*"))
    assert catalog.entry("colors").state is EncoderState.FETCHED


def test_an_export_that_was_interrupted_between_the_towers_goes_on(tmp_path: Path) -> None:
    whole = export(tmp_path, colors_spec()).entry("colors")
    text = whole.towers[1].folder
    assert text is not None
    shutil.rmtree(text)
    catalog = Catalog(FakePlugins([colors_spec()]), tmp_path)  # type: ignore[arg-type]
    half = catalog.entry("colors")
    assert (half.state, half.manifest, half.folder) == (EncoderState.FETCHED, None, None)
    assert export(tmp_path, colors_spec()).entry("colors").manifest == whole.manifest


@pytest.mark.parametrize(
    ("tap", "default", "why"),
    [("cells", "mean", "several of them have a tap cells"), ("more", "cells", "not each"), ("cells", "cells", "row a|a cell")],
)
def test_towers_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path, tap: str, default: str, why: str) -> None:
    text = EncoderSpec("colors", Stranger, "none:", Modality.TEXT, default_tap="mean", settings={"tap": tap})
    with pytest.raises(ExportFailed, match=why):
        export(tmp_path, replace(colors_spec(), other_towers=(text,), default_tap=default))
    assert not list((tmp_path / "artifacts").glob("colors-*"))
