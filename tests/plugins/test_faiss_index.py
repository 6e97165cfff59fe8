"""The five kinds keep the contract of an index, and are what their names say."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from topwork_plugins.faiss_index import plugin
from topwork_server import Metric
from topwork_server.testing.index import IndexContract
from topwork_server.testing.vectors import clustered


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
    with pytest.raises(Exception):  # noqa: B017, PT011 - any will do: the server builds anew
        plugin.FlatIndex.load(path, Metric.COSINE)


def test_every_kind_that_is_registered_is_held_to_the_contract() -> None:
    held = {contract.index for contract in IndexContract.__subclasses__()}
    assert {spec.index for spec in plugin.register_indexes()} <= held
