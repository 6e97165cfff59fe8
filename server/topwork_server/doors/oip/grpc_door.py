"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, on the port of our own services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
from topwork._display.excerpts import excerpt

from topwork_server.doors.calls import Call, call_of
from topwork_server.doors.oip.error_codes import with_code
from topwork_server.doors.oip.inference import BRIEF, VERSION, Inference, InferRequest
from topwork_server.doors.oip.repository import ModelRepository
from topwork_server.doors.oip.shared_memory import OFFSET, REGION, SIZE, SharedMemory, check_sole_place, place_of
from topwork_server.doors.oip.tensors import InputTensor, OutputTensor, requested_output
from topwork_server.doors.protocols import oip_pb2
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.services.answer_stream import AnswerStream
from topwork_server.services.health import HealthService
from topwork_server.services.in_threads import in_thread_if
from topwork_server.services.request_checks import Context, check_reply_size
from topwork_server.services.request_tracker import release

SERVICE = "inference.GRPCInferenceService"
#: The field of InferTensorContents that has a datatype's values.
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"},
    "BYTES": "bytes_contents",
}
#: Bytes of a reply that is packed on the event loop.
BRIEF_REPLY = 1 << 20
#: What to do where a reply is too large.
FEWER = "send fewer items at a time, or ask for fewer outputs"


class OipGrpcDoor:
    """Answers the methods of the service. Streams take no more requests once `stopping` is set."""

    def __init__(
        self,
        inference: Inference,
        repository: ModelRepository,
        memory: SharedMemory,
        health: HealthService,
        stopping: asyncio.Event,
    ) -> None:
        self._inference, self._repository, self._memory = inference, repository, memory
        self._health, self._stopping = health, stopping

    def handler(self) -> grpc.GenericRpcHandler:
        """The table of the service's methods."""
        unary = (
            *(self.ServerLive, self.ServerReady, self.ServerMetadata),
            *(self.ModelReady, self.ModelMetadata, self.ModelConfig, self.ModelStatistics, self.ModelInfer),
            *(self.SystemSharedMemoryStatus, self.SystemSharedMemoryRegister, self.SystemSharedMemoryUnregister),
            *(self.RepositoryIndex, self.RepositoryModelLoad, self.RepositoryModelUnload),
        )
        methods = {
            one.__name__: grpc.unary_unary_rpc_method_handler(_in_codes(one), *_codec(one.__name__, one.__name__))
            for one in unary
        }
        stream = grpc.stream_stream_rpc_method_handler(self.ModelStreamInfer, *_codec("ModelInfer", "ModelStreamInfer"))
        return grpc.method_handlers_generic_handler(SERVICE, {**methods, "ModelStreamInfer": stream})

    async def ServerLive(self, request: oip_pb2.ServerLiveRequest, context: Context) -> oip_pb2.ServerLiveResponse:  # noqa: N802
        return oip_pb2.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: oip_pb2.ServerReadyRequest, context: Context
    ) -> oip_pb2.ServerReadyResponse:
        return oip_pb2.ServerReadyResponse(ready=not await self._health.why_not_ready())

    async def ServerMetadata(  # noqa: N802
        self, request: oip_pb2.ServerMetadataRequest, context: Context
    ) -> oip_pb2.ServerMetadataResponse:
        return oip_pb2.ServerMetadataResponse(**self._repository.server())

    async def ModelReady(self, request: oip_pb2.ModelReadyRequest, context: Context) -> oip_pb2.ModelReadyResponse:  # noqa: N802
        return oip_pb2.ModelReadyResponse(ready=await self._repository.is_ready(request.name, request.version))

    async def ModelMetadata(  # noqa: N802
        self, request: oip_pb2.ModelMetadataRequest, context: Context
    ) -> oip_pb2.ModelMetadataResponse:
        return oip_pb2.ModelMetadataResponse(**await self._repository.metadata(request.name, request.version))

    async def ModelConfig(  # noqa: N802
        self, request: oip_pb2.ModelConfigRequest, context: Context
    ) -> oip_pb2.ModelConfigResponse:
        return oip_pb2.ModelConfigResponse(config=await self._repository.config(request.name, request.version))

    async def ModelStatistics(  # noqa: N802
        self, request: oip_pb2.ModelStatisticsRequest, context: Context
    ) -> oip_pb2.ModelStatisticsResponse:
        return oip_pb2.ModelStatisticsResponse(model_stats=await self._repository.statistics(request.name, request.version))

    async def RepositoryIndex(  # noqa: N802
        self, request: oip_pb2.RepositoryIndexRequest, context: Context
    ) -> oip_pb2.RepositoryIndexResponse:
        return oip_pb2.RepositoryIndexResponse(models=await self._repository.index(request.ready))

    async def RepositoryModelLoad(  # noqa: N802
        self, request: oip_pb2.RepositoryModelLoadRequest, context: Context
    ) -> oip_pb2.RepositoryModelLoadResponse:
        await self._repository.load(request.model_name, parameters_of(request.parameters))
        return oip_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: oip_pb2.RepositoryModelUnloadRequest, context: Context
    ) -> oip_pb2.RepositoryModelUnloadResponse:
        await self._repository.unload(request.model_name, parameters_of(request.parameters))
        return oip_pb2.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: oip_pb2.SystemSharedMemoryStatusRequest, context: Context
    ) -> oip_pb2.SystemSharedMemoryStatusResponse:
        status = oip_pb2.SystemSharedMemoryStatusResponse
        found = self._memory.status(request.name)
        return status(regions={one.name: status.RegionStatus(**one.as_fields()) for one in found})

    async def SystemSharedMemoryRegister(  # noqa: N802
        self, request: oip_pb2.SystemSharedMemoryRegisterRequest, context: Context
    ) -> oip_pb2.SystemSharedMemoryRegisterResponse:
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return oip_pb2.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: oip_pb2.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> oip_pb2.SystemSharedMemoryUnregisterResponse:
        self._memory.unregister(request.name)
        return oip_pb2.SystemSharedMemoryUnregisterResponse()

    async def ModelInfer(  # noqa: N802
        self, request: oip_pb2.ModelInferRequest, context: Context
    ) -> oip_pb2.ModelInferResponse:
        return await self._infer(request, call_of(context, context.peer()))

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[oip_pb2.ModelInferRequest], context: Context
    ) -> None:
        call = call_of(context, object())

        async def answer(request: oip_pb2.ModelInferRequest) -> oip_pb2.ModelStreamInferResponse:
            try:
                reply = await self._infer(request, call, wait=True)
            except TopworkError as error:
                release(error)
                failed = oip_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
                return oip_pb2.ModelStreamInferResponse(error_message=str(error), infer_response=failed)
            reply.parameters["triton_final_response"].bool_param = True
            return oip_pb2.ModelStreamInferResponse(infer_response=reply)

        await AnswerStream(answer, self._stopping).run(requests, context.write)

    async def _infer(
        self, request: oip_pb2.ModelInferRequest, call: Call[None], *, wait: bool = False
    ) -> oip_pb2.ModelInferResponse:
        decoded = await in_thread_if(request.ByteSize() > BRIEF, _infer_request, request)
        outputs = await self._inference.infer(call, decoded, wait=wait)
        is_large = sum(one.values.nbytes for one in outputs) > BRIEF_REPLY
        return check_reply_size(await in_thread_if(is_large, _reply, request, outputs), FEWER)


