"""A read under way: what was asked, what has come, and what is asked after a break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from topwork._codec import decode_sets
from topwork._files import save_rows
from topwork._ops.item_labels import texts
from topwork._ops.progress_bar import Progress, reporting
from topwork._transport.calls import ClientState, Steps, StreamCall, unary, work
from topwork._transport.methods import GET_SET, READ
from topwork._transport.streams import DownloadStream
from topwork.encoders import TapInfo
from topwork.features import Features, Numerics
from topwork.rows import Rows, joined
from topwork.sets import SavedSet, SetInfo
from topwork.v1 import sets_pb2


@dataclass
class ReadState:
    """`request` asks for what has not come yet; `wanted` is how many items come in all, None before the first reply."""

    request: sets_pb2.ReadRequest
    info: SetInfo
    wanted: int | None = None
    came: int = 0

    def tail(self, session: ClientState, timeout: float | None) -> DownloadStream:
        return DownloadStream(session, self._ask, session.timeout if timeout is None else timeout)

    def _ask(self) -> sets_pb2.ReadRequest | None:
        return None if self.came == self.wanted else self.request

    def receive(self, reply: sets_pb2.ReadResponse) -> Rows:
        """The next request is for the same version, from behind these items on."""
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
        """The record that promises least holds for all rows."""
        return min(self.info.numerics, key=lambda record: record.parity, default=None)


def whole(
    session: ClientState, request: sets_pb2.ReadRequest, by_ids: bool, progress: Progress, timeout: float | None
) -> Steps[Rows]:
    """All that is asked for, as one Rows."""
    reading = yield from begun(session, request, by_ids, timeout)
    pieces: list[Rows] = []
    with reporting(progress, None, request.set) as advance:

        def receive(reply: sets_pb2.ReadResponse, _: None) -> None:
            pieces.append(reading.receive(reply))
            advance(len(reply.ids), reading.wanted)

        yield StreamCall(READ, reading.tail(session, timeout), receive)
    return joined(pieces) if pieces else emptied(reading, request)


def saved(
    session: ClientState, request: sets_pb2.ReadRequest, by_ids: bool, path: Path, progress: Progress, timeout: float | None
) -> Steps[SavedSet]:
    """All that is asked for, into a file; no more than a part of it is in memory."""
    reading = yield from begun(session, request, by_ids, timeout)
    tally = _Tally()
    with save_rows.sink(path) as sink, reporting(progress, None, request.set) as advance:

        def keep(rows: Rows) -> None:
            tally.add(rows)
            sink.add(rows)

        def receive(reply: sets_pb2.ReadResponse, _: None) -> None:
            keep(reading.receive(reply))
            advance(len(reply.ids), reading.wanted)

        yield StreamCall(READ, reading.tail(session, timeout), receive)
        if tally.first is None:
            keep(emptied(reading, request))
        yield from work(sink.finish)
    return tally.saved(request.set, path)


@dataclass
class _Tally:
    """What has come, counted."""

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


def begun(session: ClientState, request: sets_pb2.ReadRequest, by_ids: bool, timeout: float | None) -> Steps[ReadState]:
    """The set is asked for first: who made its rows, and how, is not in the replies. `by_ids`: ids were passed, though perhaps
    none, which on the wire would be all."""
    reply = yield from unary(GET_SET, sets_pb2.GetSetRequest(set=request.set), timeout)
    info = session.sets[request.set] = decode_sets.feature_set(reply)
    return ReadState(request, info, wanted=0 if by_ids and not request.ids else None)


def asked(
    set: str,
    taps: Sequence[str] | None,
    columns: Sequence[str] | None,
    where: str,
    ids: Any,
    version: int,
    offset: int,
    limit: int,
    inputs: bool,
) -> sets_pb2.ReadRequest:
    return sets_pb2.ReadRequest(
        set=set,
        version=version,
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


def emptied(reading: ReadState, request: sets_pb2.ReadRequest) -> Rows:
    """No item is selected, and the server had nothing to send."""
    info = reading.info
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
