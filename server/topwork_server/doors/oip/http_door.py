"""The Open Inference Protocol over HTTP: JSON, and tensors as raw bytes behind it where a header says how long the JSON is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from topwork._display.excerpts import excerpt

from topwork_server.doors.calls import FINGERPRINT, Call
from topwork_server.doors.json_calls import DoorRoute, Operation, decoded
from topwork_server.doors.json_reply import json_reply
from topwork_server.doors.oip.error_form import error_form
from topwork_server.doors.oip.inference import BRIEF, VERSION, Inference, InferRequest
from topwork_server.doors.oip.model_path import MODEL
from topwork_server.doors.oip.repository import ModelRepository
from topwork_server.doors.oip.shared_memory import OFFSET, REGION, SIZE, SharedMemory, check_sole_place, place_of
from topwork_server.doors.oip.tensors import BYTES, InputTensor, OutputTensor, flag, requested_output
from topwork_server.errors import InvalidInput, Unsupported
from topwork_server.services.health import HealthService
from topwork_server.services.in_threads import in_thread_if

#: Bytes of the JSON that raw tensors follow; 0 where the body is the one element of a model's one input.
HEADER = "inference-header-content-length"
#: Parts of Triton's protocol that are not served, and how each is called.
UNSERVED = {"cudasharedmemory": "CUDA regions", "trace": "trace settings", "logging": "log settings"}
#: Methods of HTTP that are told so.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MEMORY = "/v2/systemsharedmemory"
#: Numbers of a reply in JSON, or bytes of a raw one, that are packed on the event loop.
BRIEF_NUMBERS, BRIEF_BYTES = 1 << 14, 1 << 20


class Input(msgspec.Struct):
    """An input, with `data`, or with the parameter `binary_data_size`."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    data: list[Any] | None = None


class Output(msgspec.Struct):
    """An output that is asked for; the parameter `binary_data` wants it as raw bytes."""

    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class InferBody(msgspec.Struct):
    """The JSON of an infer request."""

    inputs: list[Input]
    id: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[Output] = msgspec.field(default_factory=list)


class RepositoryBody(msgspec.Struct):
    """The body that is posted to the repository's paths; often nothing."""

    ready: bool = False
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class RegionBody(msgspec.Struct):
    """The key of shared memory, and the bytes of it that a region is."""

    key: str
    byte_size: int
    offset: int = 0


_INFER, _REPOSITORY = msgspec.json.Decoder(InferBody), msgspec.json.Decoder(RepositoryBody)


