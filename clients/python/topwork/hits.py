"""What a search finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, overload

from topwork.features import Array, Timings

#: Hits that a repr shows, and letters of an id and of metadata.
SHOWN, ID_WIDTH, METADATA_WIDTH = 10, 48, 80


class Hit(NamedTuple):
    """One hit. `row` says which of its item's rows it is, `span` what that row covers; None where a row is the whole item."""

    id: str
    score: float
    metadata: dict[str, Any]
    span: tuple[float, ...] | None = None
    row: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Hits:
    """What one query found, best first. Iterating gives a `Hit` each, and so does an index.

    ids        str each
    scores     (n,) float32: cosine or inner product (larger is nearer), or Euclidean distance (smaller is nearer): see `metric`
    metadata   column -> n values, None where missing; the columns that were asked for
    rows       (n,) int64: which of its item's rows each is; None where items have one row each
    spans      float32, as in `Features.spans`; None where a row is the whole item. `span_kind`, `parts` likewise
    vectors    (n, dim): the hits' own rows, where `with_vectors` asked for them
    version    of the set, that was searched
    how        "index", "exact", "exact over 812 matches": what was done
    unindexed  there was no index: `rows_compared` rows were read from the disk and compared. `topwork index SET` pays from some
               thousands of rows
    seconds    that the search took on the server; `timings` are the encoder's (all queries of one message together)
    """

    ids: list[str]
    scores: Array
    metadata: Mapping[str, list[Any]] = field(default_factory=dict)
    rows: Array | None = None
    spans: Array | None = None
    span_kind: str | None = None
    parts: Array | None = None
    vectors: Array | None = None
    metric: str = "cosine"
    version: int = 0
    how: str = ""
    seconds: float = 0.0
    timings: Timings = field(default_factory=Timings)
    unindexed: bool = False
    rows_compared: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Hit]:
        return (self._hit(i) for i in range(len(self.ids)))

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        positions = range(len(self.ids))[index]
        return self._hit(positions) if isinstance(positions, int) else [self._hit(i) for i in positions]

    def _hit(self, i: int) -> Hit:
        return Hit(
            id=self.ids[i],
            score=float(self.scores[i]),
            metadata={name: values[i] for name, values in self.metadata.items()},
            span=None if self.spans is None else tuple(self.spans[i].tolist()),
            row=None if self.rows is None else int(self.rows[i]),
        )

    def __repr__(self) -> str:
        count = f"{len(self)} hit{'s' * (len(self) != 1)}"
        lines = [f"<Hits: {count} by {self.metric}, version {self.version}{f', {self.how}' if self.how else ''}>"]
        width = max((len(_cut(id, ID_WIDTH)) for id in self.ids[:SHOWN]), default=0)
        lines += [self._line(hit, width) for hit in islice(self, SHOWN)]
        lines += [f"  ... and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join(lines)

    def _line(self, hit: Hit, width: int) -> str:
        said = _cut("  ".join(f"{name}={value!r}" for name, value in hit.metadata.items() if value is not None), METADATA_WIDTH)
        return f"  {hit.score:8.4f}  {_cut(hit.id, ID_WIDTH):{width}}  {self._covered(hit.span)}{said}".rstrip()

    def _covered(self, span: tuple[float, ...] | None) -> str:
        if span is None:
            return ""
        if self.span_kind == "seconds":
            return f"{span[0]:.2f}-{span[1]:.2f} s  "
        unit = {"characters": "characters", "box": "box"}.get(self.span_kind or "", "")
        return f"{unit} {','.join(f'{edge:.0f}' for edge in span)}  "


def _cut(text: str, width: int) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= width else f"{text[: width - 3]}..."
