"""The fields of messages about models, and about which are in memory: they are the same on both wires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from topwork_server import __version__
from topwork_server.access.passes import encoder_pass
from topwork_server.doors.oip.head_outputs import TensorSpec
from topwork_server.doors.oip.inference import VERSION, check_version
from topwork_server.doors.oip.models import ModelDescription, encoder_model, head_model
from topwork_server.doors.oip.tensors import BYTES, flag
from topwork_server.doors.prediction import PREFIX, HeadPredictor
from topwork_server.errors import TopworkError, Unavailable, Unsupported
from topwork_server.heads.head_status import HeadDescription
from topwork_server.heads.head_types import Head
from topwork_server.histogram import BucketHistogram
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.engine import Engine
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.services.encoders import readable_entries

PLATFORM = "topwork"
#: Extensions of the protocol (Triton's names) that are served.
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics")
#: A parameter of an unload: of a head, drop its encoders from memory too.
DEPENDENTS = "unload_dependents"

Fields = dict[str, Any]


class ModelRepository:
    """Tells of the models of one server, loads and unloads them. `serves` tells whether an encoder would answer now."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        heads: HeadPredictor,
        serves: Callable[[str], bool],
        extensions: Sequence[str] = (),
    ) -> None:
        self._engine, self._catalog, self._heads, self._serves = engine, catalog, heads, serves
        self._extensions = sorted((*EXTENSIONS, *extensions))

    def server(self) -> Fields:
        """The fields of ServerMetadataResponse."""
        return {"name": "topwork", "version": __version__, "extensions": self._extensions}

    async def metadata(self, model: str, version: str) -> Fields:
        """The fields of ModelMetadataResponse. NotReady where the model's taps are not known yet."""
        found = await self._described(model, version)
        return {
            "name": model,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_metadata_tensor(one) for one in found.inputs],
            "outputs": [_metadata_tensor(one) for one in found.outputs],
            "properties": found.properties,
        }

    async def config(self, model: str, version: str) -> Fields:
        """The fields of ModelConfig. Shapes have their first axis, of items: `max_batch_size` is 0."""
        found = await self._described(model, version)
        several = len(found.inputs) > 1
        return {
            "name": model,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "max_batch_size": 0,
            "input": [{**_config_tensor(one), "optional": several} for one in found.inputs],
            "output": [_config_tensor(one) for one in found.outputs],
            "parameters": {name: {"string_value": value} for name, value in found.properties.items()},
        }

    async def is_ready(self, model: str, version: str) -> bool:
        """Tell whether a model would answer now; False for one that is not there."""
        try:
            check_version(model, version)
            return not await self._why_not_ready(await self._heads.of_model(model), model)
        except TopworkError:
            return False

    async def statistics(self, model: str, version: str) -> Sequence[Fields]:
        """The fields of ModelStatistics of one model, or of all where none is named."""
        if model:
            check_version(model, version)
            head = await self._heads.of_model(model)
            return [self._statistics_of_head(model, head) if head else self._statistics_of(model)]
        names = [entry.spec.name for entry in await self._entries()]
        heads = [(name, one.head) for name, one in await self._listed_heads(names) if one.head]
        return [*map(self._statistics_of, names), *(self._statistics_of_head(name, head) for name, head in heads)]

    async def index(self, only_ready: bool) -> Sequence[Fields]:
        """The fields of ModelIndex of each model."""
        entries = await self._entries()
        found = [await self._index_of(entry) for entry in entries]
        heads = await self._listed_heads([entry.spec.name for entry in entries])
        found += [await self._index_of_head(name, one) for name, one in heads]
        return [one for one in found if one["state"] == "READY" or not only_ready]

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Load a model into memory, where it may be exported first. Unsupported for one that is sent."""
        if parameters:
            raise Unsupported(
                "a load that brings a model or its configuration", remedy="add the model to the server by `topwork pull`"
            )
        head = await self._heads.of_model(model)
        for encoder in head.encoders if head else (model,):
            async with self._engine.acquire(encoder_pass(encoder)):
                pass
        if head:
            await self._heads.load(head)

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Drop a model from memory. Unavailable while an encoder is in use."""
        if not parameters.keys() <= {DEPENDENTS}:
            raise Unsupported("an unload with parameters", remedy=f"leave out all but {DEPENDENTS}")
        dependents, head = flag(parameters, DEPENDENTS), await self._heads.of_model(model)
        if head:
            self._heads.unload(head)
        for encoder in (head.encoders if dependents else ()) if head else (model,):
            if not self._engine.unload(encoder) and self._engine.loaded_encoder(encoder):
                raise Unavailable(f"the model {encoder} is in use", remedy="unload it when its requests are done")

    async def _described(self, model: str, version: str) -> ModelDescription:
        check_version(model, version)
        head = await self._heads.of_model(model)
        reads = await self._heads.reads(head) if head else ()

        def describe() -> ModelDescription:
            entry = self._catalog.entry(head.encoder if head else model)
            return head_model(head, entry, reads) if head else encoder_model(entry)

        return await asyncio.to_thread(describe)

    async def _entries(self) -> Sequence[CatalogEntry]:
        return await asyncio.to_thread(readable_entries, self._catalog)

    async def _listed_heads(self, encoders: Sequence[str]) -> Sequence[tuple[str, HeadDescription]]:
        """All heads, by the names that they have as models."""
        return [(PREFIX * (one.name in encoders) + one.name, one) for one in await self._heads.listed()]

    async def _why_not_ready(self, head: Head | None, model: str) -> str:
        """Tell why a model would not answer now; "" where it would."""
        if head:
            await self._heads.reads(head)
        for encoder in head.encoders if head else (model,):
            if not await asyncio.to_thread(self._serves, encoder):
                return f"the encoder {encoder} does not serve"
        return ""

    async def _index_of(self, entry: CatalogEntry) -> Fields:
        name, loaded = entry.spec.name, self._engine.loaded_encoder(entry.spec.name) is not None
        return await self._index_entry(name, None, entry.detail, loaded=loaded)

    async def _index_of_head(self, name: str, described: HeadDescription) -> Fields:
        if described.head is None:
            return _index_fields(name, described.detail or f"it is {described.state}")
        return await self._index_entry(name, described.head, "", loaded=self._heads.is_loaded(described.head))

    async def _index_entry(self, name: str, head: Head | None, detail: str, *, loaded: bool) -> Fields:
        try:
            if reason := await self._why_not_ready(head, name):
                return _index_fields(name, detail or reason)
        except TopworkError as error:
            return _index_fields(name, str(error))
        return _index_fields(name, "" if loaded else "on disk: its first request loads it", state="READY")

    def _statistics_of(self, encoder: str) -> Fields:
        """Requests and items are those of all doors since the server began; executions are batches since the model was loaded."""
        loaded = self._engine.loaded_encoder(encoder)
        batches = loaded.counters["batches"] if loaded else 0
        return _statistics(encoder, self._engine.statistics.get(encoder) or EmbedStatistics(), batches)

    def _statistics_of_head(self, name: str, head: Head) -> Fields:
        """As those of encoders; each request is an execution of the head's graph."""
        found = self._heads.statistics(head)
        return _statistics(name, found, found.succeeded)


def _index_fields(name: str, reason: str, state: str = "UNAVAILABLE") -> Fields:
    return {"name": name, "version": VERSION, "state": state, "reason": reason}


def _statistics(name: str, found: EmbedStatistics, executions: int) -> Fields:
    return {
        "name": name,
        "version": VERSION,
        "last_inference": round(found.last_success * 1000),
        "inference_count": found.items,
        "execution_count": executions,
        "inference_stats": {
            "success": _duration(found.total),
            "fail": {"count": found.failures.total(), "ns": 0},
            "queue": _duration(found.queue),
            "compute_input": _duration(found.preprocess),
            "compute_infer": _duration(found.compute),
        },
    }


def _duration(seconds: BucketHistogram) -> Fields:
    return {"count": sum(seconds.counts), "ns": round(seconds.sum * 1e9)}


def _metadata_tensor(one: TensorSpec) -> Fields:
    return {"name": one.name, "datatype": one.datatype, "shape": one.shape}


def _config_tensor(one: TensorSpec) -> Fields:
    data_type = "TYPE_STRING" if one.datatype == BYTES else f"TYPE_{one.datatype}"
    return {"name": one.name, "data_type": data_type, "dims": one.shape}
