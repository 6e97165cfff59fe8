"""Reading feature sets, and keeping house with them. See `embed_ops.py`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from topwork._codec import decode_sets
from topwork._ops.progress_bar import Progress
from topwork._transport.calls import ClientState, Steps, StreamCall, unary
from topwork._transport.methods import (
    DELETE_ROWS,
    DROP_SET,
    GET_SET,
    LIST_SETS,
    LIST_VERSIONS,
    PIN_VERSION,
    PRUNE_VERSIONS,
    READ,
    UNPIN_VERSION,
)
from topwork.errors import DataLoss, InvalidInput, NotFound
from topwork.rows import Rows
from topwork.sets import Pruned, SavedSet, SetInfo, VersionInfo
from topwork.v1 import sets_pb2

#: Digits that no version has.
LONGEST_NUMBER = 19


def sets(session: ClientState, *, timeout: float | None = None) -> Steps[list[SetInfo]]:
    """All feature sets of the server, by name."""
    reply = yield from unary(LIST_SETS, sets_pb2.ListSetsRequest(), timeout)
    return [decode_sets.feature_set(message) for message in reply.sets]


def set(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """One set, as it stands now. Raises NotFound."""
    reply = yield from unary(GET_SET, sets_pb2.GetSetRequest(set=name), timeout)
    info = session.sets[name] = decode_sets.feature_set(reply)
    return info


def drop_set(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[None]:
    """Delete a set with its versions and its indexes. Raises NotFound."""
    session.sets.pop(name, None)
    yield from unary(DROP_SET, sets_pb2.GetSetRequest(set=name), timeout)


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
    from topwork._ops import read_requests

    number = yield from numbered(session, set, version, timeout)
    request = read_requests.asked(set, taps, columns, where, ids, number, offset, limit, inputs)
    return (yield from read_requests.whole(session, request, ids is not None, progress, timeout))


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
    """As `read`, a part at a time (of some megabytes), for sets of any size: memory stays bounded.

    A server that restarts meanwhile is met with retries: nothing is lost and nothing comes twice.
    """
    from topwork._ops import read_requests

    number = yield from numbered(session, set, version, timeout)
    request = read_requests.asked(set, taps, columns, where, ids, number, offset, limit, inputs)
    reading = yield from read_requests.begun(session, request, ids is not None, timeout)
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
    """As `read`, into a file, a part at a time: memory stays bounded however large the set is.

    path  .npz (arrays), .parquet, .npy (the features of one tap), .jsonl or .csv. The file appears whole or not at all
    """
    from topwork._ops import read_requests

    number = yield from numbered(session, set, version, timeout)
    request = read_requests.asked(set, taps, columns, where, ids, number, offset, limit, inputs)
    return (yield from read_requests.saved(session, request, ids is not None, Path(path), progress, timeout))


def delete(
    session: ClientState,
    set: str,
    ids: str | int | Iterable[str | int] | None = None,
    *,
    where: str = "",
    timeout: float | None = None,
) -> Steps[int]:
    """Delete items by id (those that are not there are no error) or by a filter, not both. How many they were."""
    from topwork._ops.item_labels import texts

    if (ids is None) == (not where):
        raise InvalidInput("a deletion is by ids or by a filter", remedy="pass one of the two")
    chosen = [] if ids is None else texts(ids)
    if ids is not None and not chosen:
        return 0
    request = sets_pb2.DeleteRowsRequest(set=set, ids=chosen, where=where)
    return (yield from unary(DELETE_ROWS, request, timeout)).deleted


def versions(session: ClientState, set: str, *, timeout: float | None = None) -> Steps[list[VersionInfo]]:
    """The versions that can still be read, oldest first."""
    return decode_sets.versions((yield from unary(LIST_VERSIONS, sets_pb2.GetSetRequest(set=set), timeout)))


def numbered(session: ClientState, set: str, version: int | str, timeout: float | None) -> Steps[int]:
    """The number of a version that is named by its number or by its pin. Raises NotFound, or DataLoss for a damaged pin."""
    if not isinstance(version, str):
        return version
    reply = yield from unary(LIST_VERSIONS, sets_pb2.GetSetRequest(set=set), timeout)
    pins = {pin: found.version for found in reply.versions for pin in found.pins}
    if version in pins:
        return pins[version]
    for damaged in reply.damaged_pins:
        if damaged.pin == version:
            raise DataLoss(damaged.damage, remedy=damaged.remedy)
    if version.isdecimal() and len(version) < LONGEST_NUMBER:
        return int(version)
    raise NotFound(f"{set} has no pin {version!r}", remedy=f"its pins: {', '.join(pins) or 'none'}")


def pin(session: ClientState, set: str, pin: str, version: int = 0, *, timeout: float | None = None) -> Steps[VersionInfo]:
    """Keep a version (0: the current one) from pruning, under a name."""
    request = sets_pb2.PinVersionRequest(set=set, pin=pin, version=version)
    return decode_sets.version((yield from unary(PIN_VERSION, request, timeout)))


def unpin(session: ClientState, set: str, pin: str, *, timeout: float | None = None) -> Steps[None]:
    """Let a pinned version be pruned again. Raises NotFound."""
    yield from unary(UNPIN_VERSION, sets_pb2.PinVersionRequest(set=set, pin=pin), timeout)


def prune(session: ClientState, set: str, older_than: float, *, timeout: float | None = None) -> Steps[Pruned]:
    """Delete the versions that nobody pinned and that are older than so many seconds. The current one stays."""
    reply = yield from unary(PRUNE_VERSIONS, sets_pb2.PruneVersionsRequest(set=set, older_than=older_than), timeout)
    return Pruned(reply.removed, reply.bytes)
