"""Both clients against the real server with a toy encoder: what they write they read, search and follow, as the fake says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_server
import sets_world
import topwork
from doors import Door, OpenDoor
from topwork_server.inference.engine import Engine
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.types import Priority
from toys import FakePlugins

TEXTS = ["an owl", "a wren", "a kite in the wind", "zzzz"]
ROWS = [
    {"year": 2020, "label": "owl", "seen": datetime(2024, 5, 1, tzinfo=UTC)},
    {"year": 2021, "tags": ["small", "brown"]},
    {"year": 2022, "label": "kite", "good": True},
    {"size": 0.5},
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = sets_world.lent(tmp_path_factory.mktemp("home") / "home", sets_world.export(tmp_path_factory.mktemp("exported")))
    plugins = FakePlugins(sets_world.SPECS, [found.spec for found in PluginRegistry.load().indexes().values()])
    with real_server.served(home, plugins) as address:
        yield address


@pytest.fixture(params=["Client", "AsyncClient"])
def both(request: pytest.FixtureRequest, target: str, runner: asyncio.Runner) -> Iterator[OpenDoor]:
    door = Door(request.param == "AsyncClient", target, runner)
    client = door.open()
    yield client
    for info in client.sets():
        client.drop_set(info.name)
    door.close()


def fill(both: OpenDoor, **settings: object) -> topwork.WriteReport:
    return both.write("birds", TEXTS, ["a", "b", "c", "d"], ROWS, encoder="letters", **settings)


def test_what_is_written_is_read(both: OpenDoor) -> None:
    report = fill(both, keep_inputs=True)
    assert (report.items, report.inserted, report.updated, report.failures) == (4, 4, 0, {})
    again = fill(both)
    assert (again.inserted, again.unchanged, again.encoded) == (0, 4, 0)
    rows = both.read("birds", inputs=True)
    assert rows.ids == ["a", "b", "c", "d"]
    assert rows.inputs == TEXTS
    for name in ("year", "label", "seen", "tags", "good", "size"):
        assert rows.metadata[name] == [row.get(name) for row in ROWS]
    alone = both.embed("letters", TEXTS)
    np.testing.assert_array_equal(rows.features[alone.tap].rows, alone.rows)
    assert rows.features[alone.tap].fingerprint == alone.fingerprint
    assert rows.features[alone.tap].numerics == alone.numerics


def test_parts_and_versions(both: OpenDoor, tmp_path: Path) -> None:
    fill(both)
    first = both.pin("birds", "first").version
    assert both.read("birds", where="year > 2020").ids == ["b", "c"]
    assert both.read("birds", ids=["d", "a", "nobody"], offset=1).ids == ["d"]
    assert [rows.ids for rows in both.read_stream("birds", limit=3)] == [["a", "b", "c"]]
    empty = both.read("birds", where="year > 3000")
    assert (empty.ids, empty.total) == ([], 0)
    assert empty.to_arrow().num_rows == 0
    assert both.read("birds", ids=[]).to_arrow().schema == empty.to_arrow().schema
    with pytest.raises(topwork.InvalidInput, match="wings"):
        both.read("birds", where="wings = 2")
    assert both.delete("birds", ["a", "nobody"]) == 1
    assert both.delete("birds", where="label = 'kite'") == 1
    assert both.read("birds").ids == ["b", "d"]
    assert both.read("birds", version=first).ids == ["a", "b", "c", "d"]
    assert ("first",) in [info.pins for info in both.versions("birds")]
    both.prune("birds", older_than=0)
    both.unpin("birds", "first")
    both.read("birds").save(tmp_path / "birds.parquet")


def test_bad_items_and_bad_columns(both: OpenDoor) -> None:
    fill(both)
    version = both.set("birds").version
    with pytest.raises(topwork.InvalidInput) as caught:
        both.write("birds", ["fine", "x\x00"], ["e", "f"], [{"year": "soon"}, {}])
    assert "year" in str(caught.value)
    assert both.set("birds").version == version
    with pytest.raises(topwork.NotReady, match="dtype"):
        both.write("birds", ["fine"], ["e"], dtype="float16")
    with pytest.raises(topwork.NotFound):
        both.read("nobody")
    with pytest.raises(topwork.NotReady, match="ab" * 32):
        both.write("birds", vectors=np.ones((1, 8)), ids=["e"], fingerprint="ab" * 32)


def test_vectors_of_any_kind(both: OpenDoor) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    report = both.write("mine", vectors=vectors, ids=range(3000), metadata={"n": np.arange(3000)})
    assert report.inserted == 3000
    read = both.read("mine", columns=["n"], where="n >= 2990")
    np.testing.assert_array_equal(read.features["vectors"].rows, vectors[2990:])
    with pytest.raises(topwork.InvalidInput, match=r"8|\[1, 9\]"):
        both.write("mine", vectors=np.ones((1, 9)), ids=["x"])
    tokens = both.embed("letters", ["ab", "c"], tap="letters")
    both.write("tokens", vectors=tokens, ids=["x", "y"])
    back = both.read("tokens").features["letters"]
    np.testing.assert_array_equal(back.rows, tokens.rows)
    assert (back.counts.tolist(), back.span_kind) == (tokens.counts.tolist(), tokens.span_kind)
    np.testing.assert_array_equal(back.spans, tokens.spans)


def test_an_index_follows(both: OpenDoor) -> None:
    fill(both)
    seen: list[topwork.Job] = []
    info = both.create_index("birds", kind="flat", progress=seen.append)
    assert (info.state, info.rows, info.metric) == ("ready", 4, "cosine")
    assert seen[-1].state == "done"
    assert both.job(info.job.id).state == "done"
    assert both.jobs(subject=info.job.subject)[0].id == info.job.id
    with pytest.raises(topwork.AlreadyExists):
        both.create_index("birds")
    hits = both.search("birds", "a wren", k=2)
    assert hits.ids[0] == "b"
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert hits[0].metadata["tags"] == ["small", "brown"]
    assert both.search("birds", stored="b", k=4).ids.count("b") == 0
    assert set(both.search("birds", "a wren", where="year > 2020", columns=["year"]).ids) == {"b", "c"}
    both.write("birds", ["a wren"], ["e"])
    both.delete("birds", "b")
    assert both.search("birds", "a wren", k=1, columns=[]).ids == ["e"]
    vector = both.embed("letters", ["a wren"])
    [found] = both.search("birds", vectors=vector, k=1, with_vectors=True)
    np.testing.assert_allclose(found.vectors, vector.rows, rtol=1e-6)
    with pytest.raises(topwork.NotReady, match="fingerprint"):
        both.search("birds", vectors=vector.rows, fingerprint="ab" * 32)
    assert "flat" in [kind.kind for kind in both.index_kinds()]
    assert both.set("birds").indexes == (info.name,)
    both.drop_index("birds", info.name)
    assert both.indexes("birds") == []


def test_writes_and_predictions_have_a_priority(both: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    embed = Engine.embed

    async def noted(self: Engine, ask: Any, items: Any) -> Any:
        asked.append(ask.priority)
        return await embed(self, ask, items)

    monkeypatch.setattr(Engine, "embed", noted)
    one, two, three = (uuid.uuid4().hex for _ in range(3))  # none that the cache knows
    both.write("birds", [one], ["1"], encoder="letters", priority="low")
    both.write("birds", [two], ["2"], priority="high")
    both.write("birds", [three], ["3"])
    assert asked == [Priority.LOW, Priority.HIGH, Priority.NORMAL]
    with pytest.raises(topwork.InvalidInput, match="no priority 'soon'"):
        both.write("birds", ["four"], ["4"], priority="soon")