class OipHttpDoor:
    """Answers the paths under /v2."""

    def __init__(self, inference: Inference, repository: ModelRepository, memory: SharedMemory, health: HealthService) -> None:
        self._inference, self._repository, self._memory, self._health = inference, repository, memory, health

    def operations(self) -> list[Operation]:
        return [
            Operation("/v2", "OIP.ServerMetadata", "Describe the server", self.server),
            Operation("/v2/models/stats", "OIP.ModelStatistics", "Count the requests to each model", self.statistics),
            *self._model_operations(),
            *self._memory_operations(),
            *[
                Operation(f"/v2/repository/{path}", f"OIP.{name}", summary, handler, RepositoryBody, raw=True)
                for path, name, summary, handler in (
                    ("index", "RepositoryIndex", "List the models", self.index),
                    ("models/{model}/load", "RepositoryModelLoad", "Load a model into memory", self.load),
                    ("models/{model}/unload", "RepositoryModelUnload", "Drop a model from memory", self.unload),
                )
            ],
        ]

    def plain_routes(self) -> list[Route]:
        """Routes of health, which answer while the server stops too, and of what is not served."""
        rests = ("", "/{rest:path}")
        return [
            DoorRoute("/v2/health/live", _live, "GET", error_form),
            DoorRoute("/v2/health/ready", self._ready, "GET", error_form),
            *[Route(f"/v2/{part}{rest}", _unserved(what), methods=METHODS) for part, what in UNSERVED.items() for rest in rests],
        ]

    async def _ready(self, request: Request) -> Response:
        return Response(status_code=400 if await self._health.why_not_ready() else 200)

    def _model_operations(self) -> Iterator[Operation]:
        for path in (f"{MODEL}/versions/{{version}}", MODEL):
            yield Operation(f"{path}/ready", "OIP.ModelReady", "Tell whether a model would answer now", self.model_ready)
            yield Operation(f"{path}/config", "OIP.ModelConfig", "Describe a model as Triton does", self.config)
            yield Operation(f"{path}/stats", "OIP.ModelStatistics", "Count the requests to a model", self.statistics)
            yield Operation(
                f"{path}/infer", "OIP.ModelInfer", "Embed the elements of an input, or predict", self.infer, InferBody, raw=True
            )
            yield Operation(path, "OIP.ModelMetadata", "Describe a model", self.metadata)

    def _memory_operations(self) -> Iterator[Operation]:
        name, region = "OIP.SystemSharedMemory", f"{MEMORY}/region/{{region}}"
        yield Operation(f"{region}/register", f"{name}Register", "Register shared memory", self.register, RegionBody)
        for path in (MEMORY, region):
            yield Operation(f"{path}/status", f"{name}Status", "List shared memory", self.regions)
            unregister, summary = f"{name}Unregister", "Forget shared memory"
            yield Operation(f"{path}/unregister", unregister, summary, self.unregister, RepositoryBody, raw=True)

    async def register(self, call: Call[RegionBody]) -> Response:
        self._memory.register(call.path["region"], call.body.key, call.body.offset, call.body.byte_size)
        return Response()

    async def regions(self, call: Call[None]) -> Response:
        return json_reply([one.as_fields() for one in self._memory.status(call.path.get("region", ""))])

    async def unregister(self, call: Call[bytes]) -> Response:
        self._memory.unregister(call.path.get("region", ""))
        return Response()

    async def server(self, call: Call[None]) -> Response:
        return json_reply(self._repository.server())

    async def metadata(self, call: Call[None]) -> Response:
        return json_reply(await self._repository.metadata(*_model_of(call)))

    async def config(self, call: Call[None]) -> Response:
        return json_reply(await self._repository.config(*_model_of(call)))

    async def model_ready(self, call: Call[None]) -> Response:
        return Response(status_code=200 if await self._repository.is_ready(*_model_of(call)) else 400)

    async def statistics(self, call: Call[None]) -> Response:
        return json_reply({"model_stats": await self._repository.statistics(*_model_of(call))})

    async def index(self, call: Call[bytes]) -> Response:
        return json_reply(await self._repository.index((await _posted(call)).ready))

    async def load(self, call: Call[bytes]) -> Response:
        await self._repository.load(call.path["model"], (await _posted(call)).parameters)
        return Response()

    async def unload(self, call: Call[bytes]) -> Response:
        await self._repository.unload(call.path["model"], (await _posted(call)).parameters)
        return Response()

    async def infer(self, call: Call[bytes]) -> Response:
        model, version = _model_of(call)
        asked, raw = await self._split(call, model)
        binary = flag(asked.parameters, "binary_data_output")
        asked.parameters.pop("binary_data_output", None)
        raws = [flag(one.parameters, "binary_data", usual=binary) for one in asked.outputs]
        wanted = [requested_output(one.name, one.parameters) for one in asked.outputs]
        inputs = await in_thread_if(len(call.body) > BRIEF, _inputs, asked.inputs, raw)
        request = InferRequest(model, version, inputs, wanted, asked.parameters)
        outputs = await self._inference.infer(call, request)
        raws = raws or [binary] * len(outputs)
        return await in_thread_if(_is_large(outputs, raws), _reply, model, asked.id, outputs, raws)

    async def _split(self, call: Call[bytes], model: str) -> tuple[InferBody, bytes]:
        """The JSON of a body, and the bytes behind it."""
        length, body = call.headers.get(HEADER), call.body
        if length is None:
            return await decoded(body, _INFER), b""
        if not length.isdecimal() or len(length) > 20 or int(length) > len(body):
            raise InvalidInput(
                f"{HEADER} is {excerpt(length)}, and the body has {len(body):,} bytes",
                remedy="send the length of the JSON in it",
            )
        if int(length) == 0:
            one = Input(await self._inference.input_name(model), BYTES, [1], data=[body])
            return InferBody([one], parameters={"binary_data_output": True}), b""
        return await decoded(body[: int(length)], _INFER), body[int(length) :]


