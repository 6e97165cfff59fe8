"""Results of a read of a feature set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topwork._display import html
from topwork.features import Array, Features, concatenate

#: Items that a notebook shows, letters of an id, numbers of a row.
SHOWN, ID_WIDTH, NUMBERS = 10, 48, 4
#: A raw input as the set kept it: a text, a pair of texts, the bytes of a picture, video or recording, or an array.
RawInput = str | tuple[str, str] | bytes | Array


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Items of a feature set, in the set's order.

    ids           str each
    features      by tap; `counts` are rows an item
    metadata      column -> a value an item, None where missing; times are datetime, UTC
    inputs        the raw inputs (None for an item without one), where they were asked for
    version       of the set, that was read
    total         items that the filter and the ids select in all, before `offset` and `limit`
    column_types  column -> "bool", "int", "float", "string", "time" or "strings"
    """

    ids: list[str]
    features: Mapping[str, Features]
    metadata: Mapping[str, list[Any]] = field(default_factory=dict)
    inputs: list[RawInput | None] | None = None
    version: int = 0
    total: int = 0
    column_types: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def to_arrow(self) -> Any:
        """A pyarrow.Table with a row an item: `id`, `features_TAP` (a list of fixed size where an item has one row, else a list
        of them), `spans_TAP`, `parts_TAP`, `input` and the metadata. NotReady where pyarrow is missing."""
        from topwork._files import dataframes

        return dataframes.arrow(self)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row an item and the columns of `to_arrow`; features are arrays, (dim,) where items have one
        row and (rows, dim) otherwise. NotReady where pandas is missing."""
        from topwork._files import dataframes

        return dataframes.pandas(self)

    def to_torch(self) -> dict[str, Any]:
        """`id` (list), `features_TAP` (a tensor, all rows), `counts_TAP` where items may have other than one row, and the
        metadata: tensors of numbers and booleans where nothing is missing, lists otherwise. NotReady where torch is missing."""
        from topwork._files import dataframes

        return dataframes.torch(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write .npz (arrays, and as JSON in `about` what they are), .parquet (`to_arrow`; needs pyarrow), .npy (the features of
        the one tap), .jsonl or .csv. InvalidInput for another suffix. See `Client.export_set` for sets that are large.
        """
        from topwork._files import save_rows

        save_rows.save(self, path)

    def _repr_html_(self) -> str:
        """The first items: their metadata, their raw inputs where these were read, and the first numbers of their features."""
        columns = list(self.metadata)
        titles = ["id", *(["input"] if self.inputs is not None else []), *columns, *self.features]
        more = f"... and {len(self) - SHOWN:,} more" if len(self) > SHOWN else ""
        return html.table(repr(self)[1:-1], titles, (self._cells(i) for i in range(min(len(self), SHOWN))), more)

    def _cells(self, i: int) -> Iterator[Any]:
        yield html.cut_left(self.ids[i], ID_WIDTH)
        if self.inputs is not None:
            yield html.shown(self.inputs[i])
        yield from (values[i] for values in self.metadata.values())
        for features in self.features.values():
            found = features.of(i)
            text = " ".join(f"{number:.3f}" for number in found[0, :NUMBERS]) if len(found) == 1 else f"{len(found)} rows"
            yield f"{text} ..." if len(found) == 1 and features.dim > NUMBERS else text

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap} {f.rows.shape[0]} x {f.dim}" for tap, f in self.features.items())
        columns = f"; {html.listed(self.metadata)}" if self.metadata else ""
        return f"<Rows: {len(self)} of {self.total} items, version {self.version}: {taps or 'no features'}{columns}>"


def joined(pieces: Sequence[Rows]) -> Rows:
    """One Rows of replies that follow each other; there is at least one."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    return Rows(
        ids=[id for piece in pieces for id in piece.ids],
        features={tap: concatenate([piece.features[tap] for piece in pieces]) for tap in first.features},
        metadata={name: [value for piece in pieces for value in piece.metadata[name]] for name in first.metadata},
        inputs=None if first.inputs is None else [value for piece in pieces for value in piece.inputs or []],
        version=first.version,
        total=first.total,
        column_types=first.column_types,
    )
