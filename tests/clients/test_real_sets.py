"""Both clients against the real server with a toy encoder: what they write they read, search and follow, as the fake says."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from topwork_server.inference.engine import Engine
from topwork_server.types import Priority

TEXTS = ["an owl", "a wren", "a kite in the wind", "zzzz"]
ROWS = [
    {"year": 2020, "label": "owl", "seen": datetime(2024, 5, 1, tzinfo=UTC)},
    {"year": 2021, "tags": ["small", "brown"]},
    {"year": 2022, "label": "kite", "good": True},
    {"size": 0.5},
]


def fill(real_both: EitherClient, **settings: object) -> topwork.WriteReport:
    return real_both.write("birds", TEXTS, ["a", "b", "c", "d"], ROWS, encoder="letters", **settings)


def test_what_is_written_is_read(real_both: EitherClient) -> None:
    report = fill(real_both, keep_inputs=True)
    assert (report.items, report.inserted, report.updated, report.failures) == (4, 4, 0, {})
    again = fill(real_both)
    assert (again.inserted, again.unchanged, again.encoded) == (0, 4, 0)
    rows = real_both.read("birds", inputs=True)
    assert rows.ids == ["a", "b", "c", "d"]
    assert rows.inputs == TEXTS
    for name in ("year", "label", "seen", "tags", "good", "size"):
        assert rows.metadata[name] == [row.get(name) for row in ROWS]
    alone = real_both.embed("letters", TEXTS)
    np.testing.assert_allclose(rows.features[alone.tap].rows, alone.rows, atol=1e-6)  # known texts were in another batch
    assert rows.features[alone.tap].fingerprint == alone.fingerprint
    assert rows.features[alone.tap].numerics == alone.numerics


def test_parts_and_versions(real_both: EitherClient, tmp_path: Path) -> None:
    fill(real_both)
    first = real_both.pin("birds", "first").version
    assert real_both.read("birds", where="year > 2020").ids == ["b", "c"]
    assert real_both.read("birds", ids=["d", "a", "nobody"], offset=1).ids == ["d"]
    assert [rows.ids for rows in real_both.read_stream("birds", limit=3)] == [["a", "b", "c"]]
    empty = real_both.read("birds", where="year > 3000")
    assert (empty.ids, empty.total) == ([], 0)
    assert empty.to_arrow().num_rows == 0
    assert real_both.read("birds", ids=[]).to_arrow().schema == empty.to_arrow().schema
    with pytest.raises(topwork.InvalidInput, match="wings"):
        real_both.read("birds", where="wings = 2")
    assert real_both.delete("birds", ["a", "nobody"]) == 1
    assert real_both.delete("birds", where="label = 'kite'") == 1
    assert real_both.read("birds").ids == ["b", "d"]
    assert real_both.read("birds", version=first).ids == ["a", "b", "c", "d"]
    assert ("first",) in [info.pins for info in real_both.versions("birds")]
    real_both.prune("birds", older_than=0)
    real_both.unpin("birds", "first")
    real_both.read("birds").save(tmp_path / "birds.parquet")


def test_bad_items_and_bad_columns(real_both: EitherClient) -> None:
    fill(real_both)
    version = real_both.set("birds").version
    with pytest.raises(topwork.InvalidInput) as caught:
        real_both.write("birds", ["fine", "x\x00"], ["e", "f"], [{"year": "soon"}, {}])
    assert "year" in str(caught.value)
    assert real_both.set("birds").version == version
    with pytest.raises(topwork.NotReady, match="dtype"):
        real_both.write("birds", ["fine"], ["e"], dtype="float16")
    with pytest.raises(topwork.NotFound):
        real_both.read("nobody")
    with pytest.raises(topwork.NotReady, match="ab" * 32):
        real_both.write("birds", vectors=np.ones((1, 8)), ids=["e"], fingerprint="ab" * 32)


def test_vectors_of_any_kind(real_both: EitherClient) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    report = real_both.write("mine", vectors=vectors, ids=range(3000), metadata={"n": np.arange(3000)})
    assert report.inserted == 3000
    read = real_both.read("mine", columns=["n"], where="n >= 2990")
    np.testing.assert_array_equal(read.features["vectors"].rows, vectors[2990:])
    with pytest.raises(topwork.InvalidInput, match=r"8|\[1, 9\]"):
        real_both.write("mine", vectors=np.ones((1, 9)), ids=["x"])
    tokens = real_both.embed("letters", ["ab", "c"], tap="letters")
    real_both.write("tokens", vectors=tokens, ids=["x", "y"])
    back = real_both.read("tokens").features["letters"]
    np.testing.assert_array_equal(back.rows, tokens.rows)
    assert (back.counts.tolist(), back.span_kind) == (tokens.counts.tolist(), tokens.span_kind)
    np.testing.assert_array_equal(back.spans, tokens.spans)


def test_an_index_follows(real_both: EitherClient) -> None:
    fill(real_both)
    seen: list[topwork.Job] = []
    info = real_both.create_index("birds", kind="flat", progress=seen.append)
    assert (info.state, info.rows, info.metric) == ("ready", 4, "cosine")
    assert seen[-1].state == "done"
    assert real_both.job(info.job.id).state == "done"
    assert real_both.jobs(subject=info.job.subject)[0].id == info.job.id
    with pytest.raises(topwork.AlreadyExists):
        real_both.create_index("birds")
    hits = real_both.search("birds", "a wren", k=2)
    assert hits.ids[0] == "b"
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert hits[0].metadata["tags"] == ["small", "brown"]
    assert real_both.search("birds", stored="b", k=4).ids.count("b") == 0
    assert set(real_both.search("birds", "a wren", where="year > 2020", columns=["year"]).ids) == {"b", "c"}
    real_both.write("birds", ["a wren"], ["e"])
    real_both.delete("birds", "b")
    assert real_both.search("birds", "a wren", k=1, columns=[]).ids == ["e"]
    vector = real_both.embed("letters", ["a wren"])
    [found] = real_both.search("birds", vectors=vector, k=1, with_vectors=True)
    np.testing.assert_allclose(found.vectors, vector.rows, rtol=1e-6)
    with pytest.raises(topwork.NotReady, match="fingerprint"):
        real_both.search("birds", vectors=vector.rows, fingerprint="ab" * 32)
    assert "flat" in [kind.kind for kind in real_both.index_kinds()]
    assert real_both.set("birds").indexes == (info.name,)
    real_both.drop_index("birds", info.name)
    assert real_both.indexes("birds") == []


def test_writes_and_predictions_have_a_priority(real_both: EitherClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    embed = Engine.embed

    async def noted(self: Engine, ask: Any, items: Any) -> Any:
        asked.append(ask.priority)
        return await embed(self, ask, items)

    monkeypatch.setattr(Engine, "embed", noted)
    one, two, three = (uuid.uuid4().hex for _ in range(3))  # none that the cache knows
    real_both.write("birds", [one], ["1"], encoder="letters", priority="low")
    real_both.write("birds", [two], ["2"], priority="high")
    real_both.write("birds", [three], ["3"])
    assert asked == [Priority.LOW, Priority.HIGH, Priority.NORMAL]
    with pytest.raises(topwork.InvalidInput, match="no priority 'soon'"):
        real_both.write("birds", ["four"], ["4"], priority="soon")
