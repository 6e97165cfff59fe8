"""Features as values and as files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import topwork
from topwork import Features, Numerics, concatenate


def features(counts: list[int], first: float = 0, dtype: str = "float32", **more: object) -> Features:
    n = sum(counts)
    rows = (np.arange(n * 3).reshape(n, 3) + first).astype({"int8": np.int8}.get(dtype, np.float32))
    made = {"encoder": "e", "tap": "t", "fingerprint": "ab" * 32, "granularity": "token", "dim": 3}
    return Features(**{**made, "rows": rows, "counts": np.array(counts), "dtype": dtype, **more})  # type: ignore[arg-type]


def full() -> Features:
    return features(
        [2, 0, 1],
        spans=np.array([[0, 1], [2, 3], [0, 4]], np.float32),
        span_kind="characters",
        parts=np.array([0, 1, 0], np.int32),
        notes={0: {"unknown_words": 2}},
        failures={1: topwork.InvalidInput("bad", remedy="fix it", item=1)},
        numerics=Numerics("cpu", "fp32", 0.9999, 1e-6),
    )


def test_rows_and_their_items() -> None:
    f = full()
    assert f.items.tolist() == [0, 0, 2]
    assert [f.of(item).tolist() for item in range(3)] == [[[0, 1, 2], [3, 4, 5]], [], [[6, 7, 8]]]
    assert f.of(-1).tolist() == [[6, 7, 8]]
    with pytest.raises(IndexError):
        f.of(3)
    assert len(f) == 3
    assert f[1].tolist() == [3, 4, 5]
    assert [row[0] for row in f] == [0, 3, 6]
    assert "3 rows of 3 float32 from 3 items, 1 failed" in repr(f)


def test_it_is_an_array() -> None:
    f = full()
    assert np.asarray(f) is not None
    assert np.shares_memory(np.asarray(f), f.rows)
    assert np.asarray(f, np.float64).dtype == np.float64
    assert (f @ np.ones(3)).tolist() == [3, 12, 21] if hasattr(f, "__matmul__") else True
    np.testing.assert_array_equal(np.linalg.norm(f, axis=1), np.linalg.norm(f.rows, axis=1))


def test_chunks_join() -> None:
    a, b = full(), full()
    joined = concatenate([a, b])
    assert joined.items.tolist() == [0, 0, 2, 3, 3, 5]
    assert joined.notes == {0: {"unknown_words": 2}, 3: {"unknown_words": 2}}
    assert sorted(joined.failures) == [1, 4]
    assert joined.spans is not None
    assert joined.spans.shape == (6, 2)
    assert concatenate([a]) is a


def test_the_weakest_numerics_hold_for_all() -> None:
    strong, weak = Numerics("a", "fp32", 1.0, 0), Numerics("b", "bf16", 0.9995, 0)
    assert concatenate([features([1], numerics=strong), features([1], numerics=weak)]).numerics == weak


def test_int8_rows_are_multiplied_by_their_scales() -> None:
    f = features([2], dtype="int8", scales=np.array([0.5, 2], np.float32))
    assert f.dequantized().tolist() == [[0, 0.5, 1], [6, 8, 10]]


def test_binary_rows_unfold() -> None:
    f = features([1], dtype="binary", rows=np.array([[0b10100000]], np.uint8))
    assert f.dequantized().tolist() == [[1, -1, 1]]


def test_npy_is_the_rows(tmp_path: Path) -> None:
    full().save(tmp_path / "f.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), full().rows)


def test_npz_is_all(tmp_path: Path) -> None:
    full().save(tmp_path / "f.npz", ["a", "b", "c"])
    with np.load(tmp_path / "f.npz") as file:
        assert set(file) == {"rows", "items", "counts", "spans", "parts", "inputs", "about"}
        assert file["inputs"][file["items"]].tolist() == ["a", "a", "c"]
        about = json.loads(str(file["about"]))
    assert about["fingerprint"] == "ab" * 32
    assert about["notes"] == {"0": {"unknown_words": 2}}
    assert about["failures"] == {"1": "item 1: bad (fix it)"}
    assert about["numerics"]["provider"] == "cpu"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_parquet_is_a_line_a_row(tmp_path: Path, dtype: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    f = full() if dtype == "float32" else features([2, 0, 1], rows=np.ones((3, 3), dtype), dtype=dtype)
    f.save(tmp_path / "f.parquet", ["a", "b", "c"])
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table["item"].to_pylist() == [0, 0, 2]
    assert table["input"].to_pylist() == ["a", "a", "c"]
    assert table["features"].to_pylist() == f.rows.tolist()
    assert json.loads(table.schema.metadata[b"topwork"])["fingerprint"] == "ab" * 32
    if dtype == "float32":
        assert table["span"].to_pylist() == [[0, 1], [2, 3], [0, 4]]
        assert table["part"].to_pylist() == [0, 1, 0]


def test_parquet_without_pyarrow_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(topwork.NotReady, match=r"pip install 'topwork\[parquet\]'"):
        full().save(tmp_path / "f.parquet")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(topwork.InvalidInput, match=r"end it in \.npy, \.npz, \.parquet"):
        full().save(tmp_path / "f.txt")
    with pytest.raises(topwork.InvalidInput, match="there is no folder"):
        full().save(tmp_path / "no" / "f.npy")
    with pytest.raises(topwork.InvalidInput, match="2 names for 3 items"):
        full().save(tmp_path / "f.npz", ["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full().save(tmp_path / "f.npy")

    def fail(file: object, rows: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk"):
        features([1]).save(tmp_path / "f.npy")
    monkeypatch.undo()
    assert np.load(tmp_path / "f.npy").shape == (3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]
