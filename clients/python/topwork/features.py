"""Results of `embed`: rows of numbers, and what each row stands for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from topwork.errors import NotReady, TopworkError

T = TypeVar("T")
Array = NDArray[Any]
#: Below this parity to fp32, rows of one fingerprint do not mix.
LEAST_PARITY = 0.999
#: The precision of encoders that were quantized.
INT8 = "int8"
#: Rows and numbers of each that a notebook shows.
SHOWN, SHOWN_NUMBERS = 10, 6


@dataclass(frozen=True, slots=True)
class Numerics:
    """Provider and precision that computed the rows, and how near they are to fp32 torch (the reference), over real inputs.

    `parity` is the minimum cosine over rows and taps, `max_abs_error` the largest absolute difference.
    """

    provider: str
    precision: str
    parity: float
    max_abs_error: float

    @property
    def mixes(self) -> bool:
        """Tell whether such rows may stand beside others of their fingerprint: those near enough to fp32, and those of an int8
        graph, which is a network of its own with a fingerprint of its own."""
        return self.precision == INT8 or self.parity >= LEAST_PARITY


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that the server spent: preparing items, waiting in its queue, in the batch's session, and in all."""

    preprocess: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    total: float = 0.0

    @staticmethod
    def sum(of: Iterable[Timings]) -> Timings:
        """The sums over several requests."""
        every = list(of)
        return Timings(*(sum(getattr(one, name) for one in every) for name in Timings.__slots__))


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Features of one tap for a number of items; `np.asarray(features)` is `rows`.

    rows          (n, dim) float32 or float16; int8 to be multiplied by `scales`; or, of binary features, (n, ceil(dim / 8))
                  uint8, one bit a dimension (1 where positive, most significant first)
    counts        (items,) int64: rows of each item. One where a row is the whole item; none for an item in `failures`
    granularity   "item", "token", "chunk", "window" or "cell": what a row stands for
    spans         float32, or None where a row is the whole item. By `span_kind`: "characters" (n, 2), half-open, in code
                  points; "seconds" (n, 2); "box" (n, 4) x0, y0, x1, y1 in pixels of the picture that was sent
    parts         (n,) int32 for characters: 0 where the span is in the text, 1 where it is in its pair
    fingerprint   64 hex digits: rows compare only where it is equal
    notes         by item position: counts such as {"unknown_words": 2}
    failures      by item position: why an item was skipped (only with skip_bad_items)
    start         position of item 0 in the whole input; 0 but for the chunks of `embed_stream`
    """

    encoder: str
    tap: str
    fingerprint: str
    granularity: str
    rows: Array
    counts: Array
    dim: int
    dtype: str = "float32"
    scales: Array | None = None
    spans: Array | None = None
    span_kind: str | None = None
    parts: Array | None = None
    notes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    numerics: Numerics | None = None
    timings: Timings = Timings()
    start: int = 0

    @cached_property
    def items(self) -> Array:
        """(n,) int64: the position of the item that each row belongs to."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)

    @cached_property
    def _ends(self) -> Array:
        return np.cumsum(self.counts)

    def of(self, item: int) -> Array:
        """The rows of one item, (its count, dim). Raises IndexError where there is no such item."""
        end = int(self._ends[item])
        return self.rows[end - int(self.counts[item]) : end]

    def dequantized(self) -> Array:
        """Convert rows of any dtype to (n, dim) float32: int8 times its row's scale, binary as -1 and +1."""
        if self.dtype == "binary":
            return np.unpackbits(self.rows, axis=1, count=self.dim).astype(np.float32) * 2 - 1
        rows = self.rows.astype(np.float32)
        return rows if self.scales is None else rows * self.scales[:, None]

    def save(self, path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]] | None = None) -> None:
        """Write .npy (the rows alone), .npz (arrays and, as JSON in `about`, what made them) or .parquet (needs pyarrow).

        `inputs` are the names of the items, kept beside their rows in .npz and .parquet. Raises InvalidInput for another
        suffix or for names that do not fit the items.
        """
        from topwork._files import save_features

        save_features.save(self, path, inputs)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.rows, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Array]:
        return iter(self.rows)

    def __repr__(self) -> str:
        size = f"{len(self.rows)} rows of {self.dim} {self.dtype} from {len(self.counts)} items"
        bad = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Features {self.encoder}/{self.tap}: {size}{bad}, {self.fingerprint[:12] or 'no fingerprint'}>"

    def _repr_html_(self) -> str:
        """Show the first rows: their items, what they stand for, and their first numbers."""
        from topwork._display import html

        first = range(min(len(self.rows), SHOWN))
        titles = ["item", *([self.span_kind or "span"] if self.spans is not None else []), "first numbers"]
        more = f"... and {len(self.rows) - SHOWN:,} more rows" if len(self.rows) > SHOWN else ""
        return html.table(repr(self)[1:-1], titles, map(self._cells, first), more)

    def _cells(self, row: int) -> Iterator[Any]:
        yield int(self.items[row])
        if self.spans is not None:
            yield ", ".join(f"{number:g}" for number in self.spans[row])
        yield ", ".join(f"{number:.4g}" for number in self.rows[row, :SHOWN_NUMBERS].tolist())


def concatenate(pieces: Sequence[Features]) -> Features:
    """One Features of chunks that follow each other. NotReady where the encoder was exchanged between them."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    for piece in pieces:
        if piece.fingerprint != first.fingerprint:
            raise NotReady(
                f"{first.encoder}/{first.tap} changed while it was used: {first.fingerprint}, then {piece.fingerprint}",
                remedy="embed all items again",
            )
    lengths = [len(piece.counts) for piece in pieces]
    return Features(
        encoder=first.encoder,
        tap=first.tap,
        fingerprint=first.fingerprint,
        granularity=first.granularity,
        rows=np.concatenate([piece.rows for piece in pieces]),
        counts=np.concatenate([piece.counts for piece in pieces]),
        dim=first.dim,
        dtype=first.dtype,
        scales=_joined([piece.scales for piece in pieces]),
        spans=_joined([piece.spans for piece in pieces]),
        span_kind=next((piece.span_kind for piece in pieces if piece.span_kind), None),
        parts=_joined([piece.parts for piece in pieces]),
        notes=by_position(lengths, [piece.notes for piece in pieces]),
        failures=by_position(lengths, [piece.failures for piece in pieces]),
        numerics=weakest([piece.numerics for piece in pieces]),
        timings=Timings.sum(piece.timings for piece in pieces),
        start=first.start,
    )


def by_position(lengths: Sequence[int], pieces: Iterable[Mapping[int, T]]) -> dict[int, T]:
    """Join what is known of items in chunks of these lengths: by the position in each chunk, and then by that in all."""
    starts = accumulate(lengths, initial=0)
    return {start + i: found for start, piece in zip(starts, pieces, strict=False) for i, found in piece.items()}


def _joined(arrays: Sequence[Array | None]) -> Array | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


def weakest(records: Sequence[Numerics | None]) -> Numerics | None:
    """Choose the record that promises least, which holds for all rows: a restarted server may have another provider."""
    return min((record for record in records if record), key=lambda record: record.parity, default=None)
