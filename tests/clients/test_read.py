"""Reads of feature sets and housekeeping, on both clients."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_sets
import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from fake_server import DIM, FINGERPRINT, FakeServer, overloaded, unavailable


def fill(both: EitherClient, count: int = 10) -> list[str]:
    ids = [f"n{i}" for i in range(count)]
    both.write("birds", [str(i) for i in range(count)], ids, {"year": list(range(2000, 2000 + count))}, encoder="letters")
    return ids


def test_all_of_a_set(both: EitherClient) -> None:
    ids = fill(both)
    rows = both.read("birds")
    assert rows.ids == ids
    assert (len(rows), rows.total, rows.version) == (10, 10, 2)
    features = rows.features["pooled"]
    assert features.rows[:, 0].tolist() == list(range(10))
    assert (features.encoder, features.tap, features.fingerprint, features.granularity) == (
        "letters",
        "pooled",
        FINGERPRINT,
        "item",
    )
    assert rows.metadata == {"year": list(range(2000, 2010))}
    assert rows.inputs is None
    assert repr(rows) == "<Rows: 10 of 10 items, version 2: pooled 10 x 4; year>"


def test_a_part_of_it(both: EitherClient) -> None:
    fill(both)
    assert both.read("birds", where="year > 2006").ids == ["n7", "n8", "n9"]
    assert both.read("birds", ids=["n3", "n1", "nobody"]).ids == ["n1", "n3"]
    assert both.read("birds", ids="n3").ids == ["n3"]
    assert both.read("birds", offset=8).ids == ["n8", "n9"]
    assert both.read("birds", offset=1, limit=2).ids == ["n1", "n2"]
    bare = both.read("birds", taps=[], columns=[], limit=7)
    assert (bare.features, bare.metadata, len(bare), bare.total) == ({}, {}, 7, 10)


@pytest.mark.parametrize("nothing", [{"where": "year > 3000"}, {"ids": []}, {"offset": 99}])
def test_nothing_is_selected(both: EitherClient, server: FakeServer, nothing: dict[str, Any]) -> None:
    fill(both)
    rows = both.read("birds", inputs=True, **nothing)
    assert (rows.ids, rows.metadata, rows.inputs, rows.version) == ([], {"year": []}, [], 2)
    assert rows.features["pooled"].rows.shape == (0, DIM)
    assert list(both.read_stream("birds", **nothing)) == []
    assert server.tries["Read"] == (0 if "ids" in nothing else 2)


def test_an_older_version(both: EitherClient) -> None:
    fill(both, 3)
    before = both.set("birds").version
    both.delete("birds", "n0")
    assert both.read("birds").ids == ["n1", "n2"]
    assert both.read("birds", version=before).ids == ["n0", "n1", "n2"]


def test_parts_of_a_set_of_any_size(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    stream = both.read_stream("birds")
    assert [rows.ids for rows in stream] == [["n0", "n1", "n2"], ["n3", "n4", "n5"], ["n6", "n7", "n8"], ["n9"]]
    stream = both.read_stream("birds")
    next(stream)
    stream.close()
    assert server.cancelled.wait(10)


@pytest.mark.parametrize("refusal", [unavailable, overloaded])
@pytest.mark.parametrize("answer", [0, 1, 3, -1])
def test_a_broken_read_goes_on_where_it_was(both: EitherClient, server: FakeServer, refusal: Any, answer: int) -> None:
    """A read goes on at the version of the first reply; -1 breaks after the last one."""
    ids = fill(both)

    def plan(method: str, attempt: int, answers: int) -> Any:
        if method != "Read" or attempt > 1 or answers != answer:
            return None
        if answer > 0:
            server.sets.sets["birds"].commit({})
        return refusal()

    server.plan = plan
    assert both.read("birds").ids == ids
    assert server.tries["Read"] == (1 if answer == -1 else 2)


def test_a_broken_read_of_a_part(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    server.plan = lambda method, attempt, answers: unavailable() if method == "Read" and attempt < 4 and answers == 1 else None
    assert both.read("birds", offset=1, limit=8, where="year > 1").ids == [f"n{i}" for i in range(1, 9)]
    assert server.tries["Read"] == 3


def test_what_is_wrong_is_said(both: EitherClient, server: FakeServer) -> None:
    fill(both, 1)
    with pytest.raises(topwork.InvalidInput, match="no column of that name"):
        both.read("birds", where="wings > 2")
    with pytest.raises(topwork.NotFound, match="no set 'nobody'"):
        both.read("nobody")
    with pytest.raises(topwork.InvalidInput, match="offset is -1"):
        both.read("birds", offset=-1)
    with pytest.raises(topwork.InvalidInput, match="ids come as a float"):
        both.read("birds", ids=1.5)
    assert server.tries["Read"] == 1


def test_progress_knows_the_whole(both: EitherClient) -> None:
    fill(both, 7)
    seen: list[tuple[int, int | None]] = []
    both.read("birds", limit=5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 5), (5, 5)]


def test_a_read_in_which_nothing_moves(both: EitherClient, server: FakeServer) -> None:
    fill(both, 3)
    server.gate.clear()
    with pytest.raises(topwork.DeadlineExceeded, match=r"within 0\.3 s"):
        both.read("birds", timeout=0.3)
    assert server.cancelled.wait(10)


def test_raw_inputs(both: EitherClient) -> None:
    both.write("texts", ["a", ("b", "c")], [1, 2], encoder="letters", keep_inputs=True)
    assert both.read("texts", inputs=True).inputs == ["a", ("b", "c")]
    both.write("pictures", [b"12", np.zeros((2, 3, 3), np.uint8)], [1, 2], encoder="pictures", keep_inputs=True)
    first, second = both.read("pictures", inputs=True).inputs
    assert first == b"12"
    assert second.shape == (2, 3, 3)
    both.write("mine", vectors=np.eye(2), ids=range(2))
    assert both.read("mine", inputs=True).inputs == [None, None]


def test_deletions(both: EitherClient, server: FakeServer) -> None:
    fill(both)
    assert both.delete("birds", ["n0", "n1", "nobody"]) == 2
    assert both.delete("birds", where="year < 2005") == 3
    assert both.delete("birds", []) == 0
    assert len(both.read("birds")) == 5
    for wrong in ({}, {"ids": ["n5"], "where": "year < 1"}):
        with pytest.raises(topwork.InvalidInput, match="by ids or by a filter"):
            both.delete("birds", **wrong)
    assert server.tries["DeleteRows"] == 2


def test_sets_are_described(both: EitherClient) -> None:
    fill(both)
    both.write("arrows", ["a"], ["a"], encoder="letters", options={"truncate": True, "n": 3}, keep_inputs=True)
    assert [info.name for info in both.sets()] == ["arrows", "birds"]
    info = both.set("arrows")
    assert (info.encoder, info.modality, info.options) == ("letters", "text", {"truncate": True, "n": 3})
    assert (info.keeps_inputs, info.dtype, info.items, info.path) == (True, "float32", 1, "/sets/arrows")
    assert [tap.name for tap in info.taps] == ["pooled"]
    assert info.tap_columns == {"pooled": "features_pooled"}
    assert info.created == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    both.drop_set("arrows")
    assert [info.name for info in both.sets()] == ["birds"]
    for verb in (both.set, both.drop_set, both.read, both.versions):
        with pytest.raises(topwork.NotFound):
            verb("arrows")


def test_versions(both: EitherClient) -> None:
    fill(both)
    pinned = both.pin("birds", "first")
    assert (pinned.version, pinned.pins) == (2, ("first",))
    both.delete("birds", "n0")
    both.delete("birds", "n1")
    assert [(info.version, info.pins) for info in both.versions("birds")] == [(1, ()), (2, ("first",)), (3, ()), (4, ())]
    pruned = both.prune("birds", older_than=0)
    assert (pruned.removed, pruned.bytes) == (2, 20)
    assert [info.version for info in both.versions("birds")] == [2, 4]
    both.unpin("birds", "first")
    assert both.prune("birds", 0).removed == 1


@pytest.fixture
def rows(client: topwork.Client) -> topwork.Rows:
    """Two texts with a row a word, and every type of column."""
    features = client.embed("letters", ["one two", "three"], tap="tokens")
    pooled = client.embed("letters", ["one two", "three"])
    metadata = {
        "seen": [datetime(2024, 5, 1, tzinfo=UTC), None],
        "good": [True, False],
        "year": [1, None],
        "size": [0.5, 1.5],
        "label": ["owl", None],
        "tags": [["a", "b"], []],
    }
    client.write("mine", vectors={"tokens": features, "hidden.6": pooled}, ids=["x", "y"], metadata=metadata)
    return client.read("mine")


def test_as_an_arrow_table(rows: topwork.Rows) -> None:
    import pyarrow as pa

    table = rows.to_arrow()
    assert table.column_names[:4] == ["id", "features_tokens", "spans_tokens", "features_hidden_6"]
    assert table.schema.field("features_hidden_6").type == pa.list_(pa.float32(), DIM)
    assert table.schema.field("features_tokens").type == pa.list_(pa.list_(pa.float32(), DIM))
    assert table.schema.field("seen").type == pa.timestamp("us", "UTC")
    assert table.schema.field("tags").type == pa.list_(pa.string())
    found = table.to_pydict()
    assert [len(rows) for rows in found["features_tokens"]] == [2, 1]
    assert found["spans_tokens"][0] == [[0, 3], [0, 3]]
    assert {name: found[name] for name in rows.metadata} == rows.metadata


def test_as_a_data_frame(rows: topwork.Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = ModuleType("pandas")
    pandas.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    frame = rows.to_pandas()
    assert frame["id"] == ["x", "y"]
    assert [cell.shape for cell in frame["features_tokens"]] == [(2, DIM), (1, DIM)]
    assert [cell.shape for cell in frame["features_hidden_6"]] == [(DIM,), (DIM,)]
    assert frame["year"] == [1, None]


def test_as_tensors(rows: topwork.Rows) -> None:
    import torch

    tensors = rows.to_torch()
    assert tensors["features_tokens"].shape == (3, DIM)
    assert tensors["counts_tokens"].tolist() == [2, 1]
    assert tensors["good"].dtype == torch.bool
    assert tensors["size"].tolist() == [0.5, 1.5]
    assert (tensors["id"], tensors["year"], tensors["label"]) == (["x", "y"], [1, None], ["owl", None])
    assert "counts_hidden_6" not in tensors


@pytest.mark.parametrize(("verb", "library"), [("to_arrow", "pyarrow"), ("to_pandas", "pandas"), ("to_torch", "torch")])
def test_a_library_that_is_missing(rows: topwork.Rows, monkeypatch: pytest.MonkeyPatch, verb: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(topwork.NotReady, match=f"{verb} needs {library} .*pip install {library}"):
        getattr(rows, verb)()


def test_saved_as_npz(rows: topwork.Rows, tmp_path: Path) -> None:
    rows.save(tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as saved:
        about = json.loads(str(saved["about"]))
        assert about["taps"]["hidden.6"]["column"] == "features_hidden_6"
        assert about["taps"]["tokens"]["granularity"] == "token"
        assert saved["ids"].tolist() == ["x", "y"]
        assert saved["counts_tokens"].tolist() == [2, 1]
        np.testing.assert_array_equal(saved["features_tokens"], rows.features["tokens"].rows)
        assert saved["metadata_seen"].tolist() == [datetime(2024, 5, 1), None]
        assert (saved["metadata_year"].tolist(), saved["missing_year"].tolist()) == ([1, 0], [False, True])
        assert saved["metadata_tags"].tolist() == ['["a", "b"]', "[]"]
        assert "missing_size" not in saved
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.npz"]


def test_saved_as_parquet(rows: topwork.Rows, tmp_path: Path) -> None:
    from pyarrow import parquet

    rows.save(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.to_pydict() == rows.to_arrow().to_pydict()
    assert json.loads(table.schema.metadata[b"topwork"])["version"] == rows.version
    with pytest.raises(topwork.InvalidInput, match=r"end it in \.npz, \.parquet"):
        rows.save(tmp_path / "rows.txt")


def test_saved_as_jsonl_csv_and_npy(rows: topwork.Rows, tmp_path: Path) -> None:
    rows.save(tmp_path / "rows.jsonl")
    first, second = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (first["id"], first["metadata"]["seen"], second["metadata"]["year"]) == ("x", "2024-05-01T00:00:00+00:00", None)
    np.testing.assert_array_equal(first["features"]["tokens"], rows.features["tokens"].of(0))
    rows.save(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert (table[0]["label"], table[1]["label"], table[0]["tags"], table[1]["good"]) == ("owl", "", '["a", "b"]', "false")
    np.testing.assert_allclose(json.loads(table[0]["features_hidden_6"]), rows.features["hidden.6"].of(0)[0])
    with pytest.raises(topwork.InvalidInput, match="one tap, not 2"):
        rows.save(tmp_path / "rows.npy")


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".npy", ".jsonl", ".csv"])
def test_a_set_goes_into_a_file_part_by_part(both: EitherClient, server: FakeServer, tmp_path: Path, suffix: str) -> None:
    """As if all of it were read and then saved; a break in between is met."""
    fill(both)
    server.plan = lambda method, attempt, answers: unavailable() if method == "Read" and attempt == 2 and answers == 2 else None
    both.read("birds").save(tmp_path / f"whole{suffix}")
    seen: list[Any] = []
    saved = both.export_set("birds", tmp_path / f"parts{suffix}", progress=lambda *done: seen.append(done))
    assert (saved.items, saved.total, saved.version, saved.rows) == (10, 10, 2, {"pooled": (10, DIM)})
    assert saved.bytes == (tmp_path / f"parts{suffix}").stat().st_size
    assert seen[-1] == (10, 10)
    assert contents(tmp_path / f"parts{suffix}") == contents(tmp_path / f"whole{suffix}")
    both.export_set("birds", tmp_path / f"none{suffix}", where="year > 3000")
    assert len(list(tmp_path.iterdir())) == 3


def contents(path: Path) -> Any:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path)
        return table.to_pydict(), table.schema.metadata
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as saved:
            return {name: (saved[name].dtype, saved[name].tolist()) for name in saved.files}
    return np.load(path).tolist() if path.suffix == ".npy" else path.read_text()


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".npy", ".jsonl", ".csv"])
def test_what_is_interrupted_leaves_no_file(client: topwork.Client, tmp_path: Path, suffix: str) -> None:
    fill(client)
    target = tmp_path / f"a{suffix}"
    target.write_text("what was there")

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.export_set("birds", target, progress=interrupt)
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(target, "what was there")]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_set_that_goes_into_a_file_is_not_held_in_memory(
    client: topwork.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    """48 parts of half a MB each: what lives at a time is a few of them."""
    monkeypatch.setattr(fake_sets, "BLOCK", 5)
    client.write("wide", vectors=np.zeros((240, 25_000), np.float32), ids=list(range(240)))
    tracemalloc.start()
    try:
        client.export_set("wide", tmp_path / f"a{suffix}", progress=lambda *done: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6, f"{peak / 1e6:.0f} MB"


def test_inputs_in_tables(client: topwork.Client, tmp_path: Path) -> None:
    def inputs(set: str, items: list[Any], encoder: str) -> Iterator[Any]:
        client.write(set, items, list(range(len(items))), encoder=encoder, keep_inputs=True)
        read = client.read(set, inputs=True)
        yield read
        yield read.to_arrow()["input"].to_pylist()

    texts, column = inputs("texts", ["a", "bb"], "letters")
    assert column == ["a", "bb"]
    texts.save(tmp_path / "texts.npz")
    assert np.load(tmp_path / "texts.npz")["inputs"].tolist() == ["a", "bb"]
    pairs, column = inputs("pairs", ["a", ("b", "c")], "letters")
    assert column == [{"text": "a", "pair": None}, {"text": "b", "pair": "c"}]
    with pytest.raises(topwork.InvalidInput, match="other than texts"):
        pairs.save(tmp_path / "pairs.npz")
    assert next(iter(reversed(list(inputs("pictures", [b"1", b"22"], "pictures"))))) == [b"1", b"22"]
    client.write("arrays", [np.zeros(2, np.float32)], ["a"], encoder="arrays", keep_inputs=True)
    with pytest.raises(topwork.InvalidInput, match="arrays do not go into a table"):
        client.read("arrays", inputs=True).to_arrow()


def test_a_version_is_named_by_its_pin(both: EitherClient, server: FakeServer) -> None:
    both.write("p", ["a"], ["1"], encoder="letters")
    pinned = both.pin("p", "before").version
    both.write("p", ["b"], ["2"], encoder="letters")
    assert both.read("p", version="before").version == pinned
    assert [rows.version for rows in both.read_stream("p", version=str(pinned))] == [pinned]
    with pytest.raises(topwork.NotFound, match="its pins: before"):
        both.read("p", version="after")
