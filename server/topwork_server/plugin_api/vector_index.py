"""The class that an index plugin subclasses: a structure that finds the nearest of many vectors, by position, and knows nothing
else.

Ids, deletions, filters, what was written since the build, and the choice of a search effort are the server's (`indexes/`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from topwork_server.blocking_calls import Report
from topwork_server.plugin_api.encoder import NoOptions
from topwork_server.types import Array


class Metric(StrEnum):
    """A measure of how near two vectors are. Of COSINE the server hands over unit vectors; then it is the inner product.

    Scores: cosine or inner product (larger is nearer), or the Euclidean distance (smaller is nearer), not its square.
    """

    COSINE = "cosine"
    INNER_PRODUCT = "inner_product"
    L2 = "l2"


class VectorSource(Protocol):
    """The rows to be indexed, as often as they are needed, in the order of their positions."""

    count: int
    dim: int

    def batches(self) -> Iterator[Array]:
        """Yield (n, dim) float32, C-contiguous, all rows in order; never all in memory at once."""

    def sample(self, most: int) -> Array:
        """Return (min(most, count), dim) float32: a random sample without replacement, the same each time."""


class VectorIndex(ABC):
    """Vectors of one index at positions 0 .. count - 1. `search` may run in several threads at once; nothing runs beside `add`.

    `options` is a frozen dataclass of what CreateIndex may set, with defaults; its field types are checked.
    """

    options: ClassVar[type[Any]] = NoOptions

    @classmethod  # noqa: B027
    def check(cls, dim: int, metric: Metric, options: Any, target_recall: float) -> None:
        """Raise InvalidInput where this can never be built of any rows of `dim` numbers: CreateIndex asks, before there
        is a build that fails. Other reasons to fail are the build's to say."""

    @classmethod
    @abstractmethod
    def build(
        cls, vectors: VectorSource, metric: Metric, options: Any, target_recall: float, threads: int, report: Report
    ) -> Self:
        """Train and fill. `target_recall` (at 10) guides the choice of build parameters. Runs in a process of its own."""

    @abstractmethod
    def add(self, rows: Array, threads: int) -> None:
        """Add (n, dim) float32 at the next n positions."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write one file."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, metric: Metric) -> Self:
        """Raise any exception where the file is damaged: the index is then built again."""

    @abstractmethod
    def search(self, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None) -> tuple[Array, Array]:
        """The k nearest of each of (q, dim) float32 queries: scores (q, k) float32 as Metric has them and positions (q, k) int64,
        best first; -1 where there are no more.

        `mask` is (ceil(count / 8),) uint8, least significant bit first (numpy.packbits(..., bitorder="little")): only set
        positions may be found.
        """

    @abstractmethod
    def efforts(self) -> tuple[int, ...]:
        """Search efforts worth trying, ascending, such as nprobe or efSearch; the last one finds as much as this index can. A
        single 0 says that there is nothing to choose."""

    @abstractmethod
    def vectors(self, positions: Array) -> Array | None:
        """Return (n, dim) float32, exactly the rows that were added; None where the index keeps only what resembles them."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Tell whether `search` always compares with every row exactly."""

    @property
    def thorough(self) -> bool:
        """Tell whether `search` at the last effort compares with every row that the mask leaves, as well as it knows the rows:
        what is filtered is then not lost, however little is left. A graph cannot say so; lists that are all looked into can."""
        return self.exact

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name of what was built, in the field's words: "IVF1024,Flat"."""

    @property
    @abstractmethod
    def trained_on(self) -> int:
        """Rows that the training saw; 0 where nothing is trained. Where the index has outgrown it, the server builds it again."""

    @property
    @abstractmethod
    def memory(self) -> int:
        """Bytes that it takes in memory."""


@dataclass(frozen=True)
class IndexSpec:
    """A plugin's description of a kind of index. `suits` is the range of rows for which "auto" takes it (None: no upper end), or
    None where it never does."""

    kind: str
    index: type[VectorIndex]
    description: str = ""
    suits: tuple[int, int | None] | None = None
