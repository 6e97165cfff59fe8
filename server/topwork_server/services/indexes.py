"""The Indexes service: manages indexes, resolves queries, searches by the executor, and converts hits into messages."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
from topwork.v1 import indexes_pb2, indexes_pb2_grpc

from topwork_server.access.passes import visible_sets
from topwork_server.blocking_calls import in_thread
from topwork_server.config import Config
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.indexes.executor import SearchExecutor
from topwork_server.indexes.index import OpenedIndex
from topwork_server.indexes.index_manager import IndexManager
from topwork_server.indexes.index_types import CreateIndexParams, IndexDescription, SearchHits, SearchQuery
from topwork_server.indexes.live_recall import LiveRecallSampler
from topwork_server.indexes.prepared_query import prepare_query
from topwork_server.indexes.row_filter import FilterCache
from topwork_server.inference.engine import Engine
from topwork_server.jobs.job_records import JobRecord
from topwork_server.jobs.manager import JobManager
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.services.convert import index_messages, item_messages
from topwork_server.services.request_checks import Context, check_reply_size, check_set_name, deadline
from topwork_server.services.search_query import QueryResolver
from topwork_server.services.search_reply import make_reply, needs_fetch, skip_best
from topwork_server.types import Array

#: Replies with more hits than this are made in a thread.
MANY = 2000
#: Queries of an index's own that recall is measured on.
MOST_QUERIES = 1000
#: How often a filtered search is done again because the set was written to meanwhile.
TRIES = 3


class IndexesService(indexes_pb2_grpc.IndexesServicer):
    """`live_recall` is offered every search that an index answers; None for none."""

    def __init__(
        self,
        indexes: IndexManager,
        executor: SearchExecutor,
        jobs: JobManager,
        plugins: PluginRegistry,
        engine: Engine,
        catalog: Catalog,
        config: Config,
        live_recall: LiveRecallSampler | None = None,
    ) -> None:
        self._live_recall = live_recall
        self._indexes, self._executor, self._jobs, self._plugins = indexes, executor, jobs, plugins
        self._resolver = QueryResolver(engine, catalog, config.max_items)
        self._filters = FilterCache()

    async def ListKinds(  # noqa: N802
        self, request: indexes_pb2.ListKindsRequest, context: Context
    ) -> indexes_pb2.ListKindsResponse:
        return indexes_pb2.ListKindsResponse(kinds=[index_messages.kind(one) for one in self._plugins.indexes().values()])

    async def CreateIndex(  # noqa: N802
        self, request: indexes_pb2.CreateIndexRequest, context: Context
    ) -> indexes_pb2.Index:
        params = index_messages.create_index_params(request)
        if request.WhichOneof("queries"):
            params = replace(params, queries=await self._queries(request, params, context))
        return self._message(await self._indexes.create(params))

    async def _queries(self, request: indexes_pb2.CreateIndexRequest, params: CreateIndexParams, context: Context) -> Array:
        """The caller's own queries as they are searched: (q, dim), at most so many of them."""
        opened = await self._indexes.open_unindexed(params.set, params.tap, params.metric)
        resolved = await self._resolver.resolve(
            index_messages.search_for_queries(request), opened, deadline(context), context.peer()
        )
        rows = prepare_query(resolved.query, params.metric, opened.definition.tap.tap.dim).vectors
        if not len(rows):
            raise InvalidInput("the queries of the index have no rows", remedy="send queries that the encoder gives rows for")
        chosen: Array = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_QUERIES)).astype(int)]
        return chosen

    async def ListIndexes(  # noqa: N802
        self, request: indexes_pb2.ListIndexesRequest, context: Context
    ) -> indexes_pb2.ListIndexesResponse:
        name = check_set_name(request.set) if request.set else None
        found = [self._message(one) for one in await self._indexes.list(name)]
        found += [index_messages.damaged(one) for one in self._indexes.damaged(request.set) if visible_sets([one.set])]
        found.sort(key=lambda one: (one.set, one.name))
        return indexes_pb2.ListIndexesResponse(indexes=found)

    async def GetIndex(self, request: indexes_pb2.GetIndexRequest, context: Context) -> indexes_pb2.Index:  # noqa: N802
        name = check_set_name(request.set)
        if request.name and (damaged := self._indexes.damaged(name, request.name)):
            return index_messages.damaged(damaged[0])
        return self._message(await self._indexes.get(name, request.name))

    async def RebuildIndex(self, request: indexes_pb2.RebuildIndexRequest, context: Context) -> indexes_pb2.Index:  # noqa: N802
        return self._message(await self._indexes.rebuild(check_set_name(request.set), request.name))

    async def DropIndex(  # noqa: N802
        self, request: indexes_pb2.DropIndexRequest, context: Context
    ) -> indexes_pb2.DropIndexResponse:
        await self._indexes.drop(check_set_name(request.set), request.name)
        return indexes_pb2.DropIndexResponse()

    async def Search(  # noqa: N802
        self, request: indexes_pb2.SearchRequest, context: Context
    ) -> indexes_pb2.SearchResponse:
        started = time.monotonic()
        metric = index_messages.metric(request.metric) if request.metric else None
        opened = await self._indexes.open(check_set_name(request.set), request.index, metric)
        resolved = await self._resolver.resolve(request, opened, deadline(context), context.peer())
        began = time.monotonic()
        hits = await self._hits(opened, resolved.query, request.where, deadline(context))
        searched = time.monotonic() - began
        response = await self._response(request, skip_best(hits, request.offset), opened)
        response.search_seconds = searched
        response.unindexed, response.rows_compared = not opened.indexed, hits.compared
        response.timings.CopyFrom(item_messages.timings(resolved.timings, time.monotonic() - started))
        return check_reply_size(response, "ask for fewer hits, fewer columns or no vectors, or send fewer queries at a time")

    async def _response(
        self, request: indexes_pb2.SearchRequest, hits: SearchHits, opened: OpenedIndex
    ) -> indexes_pb2.SearchResponse:
        def made() -> indexes_pb2.SearchResponse:
            found = make_reply(request, hits, opened)
            return index_messages.response(found, opened.definition, with_vectors=request.with_vectors)

        return await asyncio.to_thread(made) if len(hits.keys) > MANY or needs_fetch(request, opened) else made()

    async def _hits(self, opened: OpenedIndex, query: SearchQuery, where: str, until: float | None) -> SearchHits:
        """Filter and search of one version, where writers let us: an item replaced between the two would not be found."""
        if not where:
            return await self._searched(opened, query)
        for _ in range(TRIES):
            known = self._filters.cached_keys(opened.feature_set, where)
            if known is None:
                known = await in_thread(lambda check: self._filters.keys(opened.feature_set, where, check), until)
            version, allowed = known
            hits = await self._searched(opened, replace(query, allowed=allowed))
            if hits.version == version:
                break
        return hits

    async def _searched(self, opened: OpenedIndex, query: SearchQuery) -> SearchHits:
        hits = await self._executor.search(opened.live, query)
        if self._live_recall:
            self._live_recall.offer(opened.live, query, hits)
        return hits

    def _message(self, described: IndexDescription) -> indexes_pb2.Index:
        definition = described.definition
        live = self._live_recall.figures(definition.set, definition.name, described.facts) if self._live_recall else ()
        return index_messages.index(described, self._job(described.job), live)

    def _job(self, id: str) -> JobRecord | None:
        try:
            return self._jobs.get(id)
        except NotFound:  # none yet, or its record is among those that were dropped
            return None
