"""Results of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, overload

from topwork._display import html
from topwork._display.html import cut_left
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
    """Results of one query, best first. Iterating gives a `Hit` each, and so does an index.

    ids        str each
    scores     (n,) float32: cosine or inner product (larger is nearer), or Euclidean distance (smaller is nearer): see `metric`
    metadata   column -> n values, None where missing; the columns that were asked for
    rows       (n,) int64: which of its item's rows each is; None where items have one row each
    spans      float32, as in `Features.spans`; None where a row is the whole item. `span_kind`, `parts` likewise
    vectors    (n, dim): the hits' own rows, where `with_vectors` asked for them
    version    of the set, that was searched
    strategy   "index", "exact", "exact over 812 matches": what was done
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
    strategy: str = ""
    seconds: float = 0.0
    timings: Timings = field(default_factory=Timings)
    unindexed: bool = False
    rows_compared: int = 0
    _inputs: Callable[[Sequence[str]], Mapping[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the way back to the server: hits go to other processes."""
        return {**self.__dict__, "_inputs": None}

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

    def _caption(self) -> str:
        count = f"{len(self)} hit{'s' * (len(self) != 1)}"
        return f"{count} by {self.metric}, version {self.version}{f', {self.strategy}' if self.strategy else ''}"

    def _repr_html_(self) -> str:
        """The first hits, with their pictures or texts where the set keeps its inputs."""
        first = list(islice(self, SHOWN))
        inputs = self._shown_inputs([hit.id for hit in first])
        columns = [name for name, values in self.metadata.items() if any(value is not None for value in values[:SHOWN])]
        titles = ["score", "id", *(["part"] if self.spans is not None else []), *(["input"] if inputs else []), *columns]
        more = f"... and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        return html.table(self._caption(), titles, (self._cells(hit, inputs, columns) for hit in first), more)

    def _cells(self, hit: Hit, inputs: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Any]:
        yield f"{hit.score:.4f}"
        yield cut_left(hit.id, ID_WIDTH)
        if self.spans is not None:
            yield self._covered(hit.span).strip()
        if inputs:
            yield html.shown(inputs.get(hit.id))
        yield from (hit.metadata[name] for name in columns)

    def _shown_inputs(self, ids: Sequence[str]) -> Mapping[str, Any]:
        """Get the raw inputs of hits; none where the server cannot be asked any more, and the hits are shown all the same."""
        with suppress(Exception):
            return self._inputs(ids) if self._inputs and ids else {}
        return {}

    def __repr__(self) -> str:
        lines = [f"<Hits: {self._caption()}>"]
        width = max((len(cut_left(id, ID_WIDTH)) for id in self.ids[:SHOWN]), default=0)
        lines += [self._line(hit, width) for hit in islice(self, SHOWN)]
        lines += [f"  ... and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join(lines)

    def _line(self, hit: Hit, width: int) -> str:
        metadata = _cut(
            "  ".join(f"{name}={value!r}" for name, value in hit.metadata.items() if value is not None), METADATA_WIDTH
        )
        return f"  {hit.score:8.4f}  {cut_left(hit.id, ID_WIDTH):{width}}  {self._covered(hit.span)}{metadata}".rstrip()

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
