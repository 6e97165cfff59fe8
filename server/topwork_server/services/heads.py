"""The Heads service: trains, evaluates, serves and exports heads through their manager."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
from topwork.v1 import heads_pb2, heads_pb2_grpc, jobs_pb2, types_pb2

from topwork_server.access.passes import HeadPass, set_pass
from topwork_server.config import Config
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.heads.evaluation.report_page import render_page
from topwork_server.heads.head_manager import HeadManager
from topwork_server.heads.serving.head_output import spread_output
from topwork_server.heads.serving.predictor import PredictionResult, Predictor, PredictParams
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.services.convert import head_messages, item_messages
from topwork_server.services.encoders import LARGE
from topwork_server.services.jobs import job_message
from topwork_server.services.request_checks import (
    Context,
    check_encoder_name,
    check_item_count,
    check_name,
    check_reply_size,
    check_set_name,
    deadline,
)
from topwork_server.services.streaming import RequestStream, load_of, settings_of
from topwork_server.services.uploads import Upload, UploadStore

#: The kind of name that requests have, and the method that lists them.
HEAD = ("head", "ListHeads")
#: Bytes of a chunk of an exported head.
CHUNK_BYTES = 1 << 20
#: Ids of stored items that one request may name.
MOST_STORED = 100_000

Settings = heads_pb2.PredictSettings
Reply = heads_pb2.PredictResponse


class HeadsService(heads_pb2_grpc.HeadsServicer):
    def __init__(
        self,
        heads: HeadManager,
        sets: FeatureSets,
        plugins: PluginRegistry,
        predictor: Predictor,
        config: Config,
        spool: UploadStore,
        stopping: asyncio.Event,
    ) -> None:
        self._stopping = stopping
        self._heads, self._sets, self._plugins, self._spool = heads, sets, plugins, spool
        self._max_items = config.max_items
        self._predictor = predictor

    async def ListTrainers(  # noqa: N802
        self, request: heads_pb2.ListTrainersRequest, context: Context
    ) -> heads_pb2.ListTrainersResponse:
        trainers = [head_messages.trainer(one) for one in self._plugins.trainers().values()]
        return heads_pb2.ListTrainersResponse(trainers=trainers)

    async def Train(self, request: heads_pb2.TrainRequest, context: Context) -> heads_pb2.Head:  # noqa: N802
        return head_messages.head(await self._heads.train(head_messages.train_request(request)))

    async def ListHeads(  # noqa: N802
        self, request: heads_pb2.ListHeadsRequest, context: Context
    ) -> heads_pb2.ListHeadsResponse:
        found = await self._heads.list(check_encoder_name(request.encoder) if request.encoder else "")
        return heads_pb2.ListHeadsResponse(heads=[head_messages.head(one) for one in found])

    async def GetHead(self, request: heads_pb2.GetHeadRequest, context: Context) -> heads_pb2.Head:  # noqa: N802
        described = await self._heads.get(await self._pass_for(request.name))
        counts = self._predictor.counts.recent(described.head) if described.head else None
        shift = None if counts is None else await asyncio.to_thread(self._heads.label_shift, described.name, counts)
        return head_messages.head(described, shift)

    async def DropHead(self, request: heads_pb2.DropHeadRequest, context: Context) -> heads_pb2.DropHeadResponse:  # noqa: N802
        await self._heads.drop(await self._pass_for(request.name))
        return heads_pb2.DropHeadResponse()

    async def GetReport(self, request: heads_pb2.GetReportRequest, context: Context) -> heads_pb2.Report:  # noqa: N802
        report = await self._heads.report(await self._pass_for(request.name))
        made = await asyncio.to_thread(render_page, report) if request.page else ""
        return heads_pb2.Report(json=json.dumps(report.to_record()), page=made)

    async def Probe(self, request: heads_pb2.ProbeRequest, context: Context) -> jobs_pb2.Job:  # noqa: N802
        return job_message(await self._heads.probe(head_messages.probe_request(request)))

    async def Predict(self, request: heads_pb2.PredictRequest, context: Context) -> heads_pb2.PredictResponse:  # noqa: N802
        started = time.monotonic()
        params = head_messages.predict_params(request.settings, deadline(context), context.peer(), wait=False)
        names = await self._passes_for(request.settings)
        try:
            found = await self._predicted(names, params, request)
        except NotFound:
            await self._heads.check_served(names)  # of one that is in training there is more to say
            raise
        return await _reply(found, request.settings, started)

    async def PredictStream(  # noqa: N802
        self, requests: AsyncIterator[heads_pb2.PredictStreamRequest], context: Context
    ) -> None:
        first = await settings_of(requests, "items", self._stopping)
        settings, names = first.settings, await self._passes_for(first.settings)
        params = head_messages.predict_params(settings, deadline(context), object(), wait=True)
        await self._heads.check_served(names)  # now, and not with the first items

        async def answer(message: heads_pb2.PredictStreamRequest, upload: Upload | None) -> Reply:
            started = time.monotonic()
            return await _reply(await self._of_items(names, params, message.items.items, upload), settings, started)

        stream = RequestStream("items", answer, lambda message: load_of(message.items.items), self._spool, self._stopping)
        await stream.run(requests, context.write)

    async def ExportHead(self, request: heads_pb2.ExportHeadRequest, context: Context) -> None:  # noqa: N802
        name = await self._pass_for(request.name)
        data, description = await self._heads.export(name)
        for start in range(0, len(data), CHUNK_BYTES):
            chunk, about = data[start : start + CHUNK_BYTES], description if start == 0 else ""
            await context.write(heads_pb2.ExportHeadResponse(chunk=chunk, total=len(data), description=about))

    async def _pass_for(self, name: str) -> HeadPass:
        return await self._heads.pass_for(check_name(name, *HEAD))

    async def _passes_for(self, settings: Settings) -> list[HeadPass]:
        if not settings.heads:
            raise InvalidInput("no head is named", remedy="name one or more of `ListHeads`")
        return [await self._heads.pass_for(name) for name in settings.heads]

    def _other_set(self, name: str) -> FeatureSet:
        """Open another set that a head learned from."""
        return self._sets.get(set_pass(name))

    async def _predicted(
        self, names: Sequence[HeadPass], params: PredictParams, request: heads_pb2.PredictRequest
    ) -> PredictionResult:
        match request.WhichOneof("input"):
            case "items":
                return await self._of_items(names, params, request.items.items)
            case "vectors":
                rows = item_messages.float_rows(request.vectors, "vectors")
                return await self._predictor.predict_vectors(names, rows, request.fingerprint, params)
            case "stored":
                return await self._of_stored(names, params, request.stored)
        raise InvalidInput("nothing to predict", remedy="send items, vectors, or ids of a set")

    async def _of_items(
        self, names: Sequence[HeadPass], params: PredictParams, messages: Sequence[types_pb2.Item], upload: Upload | None = None
    ) -> PredictionResult:
        check_item_count(messages, self._max_items, "PredictStream")
        items, positions, failures = item_messages.items(messages, upload.path if upload else None, skip=params.skip_bad_items)
        found = await self._predictor.predict(names, params, items)
        if not failures:
            return found
        return PredictionResult(
            outputs=tuple(spread_output(output, np.array(positions, np.int64), len(messages)) for output in found.outputs),
            features=tuple(features.among(positions, failures) for features in found.features),
            notes={positions[i]: note for i, note in found.notes.items()},
            failures={**{positions[i]: error for i, error in found.failures.items()}, **failures},
            timings=found.timings,
        )

    async def _of_stored(
        self, names: Sequence[HeadPass], params: PredictParams, stored: heads_pb2.StoredItems
    ) -> PredictionResult:
        if not 1 <= len(stored.ids) <= MOST_STORED:
            raise InvalidInput(f"{len(stored.ids)} ids of stored items", remedy=f"send 1 to {MOST_STORED:,} at a time")
        feature_set = await asyncio.to_thread(self._sets.get, check_set_name(stored.set))
        return await self._predictor.predict_stored(names, feature_set, list(stored.ids), params, self._other_set)


async def _reply(result: PredictionResult, settings: Settings, started: float) -> Reply:
    total = time.monotonic() - started
    if head_messages.prediction_size(result) > LARGE:
        reply = await asyncio.to_thread(head_messages.predict_response, result, settings.top, total)
    else:
        reply = head_messages.predict_response(result, settings.top, total)
    return check_reply_size(reply, "send fewer items at a time, ask for the top few classes, or for no features")