def _in_codes(method: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """The method, whose errors have Triton's codes."""

    async def call(request: Any, context: Context) -> Any:
        try:
            return await method(request, context)
        except TopworkError as error:
            raise with_code(error) from error

    return call


def _codec(request: str, response: str) -> tuple[Any, Any]:
    """Return what reads the requests of a method, and what writes its replies."""
    return getattr(oip_pb2, f"{request}Request").FromString, getattr(oip_pb2, f"{response}Response").SerializeToString


def _infer_request(request: oip_pb2.ModelInferRequest) -> InferRequest:
    outputs = [requested_output(one.name, parameters_of(one.parameters)) for one in request.outputs]
    return InferRequest(request.model_name, request.model_version, _inputs(request), outputs, parameters_of(request.parameters))


def _inputs(request: oip_pb2.ModelInferRequest) -> list[InputTensor]:
    """The inputs, all with raw bytes, or all with values, but for those in shared memory, which have neither."""
    raw = request.raw_input_contents
    places = [place_of(parameters_of(one.parameters)) for one in request.inputs]
    for one, place in zip(request.inputs, places, strict=True):
        check_sole_place(one.name, place is not None and one.HasField("contents"))
    sent = [one for one, place in zip(request.inputs, places, strict=True) if place is None]
    both = next((one.name for one in request.inputs if raw and one.HasField("contents")), None)
    if both is not None:
        raise InvalidInput(f"the input {excerpt(both)} has contents, beside raw_input_contents", remedy="send one of them")
    if raw and len(raw) != len(sent):
        raise InvalidInput(
            f"{len(raw)} of raw_input_contents, and {len(sent)} inputs", remedy="send one an input, in their order"
        )
    data = iter(raw or [_values(one) for one in sent])
    return [
        InputTensor(one.name, one.datatype, list(one.shape), next(data) if place is None else place)
        for one, place in zip(request.inputs, places, strict=True)
    ]


def _values(tensor: oip_pb2.ModelInferRequest.InferInputTensor) -> Sequence[Any]:
    field = CONTENTS.get(tensor.datatype)
    return list(getattr(tensor.contents, field)) if field else []


def parameters_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a message's parameters. InvalidInput names one without."""
    found = {}
    for name, one in parameters.items():
        kind = one.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"the parameter {excerpt(name)} has no value", remedy="set one")
        found[name] = getattr(one, kind)
    return found


def _reply(request: oip_pb2.ModelInferRequest, outputs: Sequence[OutputTensor]) -> oip_pb2.ModelInferResponse:
    """The reply; a client finds an output's bytes by its position."""
    reply = oip_pb2.ModelInferResponse(model_name=request.model_name, model_version=VERSION, id=request.id)
    for one in outputs:
        tensor = reply.outputs.add(name=one.name, datatype=one.datatype, shape=one.values.shape)
        tensor.parameters["fingerprint"].string_param = one.fingerprint
        if one.place is not None:
            tensor.parameters[REGION].string_param = one.place.region
            tensor.parameters[SIZE].int64_param = one.place.size
            tensor.parameters[OFFSET].int64_param = one.place.offset
        reply.raw_output_contents.append(b"" if one.place else one.raw())
    return reply
