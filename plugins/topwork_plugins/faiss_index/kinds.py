"""The kinds that are registered, and how a factory string becomes one."""

from __future__ import annotations

from typing import Any, ClassVar

from topwork_server import NoOptions

from topwork_plugins.faiss_index import recipes
from topwork_plugins.faiss_index.index import FaissIndex
from topwork_plugins.faiss_index.options import HnswOptions, IvfOptions, PqOptions
from topwork_plugins.faiss_index.recipes import Recipe


class FlatIndex(FaissIndex):
    """Every row, compared exactly."""

    kind = "flat"

    @classmethod
    def recipe(cls, rows: int, dim: int, options: NoOptions, target_recall: float) -> Recipe:
        return recipes.FLAT


class HnswIndex(FaissIndex):
    """A graph over exact rows."""

    kind = "hnsw"
    options = HnswOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: HnswOptions, target_recall: float) -> Recipe:
        return recipes.hnsw(target_recall, options)


class IvfIndex(FaissIndex):
    """Lists of exact rows around the centres of a k-means."""

    kind = "ivf"
    options = IvfOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> Recipe:
        return recipes.ivf(rows, options, "Flat")


class IvfSq8Index(FaissIndex):
    """As `ivf`, a byte a number."""

    kind = "ivf-sq8"
    options = IvfOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: IvfOptions, target_recall: float) -> Recipe:
        return recipes.ivf(rows, options, "SQ8")


class IvfPqIndex(FaissIndex):
    """Product-quantised codes in lists, and finer ones to order the candidates by."""

    kind = "ivf-pq"
    options = PqOptions

    @classmethod
    def recipe(cls, rows: int, dim: int, options: PqOptions, target_recall: float) -> Recipe:
        return recipes.ivf_pq(rows, dim, options, target_recall)


class FactoryIndex(FaissIndex):
    """A factory string of faiss, built as it is said; "Flat" where the rows are too few to train it."""

    factory: ClassVar[str]

    @classmethod
    def recipe(cls, rows: int, dim: int, options: Any, target_recall: float) -> Recipe:
        return recipes.of_factory(cls.factory, rows)


def of_factory(factory: str) -> type[FactoryIndex]:
    """The class of a factory string; its files are told apart by it."""
    return type("FactoryIndex", (FactoryIndex,), {"factory": factory, "kind": factory, "__doc__": FactoryIndex.__doc__})
