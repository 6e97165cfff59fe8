"""The fields of messages about models, and about which are in memory: they are the same on both wires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from topwork_server import __version__
from topwork_server.doors.oip.inference import VERSION, check_version
from topwork_server.doors.oip.tensors import BYTES
from topwork_server.errors import NotFound, NotReady, TopworkError, Unavailable, Unsupported
from topwork_server.histogram import BucketHistogram
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.engine import Engine
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.services.encoders import readable_entries
from topwork_server.types import FingerprintedTap, Granularity, Modality

PLATFORM = "topwork"
#: Extensions of the protocol (Triton's names) that are served.
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
#: A parameter of an unload, which has no effect: no model here depends on another.
DEPENDENTS = "unload_dependents"

Fields = dict[str, Any]


class ModelRepository:
    """Tells of the models of one server, loads and unloads them. `serves` tells whether an encoder would answer now."""

    def __init__(self, engine: Engine, catalog: Catalog, serves: Callable[[str], bool], extensions: Sequence[str] = ()) -> None:
        self._engine, self._catalog, self._serves = engine, catalog, serves
        self._extensions = sorted((*EXTENSIONS, *extensions))

    def server(self) -> Fields:
        """The fields of ServerMetadataResponse."""
        return {"name": "topwork", "version": __version__, "extensions": self._extensions}

    async def metadata(self, model: str, version: str) -> Fields:
        """The fields of ModelMetadataResponse. NotReady where the model's taps are not known yet."""
        entry = await self._entry(model, version)
        return {
            "name": model,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_tensor(m.upper(), *_input(m)) for m in entry.spec.modalities],
            "outputs": [_tensor(info.tap.name, "FP32", _output_shape(info)) for info in _taps(entry)],
            "properties": _properties(entry),
        }

    async def config(self, model: str, version: str) -> Fields:
        """The fields of ModelConfig. Shapes have their first axis, of items: `max_batch_size` is 0."""
        entry = await self._entry(model, version)
        several = len(entry.spec.modalities) > 1
        return {
            "name": model,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "max_batch_size": 0,
            "input": [_config_input(modality, several) for modality in entry.spec.modalities],
            "output": [{"name": info.tap.name, "data_type": "TYPE_FP32", "dims": _output_shape(info)} for info in _taps(entry)],
            "parameters": {name: {"string_value": value} for name, value in _properties(entry).items()},
        }

    async def is_ready(self, model: str, version: str) -> bool:
        """Tell whether a model would answer now; False for one that is not there."""
        try:
            check_version(model, version)
            return await asyncio.to_thread(self._serves, model)
        except NotFound:
            return False

    async def statistics(self, model: str, version: str) -> Sequence[Fields]:
        """The fields of ModelStatistics of one model, or of all where none is named."""
        if model:
            return [self._statistics_of((await self._entry(model, version)).spec.name)]
        return [self._statistics_of(entry.spec.name) for entry in await self._entries()]

    async def index(self, only_ready: bool) -> Sequence[Fields]:
        """The fields of ModelIndex of each model."""
        found = [await self._index_of(entry) for entry in await self._entries()]
        return [one for one in found if one["state"] == "READY" or not only_ready]

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Load a model into memory, where it may be exported first. Unsupported for one that is sent."""
        if parameters:
            raise Unsupported(
                "a load that brings a model or its configuration", remedy="add the model to the server by `topwork pull`"
            )
        async with self._engine.acquire(await self._known(model)):
            pass

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Drop a model from memory. Unavailable while it is in use."""
        if not parameters.keys() <= {DEPENDENTS}:
            raise Unsupported("an unload with parameters", remedy=f"leave out all but {DEPENDENTS}")
        if not self._engine.unload(await self._known(model)) and self._engine.loaded_encoder(model):
            raise Unavailable(f"the model {model} is in use", remedy="unload it when its requests are done")

    async def _known(self, model: str) -> str:
        return (await asyncio.to_thread(self._catalog.spec, model)).name

    async def _entry(self, model: str, version: str) -> CatalogEntry:
        check_version(model, version)
        return await asyncio.to_thread(self._catalog.entry, model)

    async def _entries(self) -> Sequence[CatalogEntry]:
        return await asyncio.to_thread(readable_entries, self._catalog)

    async def _index_of(self, entry: CatalogEntry) -> Fields:
        name, state, reason = entry.spec.name, "UNAVAILABLE", entry.detail
        try:
            if await self.is_ready(name, VERSION):
                state = "READY"
                reason = "" if self._engine.loaded_encoder(name) else "on disk: its first request loads it"
        except TopworkError as error:
            reason = str(error)
        return {"name": name, "version": VERSION, "state": state, "reason": reason}

    def _statistics_of(self, name: str) -> Fields:
        """Requests and items are those of all doors since the server began; executions are batches since the model was loaded."""
        found, loaded = self._engine.statistics.get(name) or EmbedStatistics(), self._engine.loaded_encoder(name)
        return {
            "name": name,
            "version": VERSION,
            "last_inference": round(found.last_success * 1000),
            "inference_count": found.items,
            "execution_count": loaded.counters["batches"] if loaded else 0,
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


def _taps(entry: CatalogEntry) -> Sequence[FingerprintedTap]:
    """The taps, the usual one first. NotReady where the encoder is not exported."""
    if entry.manifest is None:
        raise NotReady(f"the model {entry.spec.name} is not ready", remedy=entry.detail or "load it: that exports it")
    return sorted(entry.taps, key=lambda info: info.tap.name != entry.spec.default_tap)


def _input(modality: Modality) -> tuple[str, Sequence[int]]:
    return ("FP32", (-1, -1)) if modality is Modality.TENSOR else (BYTES, (-1,))


def _output_shape(info: FingerprintedTap) -> Sequence[int]:
    return (-1, info.tap.dim) if info.tap.granularity is Granularity.ITEM else (-1, -1, info.tap.dim)


def _tensor(name: str, datatype: str, shape: Sequence[int]) -> Fields:
    return {"name": name, "datatype": datatype, "shape": shape}


def _config_input(modality: Modality, optional: bool) -> Fields:
    datatype, dims = _input(modality)
    data_type = "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
    return {"name": modality.upper(), "data_type": data_type, "dims": dims, "optional": optional}


def _properties(entry: CatalogEntry) -> Mapping[str, str]:
    """The license, and the fingerprint of each output."""
    return {"license": entry.spec.license, **{f"fingerprint.{info.tap.name}": info.fingerprint for info in _taps(entry)}}
