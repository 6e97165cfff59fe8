"""Resolves the query of a search: embeds its items, checks its vectors, or looks up its stored ids.

A query of another fingerprint than the set's rows is refused, and the error names both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from topwork.v1 import indexes_pb2, types_pb2

from topwork_server.access.passes import encoder_pass
from topwork_server.errors import InvalidInput, NotReady, TooLarge
from topwork_server.feature_sets.set_names import MOST_ID_BYTES
from topwork_server.indexes.index import OpenedIndex
from topwork_server.indexes.index_types import MOST_HITS, SearchQuery
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.inference.roles import options_of_queries
from topwork_server.models.catalog import Catalog
from topwork_server.services.convert import index_messages, item_messages
from topwork_server.types import Array, FingerprintedTap, Item, Role, Timings, check_modality

#: Hits that one request may ask for: queries times k.
MOST_IN_ALL = 2_000_000
USUAL_K = 10

Request = indexes_pb2.SearchRequest


@dataclass(frozen=True, slots=True)
class ResolvedQuery:
    """A query before its filter, and the time that the encoder took for it."""

    query: SearchQuery
    timings: Timings


class QueryResolver:
    def __init__(self, engine: Engine, catalog: Catalog, most_items: int) -> None:
        self._engine, self._catalog, self._most_items = engine, catalog, most_items

    async def resolve(self, request: Request, opened: OpenedIndex, deadline: float | None, client: Hashable) -> ResolvedQuery:
        """The query as vectors. NotReady where its fingerprint is not the set's."""
        tap, kind = opened.definition.tap, request.WhichOneof("query")
        if request.fingerprint:
            check_fingerprint(request.fingerprint, tap, "the query has")
        k = request.k or USUAL_K
        if k + request.offset > MOST_HITS:
            behind = f" behind {request.offset} others" if request.offset else ""
            raise InvalidInput(f"k = {k}{behind}", remedy=f"ask for at most {MOST_HITS} hits, offset included")
        k += request.offset
        _check_count(request, k, self._most_items)
        if kind != "items" and request.encoder:
            await self._check_encoder(encoder_pass(request.encoder), opened)
        if kind == "items":
            resolved = await self._of_items(request, opened, deadline, client)
        elif kind == "vectors":
            rows = index_messages.vectors(request.vectors, tap.tap.dim)
            resolved = ResolvedQuery(_query(rows, np.ones(len(rows), np.int64)), Timings())
        else:
            resolved = ResolvedQuery(await asyncio.to_thread(_of_stored, list(request.stored.values), opened), Timings())
        return replace(resolved, query=_with_settings(resolved.query, request, k))

    async def _of_items(self, request: Request, opened: OpenedIndex, deadline: float | None, client: Hashable) -> ResolvedQuery:
        tap, wanted = opened.definition.tap, opened.feature_set.definition
        if not (request.encoder or wanted.encoder):
            raise NotReady(
                f"the set {wanted.name} holds ready vectors of no encoder (fingerprint {tap.fingerprint or 'not said'})",
                remedy="search it by vectors or by stored ids, or name the encoder that made them",
            )
        name = encoder_pass(request.encoder or wanted.encoder)
        items = [_item(message, position) for position, message in enumerate(request.items.items)]
        if name == wanted.encoder:
            whose = f"the set {wanted.name}, of {name} (fingerprint {tap.fingerprint}),"
            check_modality(items, wanted.modalities, whose, "search it with what its encoder reads")
            async with self._engine.acquire(name) as loaded:
                options = options_of_queries(loaded, wanted.options, tap.tap)
            params = EmbedParams(name, (tap.tap.name,), options, deadline, client=client)
        else:
            other = await asyncio.to_thread(self._tap_of_other, name, tap)
            params = EmbedParams(name, other, deadline=deadline, client=client, role=Role.QUERY)
        features = await self._engine.embed(params, items)
        rows = features.taps[0]
        check_fingerprint(rows.tap.fingerprint, tap, f"the tap {rows.tap.tap.name} of {name} has")
        return ResolvedQuery(_query(np.asarray(rows.rows, np.float32), np.asarray(rows.counts, np.int64)), features.timings)

    async def _check_encoder(self, name: str, opened: OpenedIndex) -> None:
        """An encoder that is named beside ready rows must be one that makes such rows. It reads nothing."""
        tap = opened.definition.tap
        if name == opened.feature_set.definition.encoder or len(await asyncio.to_thread(self._tap_of_other, name, tap)):
            return
        raise InvalidInput(
            f"the encoder {name} is named beside vectors or stored ids, and it is not known whether it makes such rows",
            remedy="leave it out: it is for queries that are to be encoded",
        )

    def _tap_of_other(self, name: str, tap: FingerprintedTap) -> tuple[str, ...]:
        """The tap of another encoder that means the same; the default one where nothing is known before the export."""
        entry = self._catalog.entry(name)
        if not entry.taps:
            return ()
        same = next((info for info in entry.taps if info.fingerprint == tap.fingerprint), None)
        other = same or entry.tap(tap.tap.name) or entry.taps[0]
        check_fingerprint(other.fingerprint, tap, f"the tap {other.tap.name} of {name} has")
        return (other.tap.name,)