async def _live(request: Request) -> Response:
    return Response()


def _unserved(what: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        return error_form(Unsupported(f"{what} are not served", remedy="`extensions` of /v2 tell what is"))

    return refuse


def _model_of(call: Call[Any]) -> tuple[str, str]:
    """The model and its version, "" where the path has none."""
    return call.path.get("model", ""), call.path.get("version", "")


async def _posted(call: Call[bytes]) -> RepositoryBody:
    body: RepositoryBody = await decoded(call.body, _REPOSITORY) if call.body else RepositoryBody()
    return body


def _inputs(given: Sequence[Input], raw: bytes) -> list[InputTensor]:
    """The inputs, whose raw bytes come one after another. InvalidInput where those are too many or too few."""
    found, at = [], 0
    for one in given:
        if (place := place_of(one.parameters)) is not None:
            check_sole_place(one.name, one.data is not None or "binary_data_size" in one.parameters)
            found.append(InputTensor(one.name, one.datatype, one.shape, place))
            continue
        size = one.parameters.get("binary_data_size")
        if (size is None) == (one.data is None):
            raise InvalidInput(
                f"the input {excerpt(one.name)} has {'no data' if size is None else 'data and binary_data_size'}",
                remedy="send `data`, or the parameter binary_data_size and raw bytes behind the JSON",
            )
        if size is None:
            found.append(InputTensor(one.name, one.datatype, one.shape, _flat(one.data or [], len(one.shape))))
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - at:
            raise InvalidInput(
                f"the input {excerpt(one.name)} has a binary_data_size of {excerpt(str(size))}, of {len(raw) - at:,} bytes",
                remedy=f"send all of its bytes behind the JSON, whose length {HEADER} tells",
            )
        found.append(InputTensor(one.name, one.datatype, one.shape, raw[at : at + size]))
        at += size
    if at != len(raw):
        raise InvalidInput(f"{len(raw) - at:,} bytes behind the last input", remedy="tell their sizes by binary_data_size")
    return found


def _flat(data: list[Any], axes: int) -> list[Any]:
    """The values of nested lists, of so many axes at most."""
    for _ in range(axes - 1):
        if not any(isinstance(one, list) for one in data):
            break
        data = [value for one in data for value in (one if isinstance(one, list) else [one])]
    return data


def _is_large(outputs: Sequence[OutputTensor], raws: Sequence[bool]) -> bool:
    numbers = sum(one.values.size for one, raw in zip(outputs, raws, strict=True) if not raw)
    return numbers > BRIEF_NUMBERS or sum(one.values.nbytes for one in outputs) > BRIEF_BYTES


def _reply(model: str, id: str, outputs: Sequence[OutputTensor], raws: Sequence[bool]) -> Response:
    tensors: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    for one, raw in zip(outputs, raws, strict=True):
        parameters: dict[str, Any] = {"fingerprint": one.fingerprint}
        tensor = {"name": one.name, "datatype": one.datatype, "shape": one.values.shape, "parameters": parameters}
        if one.place is not None:
            parameters |= {REGION: one.place.region, SIZE: one.place.size, OFFSET: one.place.offset}
        elif raw:
            bodies.append(one.raw())
            parameters["binary_data_size"] = len(bodies[-1])
        else:
            tensor["data"] = one.data()
        tensors.append(tensor)
    fields = {"model_name": model, "model_version": VERSION, "outputs": tensors} | ({"id": id} if id else {})
    head = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {FINGERPRINT: outputs[0].fingerprint}
    if not bodies:
        return Response(head, headers=headers, media_type="application/json")
    return Response(b"".join([head, *bodies]), headers={**headers, HEADER: str(len(head))}, media_type="application/octet-stream")
