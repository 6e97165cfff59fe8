"""Metadata of a feature set: counted, changed without its vectors, and its columns. See `embed_ops.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from topwork._codec import decode_sets
from topwork._ops.set_ops import numbered
from topwork._transport.calls import ClientState, Steps, unary
from topwork._transport.methods import CHANGE_COLUMN, COUNT_ROWS, GET_SET, UPDATE_ROWS
from topwork.errors import InvalidInput
from topwork.sets import SetInfo, UpdateReport
from topwork.v1 import sets_pb2

#: Ids in one message of an update, each of which is one commit.
IDS = 50_000


def count(session: ClientState, set: str, where: str = "", *, version: int | str = 0, timeout: float | None = None) -> Steps[int]:
    """How many items a filter matches; all without one. `version` as for `read`."""
    number = yield from numbered(session, set, version, timeout)
    request = sets_pb2.CountRowsRequest(set=set, where=where, version=number)
    return (yield from unary(COUNT_ROWS, request, timeout)).count


def update(
    session: ClientState,
    set: str,
    ids: str | int | Iterable[str | int] | None = None,
    metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    where: str = "",
    timeout: float | None = None,
) -> Steps[UpdateReport]:
    """Change metadata alone: the items' vectors are not sent, and other columns stay as they are.

    ids       with `metadata` as for `write`: a dict an item (all with the same columns), a dict of columns, a data frame; or one
              dict of single values for all of them. Ids that are not there are no error: see `missing` of what is returned
    where     a filter instead of ids, with one dict of values for all that match
    metadata  None takes a value away. A column that the set lacks is added; one of whole numbers widens to floats

    Up to 50,000 ids (or all that a filter matches) change in one commit.
    """
    if (ids is None) == (not where):
        raise InvalidInput("an update is of ids or of a filter", remedy="pass one of the two")
    from topwork._codec.metadata import ColumnTypes
    from topwork._ops.update_columns import by_filter, by_ids

    known = ColumnTypes(decode_sets.feature_set((yield from unary(GET_SET, sets_pb2.GetSetRequest(set=set), timeout))).columns)
    chosen, columns = ([], by_filter(metadata)) if ids is None else by_ids(ids, metadata)
    known.survey(columns)
    updated, missing, version = 0, list[str](), 0
    for start in range(0, len(chosen) if ids is not None else 1, IDS):
        end = start + IDS
        part = known.pack({name: values[start:end] for name, values in columns.items()}, start)
        request = sets_pb2.UpdateRowsRequest(set=set, ids=chosen[start:end], where=where, metadata=part)
        reply = yield from unary(UPDATE_ROWS, request, timeout, start)
        updated, version = updated + reply.updated, reply.version
        missing += reply.missing
    session.sets.pop(set, None)
    return UpdateReport(updated, tuple(missing), version)


def add_column(session: ClientState, set: str, column: str, type: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """A metadata column without values: "bool", "int", "float", "string", "time" or "strings". Raises AlreadyExists."""
    return (yield from _changed(session, sets_pb2.ChangeColumnRequest(set=set, column=column, add=_type(type)), timeout))


def rename_column(session: ClientState, set: str, column: str, to: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Give a metadata column another name. Raises NotFound, and AlreadyExists where the name is taken."""
    return (yield from _changed(session, sets_pb2.ChangeColumnRequest(set=set, column=column, rename=to), timeout))


def cast_column(session: ClientState, set: str, column: str, type: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Give a metadata column another type. Raises InvalidInput, and changes nothing, where a value would be lost."""
    return (yield from _changed(session, sets_pb2.ChangeColumnRequest(set=set, column=column, cast=_type(type)), timeout))


def drop_column(session: ClientState, set: str, column: str, *, timeout: float | None = None) -> Steps[SetInfo]:
    """Take a metadata column away; older versions keep it. Raises NotFound."""
    request = sets_pb2.ChangeColumnRequest(set=set, column=column, drop=sets_pb2.DropColumn())
    return (yield from _changed(session, request, timeout))


def _changed(session: ClientState, request: sets_pb2.ChangeColumnRequest, timeout: float | None) -> Steps[SetInfo]:
    reply = yield from unary(CHANGE_COLUMN, request, timeout)
    info = session.sets[request.set] = decode_sets.feature_set(reply)
    return info


def _type(name: str) -> sets_pb2.ColumnType:
    from topwork._codec.metadata import type_number

    return type_number(name)