def check_fingerprint(found: str, tap: FingerprintedTap, whose: str) -> None:
    if found != tap.fingerprint:
        raise NotReady(
            f"{whose} fingerprint {found or 'none'}, and the set's tap {tap.tap.name} has {tap.fingerprint or 'none'}",
            remedy="these features do not mix: embed the query with the encoder that made the set, or write the set again",
        )


def _check_count(request: Request, k: int, most_items: int) -> None:
    queries, most = 0, MOST_IN_ALL
    match request.WhichOneof("query"):
        case "items":
            queries, most = len(request.items.items), most_items
        case "vectors":
            queries = request.vectors.shape[0] if request.vectors.shape else 0
        case "stored":
            queries = len(request.stored.values)
    if queries < 1:
        raise InvalidInput("nothing to search for", remedy="send items, vectors, or ids of the set")
    if queries > most:
        raise InvalidInput(f"{queries} items in one search, which may have {most}", remedy="send fewer at a time")
    if queries * k > MOST_IN_ALL:
        raise TooLarge(
            f"{queries} queries with k = {k} may have {queries * k:,} hits, and a reply at most {MOST_IN_ALL:,}",
            remedy="send fewer queries at a time, or ask for a smaller k",
        )


def _item(message: types_pb2.Item, position: int) -> Item:
    try:
        return item_messages.item(message)
    except InvalidInput as error:
        raise error.at(position) from None


def _query(rows: Array, counts: Array) -> SearchQuery:
    """Make a query. `without` is always there: it says how many queries there are, also where the last has no row."""
    return SearchQuery(rows, np.repeat(np.arange(len(counts)), counts), without=np.full(len(counts), -1))


def _with_settings(query: SearchQuery, request: Request, k: int) -> SearchQuery:
    within = request.within if request.HasField("within") else None
    return replace(query, k=k, within=within, every_row=request.every_row, exact=request.exact, effort=request.effort)


def _of_stored(ids: list[str], opened: OpenedIndex) -> SearchQuery:
    """Read the rows of stored items, in a thread; no item is to be among its own hits."""
    for position, one in enumerate(ids):
        if len(one) > MOST_ID_BYTES:
            raise InvalidInput(f"an id of {len(one):,} characters", remedy=f"at most {MOST_ID_BYTES} bytes", item=position)
    (rows,), keys = opened.feature_set.stored_rows(ids, (opened.definition.tap.tap.name,))
    return replace(_query(np.asarray(rows.rows, np.float32), np.asarray(rows.counts, np.int64)), without=keys)
