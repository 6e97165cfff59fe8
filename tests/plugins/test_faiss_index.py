"""The five kinds keep the contract of an index, and what is their own: lists, codes, options, masks, distances, disks."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from topwork_plugins.faiss_index import plugin
from topwork_plugins.faiss_index.index import FaissIndex
from topwork_plugins.faiss_index.plugin import HnswOptions, IvfOptions, PqOptions
from topwork_server import InvalidInput, Metric
from topwork_server.errors import DiskFull
from topwork_server.plugin_api.options import parse
from topwork_server.testing.index import IndexContract
from topwork_server.testing.vectors import ArrayVectors, clustered, nearest, recall

DIM = 32


class TestFlat(IndexContract):
    index = plugin.FlatIndex


class TestHnsw(IndexContract):
    index = plugin.HnswIndex


class TestIvf(IndexContract):
    index = plugin.IvfIndex


class TestIvfSq8(IndexContract):
    index = plugin.IvfSq8Index
    score_error = 0.02


class TestIvfPq(IndexContract):
    index = plugin.IvfPqIndex
    options: ClassVar = {"bits": 4}
    score_error = 0.02


def test_a_file_with_bytes_that_turned_is_not_loaded(tmp_path: Path) -> None:
    rows = clustered(100, 8, Metric.COSINE)
    path = tmp_path / "index"
    TestFlat.build(rows, Metric.COSINE).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + b"\x55\xaa" + whole[502:])
    with pytest.raises(Exception):  # noqa: B017, PT011 - any will do: the server builds again
        plugin.FlatIndex.load(path, Metric.COSINE)


def test_every_kind_that_is_registered_is_held_to_the_contract() -> None:
    held = {contract.index for contract in IndexContract.__subclasses__()}
    assert {spec.index for spec in plugin.register_indexes()} <= held


def build(kind: type[FaissIndex], rows: np.ndarray, metric: Metric = Metric.L2, **options: Any) -> FaissIndex:
    return kind.build(ArrayVectors(rows), metric, parse(kind.options, options), 0.95, 1, lambda done, words: None)


def test_registering_maps_no_faiss() -> None:
    code = (
        "import sys; from topwork_plugins.faiss_index import plugin; "
        "assert plugin.resolve_index('milvus') is None; "
        "print([s.kind for s in plugin.register_indexes()], 'faiss' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['flat', 'hnsw', 'ivf', 'ivf-sq8', 'ivf-pq'] False\n"


def test_auto_has_one_kind_for_every_number_of_rows() -> None:
    ranges = [spec.suits for spec in plugin.register_indexes() if spec.suits]
    assert ranges[0][0] == 0
    assert ranges[-1][1] is None
    assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]


@pytest.mark.parametrize(
    ("rows", "wanted", "lists"),
    [
        (0, None, 0),
        (1, None, 0),
        (155, None, 0),
        (156, None, 4),
        (10_000, None, 256),
        (100_000, None, 1024),
        (1_000_000, None, 4096),
        (100_000, 300, 300),
        (1000, 300, 16),
        (39, 1, 1),
        (38, 1, 0),
    ],
)
def test_lists_have_points_to_train_on(rows: int, wanted: int | None, lists: int) -> None:
    found = plugin.IvfIndex.choose_params(rows, DIM, IvfOptions(lists=wanted), 0.95).factory
    assert found == (f"IVF{lists},Flat" if lists else "Flat")


def codes(rows: int, dim: int, options: PqOptions, target_recall: float) -> str:
    return plugin.IvfPqIndex.choose_params(rows, dim, options, target_recall).factory


def test_codes_divide_the_dim_need_points_and_are_refined_for_recall() -> None:
    assert codes(100_000, 384, PqOptions(refine="none"), 0.95) == "IVF1024,PQ48x8"
    assert codes(100_000, 50, PqOptions(refine="none"), 0.95) == "IVF1024,PQ10x8"
    assert codes(100_000, 37, PqOptions(refine="exact"), 0.95) == "IVF1024,PQ37x8,RFlat"
    assert codes(5000, 384, PqOptions(), 0.95) == "IVF128,SQ8"
    assert codes(100, 384, PqOptions(), 0.95) == "Flat"
    assert codes(100_000, 384, PqOptions(), 0.95) == "IVF1024,PQ48x8,Refine(SQ8)"
    assert codes(100_000, 384, PqOptions(), 0.5) == "IVF1024,PQ48x8"


@pytest.mark.parametrize(
    ("declared", "wrong"),
    [
        (HnswOptions, {"neighbors": 1}),
        (HnswOptions, {"construction_effort": 10**6}),
        (IvfOptions, {"lists": 0}),
        (PqOptions, {"lists": -1}),
        (PqOptions, {"segments": 0}),
        (PqOptions, {"bits": 5}),
        (PqOptions, {"refine": "sq2"}),
    ],
)
def test_options_out_of_range_are_refused_by_name(declared: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        parse(declared, wrong)


def test_options_reach_faiss() -> None:
    rows = clustered(500, DIM, Metric.L2)
    graph = build(plugin.HnswIndex, rows, neighbors=8, construction_effort=33)
    assert graph.name == "HNSW8,Flat"
    assert build(plugin.HnswIndex, rows, neighbors=64).memory > graph.memory
    assert build(plugin.IvfIndex, rows, lists=7).efforts() == (1, 2, 4, 7)


def test_spare_bits_of_a_mask_are_not_positions() -> None:
    index = build(plugin.FlatIndex, clustered(13, DIM, Metric.L2))
    _, positions = index.search(clustered(2, DIM, Metric.L2), 13, effort=0, threads=1, mask=np.array([1, 0xFF], np.uint8))
    assert sorted(positions[0]) == [-1] * 7 + [0, 8, 9, 10, 11, 12]


def test_a_mask_of_another_size_is_refused() -> None:
    index = build(plugin.FlatIndex, clustered(13, DIM, Metric.L2))
    with pytest.raises(ValueError, match=r"13 positions is \(2,\) uint8"):
        index.search(clustered(1, DIM, Metric.L2), 1, effort=0, threads=1, mask=np.zeros(3, np.uint8))


def test_the_distance_of_a_row_to_itself_is_nothing() -> None:
    """Flat search goes by a matrix product, whose cancellation leaves 1e-3 of rows so far from the origin."""
    rows = clustered(11_000, DIM, Metric.L2) + 100
    index = build(plugin.FlatIndex, rows)
    for queries, threads in ((rows[:1], 2), (rows[:150], 1)):
        scores, positions = index.search(queries, 3, effort=0, threads=threads)
        assert (positions[:, 0] == np.arange(len(queries))).all()
        np.testing.assert_array_equal(scores[:, 0], 0)
        true = np.linalg.norm(queries[:, None].astype(float) - rows[positions], axis=2)
        np.testing.assert_allclose(scores, true, rtol=1e-3, atol=1e-6)


def test_a_graph_under_a_narrow_mask_is_exact() -> None:
    rows, queries = clustered(5000, DIM, Metric.L2), clustered(50, DIM, Metric.L2, seed=1)
    allowed = np.random.default_rng(0).random(len(rows)) < 0.05
    index = build(plugin.HnswIndex, rows)
    _, positions = index.search(queries, 10, effort=16, threads=1, mask=np.packbits(allowed, bitorder="little"))
    assert recall(positions, nearest(queries, rows, Metric.L2, allowed)) == 1.0


def test_rows_out_of_lists_for_many_threads_at_once() -> None:
    rows = clustered(2000, DIM, Metric.L2)
    index = build(plugin.IvfIndex, rows)
    with ThreadPoolExecutor(8) as pool:
        for start, found in zip(range(8), pool.map(lambda s: index.vectors(np.arange(s, 2000, 8)), range(8)), strict=True):
            np.testing.assert_array_equal(found, rows[start::8])
    index.add(rows[:10], threads=1)
    np.testing.assert_array_equal(index.vectors(np.arange(2000, 2010)), rows[:10])
    assert index.vectors(np.empty(0, np.int64)).shape == (0, DIM)


def test_memory_is_that_of_codes_ids_and_links() -> None:
    rows = clustered(3000, DIM, Metric.L2)
    flat, sq8 = build(plugin.FlatIndex, rows), build(plugin.IvfSq8Index, rows)
    assert flat.memory == pytest.approx(rows.nbytes, rel=0.01)
    assert sq8.memory == pytest.approx(3000 * (DIM + 8) + 64 * DIM * 4, rel=0.1)
    before = flat.memory
    flat.add(rows, threads=1)
    assert flat.memory == pytest.approx(2 * before, rel=0.01)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full says so late, at the last block, where faiss's own writer only prints it."""
    index = build(plugin.FlatIndex, clustered(3, DIM, Metric.L2))
    path = tmp_path / "index"
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: opened(Path("/dev/full"), mode))
    with pytest.raises(DiskFull, match="index"):
        index.save(path)
    assert not path.exists()


def test_a_ladder_ends_where_all_is_looked_at() -> None:
    rows = clustered(3000, DIM, Metric.L2)
    assert build(plugin.FlatIndex, rows).efforts() == (0,)
    assert build(plugin.IvfIndex, rows).efforts()[-1] == 64
    assert build(plugin.HnswIndex, rows).efforts() == (16, 32, 64, 128, 256, 512, 1024, 2048)
