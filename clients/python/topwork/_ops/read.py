"""Reads of feature sets: whole, in parts, or into a file; a break is followed by a request for what has not come yet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from topwork._codec import decode_sets
from topwork._ops.item_labels import texts
from topwork._ops.progress_bar import Progress, reporting
from topwork._ops.sets import numbered
from topwork._transport.calls import ClientState, Steps, StreamCall, unary, work
from topwork._transport.methods import (
    GET_SET,
    READ,
)
from topwork._transport.streams import DownloadStream
from topwork.encoders import TapInfo
from topwork.features import Features, Numerics
from topwork.rows import Rows, joined
from topwork.sets import SavedSet, SetInfo
from topwork.v1 import sets_pb2


def read(
    session: ClientState,
    set: str,
    *,
    taps: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    ids: str | int | Iterable[str | int] | None = None,
    version: int | str = 0,
    offset: int = 0,
    limit: int = 0,
    inputs: bool = False,
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[Rows]:
    """Items of a set, in its order, all of one version.

    taps, columns  of features and of metadata; None is all, and an empty list none
    where          SQL over `id` and the metadata: "year > 2020 AND label IN ('owl', 'wren')"
    ids            only these; those that are not there are no error
    version        its number, or the name that it is pinned under; 0 is the current one
    offset, limit  of the items that are selected; a limit of 0 is none
    inputs         the raw inputs, too, of a set that keeps them
    progress       True for a bar on a terminal, or a function of (items done, items in all)
    timeout        seconds: the longest wait for the next part of the reply

    Raises InvalidInput for a filter or a column that does not fit, NotFound for a set or a version that is not there.
    """
    reading = yield from _begun(session, set, taps, columns, where, ids, version, offset, limit, inputs, timeout)
    return (yield from _whole(session, reading, progress, timeout))


def read_stream(
    session: ClientState,
    set: str,
    *,
    taps: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    ids: str | int | Iterable[str | int] | None = None,
    version: int | str = 0,
    offset: int = 0,
    limit: int = 0,
    inputs: bool = False,
    timeout: float | None = None,
) -> Steps[StreamCall[Rows]]:
    """Read a part at a time (of some megabytes), for sets of any size: memory stays bounded. See `read` for the rest.

    A server that restarts meanwhile is met with retries: nothing is lost and nothing comes twice.
    """
    reading = yield from _begun(session, set, taps, columns, where, ids, version, offset, limit, inputs, timeout)
    return StreamCall(READ, reading.tail(session, timeout), lambda reply, _: reading.receive(reply))


def export_set(
    session: ClientState,
    set: str,
    path: str | os.PathLike[str],
    *,
    taps: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    ids: str | int | Iterable[str | int] | None = None,
    version: int | str = 0,
    offset: int = 0,
    limit: int = 0,
    inputs: bool = False,
    progress: Progress = None,
    timeout: float | None = None,
) -> Steps[SavedSet]:
    """Write items of a set into a file, a part at a time: memory stays bounded for sets of any size. See `read` for the rest.

    path  .npz (arrays), .parquet, .npy (the features of one tap), .jsonl or .csv. The file appears whole or not at all
    """
    reading = yield from _begun(session, set, taps, columns, where, ids, version, offset, limit, inputs, timeout)
    return (yield from _saved(session, reading, Path(path), progress, timeout))


@dataclass
class ReadState:
    """A read: `request` asks for what has not come; `wanted` is how many items come in all, None before the first reply."""

    request: sets_pb2.ReadRequest
    info: SetInfo
    wanted: int | None = None
    came: int = 0

    def tail(self, session: ClientState, timeout: float | None) -> DownloadStream:
        return DownloadStream(session, self._ask, session.timeout if timeout is None else timeout)

    def _ask(self) -> sets_pb2.ReadRequest | None:
        return None if self.came == self.wanted else self.request

    def receive(self, reply: sets_pb2.ReadResponse) -> Rows:
        """Make the next request for the same version, from behind these items on."""
        request, count = self.request, len(reply.ids)
        if self.wanted is None:
            left = max(0, reply.total - request.offset)
            self.wanted = min(left, request.limit) if request.limit else left
        self.came += count
        request.version = reply.version
        request.offset += count
        request.limit -= min(count, request.limit)
        return decode_sets.rows(reply, self.info.encoder, self.numerics, request.inputs)

    @property
    def numerics(self) -> Numerics | None:
        """Choose the record that promises least: it holds for all rows."""
        return min(self.info.numerics, key=lambda record: record.parity, default=None)


def _whole(session: ClientState, reading: ReadState, progress: Progress, timeout: float | None) -> Steps[Rows]:
    """Read all selected items as one Rows."""
    pieces: list[Rows] = []
    with reporting(progress, None, reading.request.set) as advance:

        def receive(reply: sets_pb2.ReadResponse, _: None) -> None:
            pieces.append(reading.receive(reply))
            advance(len(reply.ids), reading.wanted)

        yield StreamCall(READ, reading.tail(session, timeout), receive)
    return joined(pieces) if pieces else _no_items(reading)


def _saved(session: ClientState, reading: ReadState, path: Path, progress: Progress, timeout: float | None) -> Steps[SavedSet]:
    """Write all that is asked for into a file; no more than a part of it is in memory."""
    from topwork._files import save_rows

    tally = _Tally()
    with save_rows.sink(path) as sink, reporting(progress, None, reading.request.set) as advance:

        def keep(rows: Rows) -> None:
            tally.add(rows)
            sink.add(rows)

        def receive(reply: sets_pb2.ReadResponse, _: None) -> None:
            keep(reading.receive(reply))
            advance(len(reply.ids), reading.wanted)

        yield StreamCall(READ, reading.tail(session, timeout), receive)
        if tally.first is None:
            keep(_no_items(reading))
        yield from work(sink.finish)
    return tally.saved(reading.request.set, path)


@dataclass
class _Tally:
    """Counts of the items and rows that have come."""

    first: Rows | None = None
    items: int = 0
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, rows: Rows) -> None:
        self.first = self.first or rows
        self.items += len(rows)
        for tap, features in rows.features.items():
            self.rows[tap] = self.rows.get(tap, (0, 0))[0] + len(features.rows), features.dim

    def saved(self, name: str, path: Path) -> SavedSet:
        assert self.first is not None
        return SavedSet(name, path, self.items, self.first.total, self.first.version, self.rows, path.stat().st_size)


def _begun(
    session: ClientState,
    set: str,
    taps: Sequence[str] | None,
    columns: Sequence[str] | None,
    where: str,
    ids: Any,
    version: int | str,
    offset: int,
    limit: int,
    inputs: bool,
    timeout: float | None,
) -> Steps[ReadState]:
    """Ask for the set: the replies do not say what made its rows. No `ids` at all are all items, an empty list none."""
    request = sets_pb2.ReadRequest(
        set=set,
        version=(yield from numbered(session, set, version, timeout)),
        taps=taps or (),
        all_taps=taps is None,
        columns=columns or (),
        all_columns=columns is None,
        inputs=inputs,
        where=where,
        ids=[] if ids is None else texts(ids),
        offset=offset,
        limit=limit,
    )
    reply = yield from unary(GET_SET, sets_pb2.GetSetRequest(set=set), timeout)
    info = session.sets[set] = decode_sets.feature_set(reply)
    return ReadState(request, info, wanted=0 if ids is not None and not request.ids else None)


def _no_items(reading: ReadState) -> Rows:
    """No item is selected, and the server had nothing to send."""
    info, request = reading.info, reading.request
    taps = [tap for tap in info.taps if request.all_taps or tap.name in request.taps]
    columns = [name for name in info.columns if request.all_columns or name in request.columns]
    return Rows(
        ids=[],
        features={tap.name: _no_rows(tap, info) for tap in taps},
        metadata={name: [] for name in columns},
        inputs=[] if request.inputs else None,
        version=request.version or info.version,
        column_types={name: info.columns[name] for name in columns},
    )


def _no_rows(tap: TapInfo, info: SetInfo) -> Features:
    return Features(
        encoder=info.encoder,
        tap=tap.name,
        fingerprint=tap.fingerprint,
        granularity=tap.granularity,
        rows=np.zeros((0, tap.dim), info.dtype),
        counts=np.zeros(0, np.int64),
        dim=tap.dim,
        dtype=info.dtype,
    )
