"""The five kinds keep the contract of an index, and are what their names say."""

from __future__ import annotations

from typing import ClassVar

from topwork_plugins.faiss_index import kinds
from topwork_server.testing_index import IndexContract


class TestFlat(IndexContract):
    index = kinds.FlatIndex


class TestHnsw(IndexContract):
    index = kinds.HnswIndex


class TestIvf(IndexContract):
    index = kinds.IvfIndex


class TestIvfSq8(IndexContract):
    index = kinds.IvfSq8Index
    score_error = 0.02


class TestIvfPq(IndexContract):
    index = kinds.IvfPqIndex
    options: ClassVar = {"bits": 4}
    score_error = 0.02
