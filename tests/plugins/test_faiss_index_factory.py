"""Any factory string of faiss is a kind: it keeps the contract of an index, also where faiss leaves something to its caller."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_plugins.faiss_index import plugin
from topwork_server import InvalidInput, Metric, NoOptions
from topwork_server.testing.index import IndexContract
from topwork_server.testing.vectors import ArrayVectors, clustered

L2_AND_COSINE = (Metric.COSINE, Metric.L2)
ROWS = 600


class TestTransformedAndRefined(IndexContract):
    index = plugin.factory_index_class("RR16,IVF8,PQ8x4,RFlat")
    rows = ROWS


class TestGraphOfCodes(IndexContract):
    index = plugin.factory_index_class("HNSW16,SQ8")
    rows = ROWS
    score_error = 0.02


class TestGraphBehindATransform(IndexContract):
    index = plugin.factory_index_class("PCA32,HNSW16")
    rows = ROWS
    metrics = L2_AND_COSINE
    score_error = 0.001


class TestTakesNoSelector(IndexContract):
    """A kind that refuses a selector: masks are honored by fetching more."""

    index = plugin.factory_index_class("PQ8x4fs,RFlat")
    rows = ROWS


class TestTakesNoSelectorAndHasNoStorage(IndexContract):
    index = plugin.factory_index_class("IVF8,RQ4x4")
    rows = ROWS
    floor = 0.2
    score_error = 0.6


class TestKnowsOnlyL2(IndexContract):
    """Cosine goes by L2 of the unit vectors."""

    index = plugin.factory_index_class("HNSW16,PQ16x4")
    rows = ROWS
    metrics = L2_AND_COSINE
    floor = 0.4
    score_error = 0.3


class TestQuantizerIsAGraph(IndexContract):
    index = plugin.factory_index_class("IVF16_HNSW8,Flat")
    rows = ROWS
    floor = 1.0


@pytest.mark.parametrize(
    "kind",
    [
        "IVF256,PQ24",
        "OPQ16_64,IVF1024,PQ16",
        "HNSW32,SQ8",
        "PCA64,Flat",
        "IVF100,Flat,RFlat",
        "IVF1024,PQ48x4fs,Refine(SQ8)",
        "SQ8",
    ],
)
def test_factory_strings_are_adopted(kind: str) -> None:
    spec = plugin.resolve_index(kind)
    assert spec is not None
    assert spec.kind == kind
    assert spec.suits is None
    assert spec.index.options is NoOptions


@pytest.mark.parametrize(
    ("kind", "dim", "metric"),
    [
        ("OPQ5,IVF1000000,PQ7", 8, Metric.COSINE),
        ("IVF64,PQ7", 384, Metric.L2),
        ("OPQ5,Flat", 384, Metric.L2),
        ("OPQ16_60,PQ4", 384, Metric.COSINE),
        ("PCA64,Flat", 384, Metric.INNER_PRODUCT),
    ],
)
def test_what_can_never_be_built_of_such_rows_is_refused_before_a_build(kind: str, dim: int, metric: Metric) -> None:
    spec = plugin.resolve_index(kind)
    assert spec is not None
    with pytest.raises(InvalidInput):
        spec.index.check(dim, metric, NoOptions(), 0.95)


def test_segments_that_do_not_divide_the_rows_are_refused_before_a_build() -> None:
    with pytest.raises(InvalidInput, match="segments"):
        plugin.IvfPqIndex.check(50, Metric.COSINE, plugin.PqOptions(segments=8), 0.95)
    for index in (plugin.FlatIndex, plugin.HnswIndex, plugin.IvfIndex, plugin.IvfSq8Index, plugin.IvfPqIndex):
        for dim in (1, 7, 50, 384):
            index.check(dim, Metric.INNER_PRODUCT, index.options(), 0.95)


@pytest.mark.parametrize("kind", ["milvus", "auto", "", "foo,Flat", "BFlat", "hnswlib", "flatter"])
def test_what_looks_like_something_else_is_left_to_others(kind: str) -> None:
    assert plugin.resolve_index(kind) is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("HNSW32,SQ9", "could not parse HNSW code description SQ9"),
        ("ivf100,flat", "could not parse index string ivf100,flat"),
        ("IVF99999999999,Flat", "at most IVF1048576"),
        ("IVF16,PQ8x99", "at most x16"),
        ("IDMap,Flat", "leave IDMap out"),
        ("ITQ32,LSH", "bits that differ"),
        ("IVF16,ITQ32,SH", "bits that differ"),
    ],
)
def test_a_wrong_string_is_refused_in_faiss_words(kind: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plugin.resolve_index(kind)
    assert words in str(caught.value)
    assert caught.value.remedy


def build(kind: str, rows: np.ndarray, metric: Metric = Metric.COSINE) -> plugin.FactoryIndex:
    spec = plugin.resolve_index(kind)
    assert spec is not None
    found = spec.index.build(ArrayVectors(rows), metric, NoOptions(), 0.95, 1, lambda done, words: None)
    assert isinstance(found, plugin.FactoryIndex)
    return found


def test_rows_and_queries_of_another_dim_are_refused() -> None:
    index = build("Flat,RFlat", clustered(30, 32, Metric.COSINE))
    with pytest.raises(InvalidInput, match="dim 32"):
        index.search(np.zeros((1, 31), np.float32), 1, effort=1, threads=1)
    with pytest.raises(InvalidInput, match="dim 32"):
        index.add(np.zeros((1, 33), np.float32), threads=1)


@pytest.mark.parametrize(("kind", "count"), [("IVF256,Flat", 100), ("PCA32,Flat", 10), ("PQ8", 100)])
def test_too_few_rows_to_train_are_kept_flat(kind: str, count: int) -> None:
    index = build(kind, clustered(count, 32, Metric.COSINE))
    assert index.name == "Flat"
    assert index.exact
    assert index.trained_on == 0


def test_a_file_of_another_kind_is_not_loaded(tmp_path) -> None:
    build("PCA16,Flat", clustered(300, 32, Metric.COSINE)).save(tmp_path / "index")
    with pytest.raises(ValueError, match="PCA16,Flat"):
        plugin.factory_index_class("PCA8,Flat").load(tmp_path / "index", Metric.COSINE)
    with pytest.raises(ValueError, match="cosine"):
        plugin.factory_index_class("PCA16,Flat").load(tmp_path / "index", Metric.L2)
