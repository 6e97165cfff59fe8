"""The one way in which an infer request of either wire is answered: its input becomes items, its outputs are taps, or those of a
head."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from topwork._display.excerpts import excerpt
from topwork.v1 import heads_pb2

from topwork_server.doors.calls import Call
from topwork_server.doors.embedding import Embedder
from topwork_server.doors.oip.head_outputs import check_outputs, output_tensors
from topwork_server.doors.oip.shared_memory import Place, SharedMemory
from topwork_server.doors.oip.tensors import CLASSES, InputTensor, OutputTensor, RequestedOutput, items_of
from topwork_server.doors.prediction import HeadPredictor
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.features import TapRows
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.serving.head_decoding import USUAL_BOXES, BoxQuery
from topwork_server.services.convert import head_messages
from topwork_server.services.in_threads import in_thread_if
from topwork_server.types import Granularity, Item, Modality, Priority, Role

#: The one version that each model has.
VERSION = "1"
#: Triton's priorities: the lower the sooner, 0 for the usual one.
PRIORITIES = {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL, 3: Priority.LOW}
#: Parameters by which a client keeps state on the server.
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
#: Parameters that choose boxes, as `PredictSettings` of topwork.v1 has them.
BOXES = ("min_score", "max_overlap", "max_boxes")
#: Asks for what each reply of a stream has anyway: a parameter that tells that it is the last one to its request.
FINAL_RESPONSE = "triton_enable_empty_final_response"
#: Bytes of a request, or values of its input, that are taken apart on the event loop.
BRIEF = 64 << 10


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request, of either wire. Without `outputs` the encoder's usual tap is meant, or all that a head gives."""

    model: str
    version: str
    inputs: Sequence[InputTensor]
    outputs: Sequence[RequestedOutput]
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Inference:
    """Answers infer requests. `most` bounds the items of one."""

    def __init__(self, embedder: Embedder, heads: HeadPredictor, memory: SharedMemory, most: int) -> None:
        self._embedder, self._heads, self._memory, self._most = embedder, heads, memory, most

    async def infer(self, call: Call[Any], request: InferRequest, *, wait: bool = False) -> Sequence[OutputTensor]:
        """The outputs, in the order asked. `wait` waits for room in the encoder's queue."""
        check_version(request.model, request.version)
        head = await self._heads.of_model(request.model)
        _check_outputs(head, request.outputs)
        reads = await self._reads(request.model, head)
        call, options, role = _settings(call, request.parameters)
        if head and role:
            raise InvalidInput(
                f"the model {request.model} is a head, whose items have no role", remedy="leave the parameter `role` out"
            )
        if call.fingerprint and len(request.outputs) > 1 and not head:
            raise InvalidInput("a fingerprint belongs to one output", remedy="ask for one output, or leave it out")
        tensor, modality = _sole_input(request, reads)
        if isinstance(tensor.data, Place):
            tensor = replace(tensor, data=await asyncio.to_thread(self._memory.read, tensor.data))
        is_large = isinstance(tensor.data, Sequence) and len(tensor.data) > BRIEF
        items = await in_thread_if(is_large, items_of, tensor, modality, self._most)
        if head:
            outputs = await self._predicted(call, head, items, request.outputs, options, wait=wait)
        else:
            taps = [one.name for one in request.outputs]
            result = await self._embedder.embed_taps(call, request.model, items, taps, options, role, wait=wait)
            outputs = [_output(rows) for rows in result.taps]
        for i, asked in enumerate(request.outputs):
            if asked.place is not None:
                outputs[i] = await asyncio.to_thread(self._placed, outputs[i], asked.place)
        return outputs

    async def _predicted(
        self,
        call: Call[Any],
        head: Head,
        items: Sequence[Item],
        asked: Sequence[RequestedOutput],
        options: dict[str, Any],
        *,
        wait: bool,
    ) -> list[OutputTensor]:
        boxes = _boxes(options) if head.task is Task.DETECTION else USUAL_BOXES
        found = await self._heads.predict(call, head, items, options=options or None, boxes=boxes, wait=wait)
        return await in_thread_if(head_messages.prediction_size(found) > BRIEF, output_tensors, found.outputs[0], asked)

    async def _reads(self, model: str, head: Head | None) -> Sequence[Modality]:
        return await (self._heads.reads(head) if head else self._embedder.modalities(model))

    def _placed(self, output: OutputTensor, place: Place) -> OutputTensor:
        written = self._memory.write(place, output.raw())
        return replace(output, place=replace(place, size=written))

    async def input_name(self, model: str) -> str:
        """The name of a model's input. InvalidInput where it has several."""
        reads = await self._reads(model, await self._heads.of_model(model))
        if len(reads) > 1:
            raise InvalidInput(f"{model} has the inputs {_names(reads)}", remedy="name one, in a request with JSON")
        return reads[0].upper()


def check_version(model: str, version: str) -> None:
    if version not in ("", VERSION):
        raise NotFound(f"the model {excerpt(model)} has no version {excerpt(version)}", remedy=f"its one version is {VERSION}")


def _check_outputs(head: Head | None, outputs: Sequence[RequestedOutput]) -> None:
    """Raise InvalidInput where classes are asked for and there are none, and for an output that is named twice, which would make
    a large reply of a small request; NotFound for an output that a head does not have."""
    named = Counter((one.name, one.classes > 0) for one in outputs)
    if twice := next((name for (name, _), count in named.items() if count > 1), None):
        raise InvalidInput(f"the output {excerpt(twice)} is named twice", remedy="name each once")
    if head is not None:
        check_outputs(head, outputs)
    for asked in outputs:
        if asked.classes and head is None:
            raise InvalidInput(
                f"the output {excerpt(asked.name)} has no classes: it is a tap, rows of numbers of an encoder",
                remedy=f"leave `{CLASSES}` out, or name a head that classifies as the model",
            )


def _boxes(parameters: dict[str, Any]) -> BoxQuery:
    """Take the boxes that are asked for out of the parameters."""
    given = {name: parameters.pop(name) for name in BOXES if name in parameters}
    try:
        return head_messages.box_query(heads_pb2.PredictSettings(**given))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the parameters {given} choose no boxes: {error}", remedy="send numbers from 0 up") from None


def _settings(call: Call[Any], parameters: Mapping[str, Any]) -> tuple[Call[Any], dict[str, Any], Role | None]:
    """The call with what the parameters say of it, the rest of them, which are the encoder's options, and the role of the
    items."""
    options = {name: value for name, value in parameters.items() if name != FINAL_RESPONSE}
    if any(name in options for name in SEQUENCE):
        raise InvalidInput("the request belongs to a sequence, and models keep no state", remedy="leave sequences out")
    priority, timeout = options.pop("priority", None), options.pop("timeout", 0)
    fingerprint, role = options.pop("fingerprint", ""), options.pop("role", None)
    if role is not None and role not in tuple(Role):
        raise InvalidInput(f"there is no role {excerpt(str(role))}", remedy=f"send {' or '.join(Role)}, or leave it out")
    if not isinstance(fingerprint, str):
        raise InvalidInput("the parameter `fingerprint` is no text", remedy="send what the model's metadata tell")
    if priority is not None and (type(priority) is not int or priority not in PRIORITIES):
        raise InvalidInput(
            f"the priority {excerpt(str(priority))}", remedy="send 1 (the highest), 2 or 3, or 0 for the usual one"
        )
    if type(timeout) is not int or not 0 <= timeout < 1 << 60:
        raise InvalidInput(f"the timeout {excerpt(str(timeout))}", remedy="send a number of microseconds, or 0 for none")
    ends = [time.monotonic() + timeout / 1e6] if timeout else []
    if call.deadline is not None:
        ends.append(call.deadline)
    return (
        replace(
            call,
            deadline=min(ends, default=None),
            priority=call.priority if priority is None else PRIORITIES[priority],
            fingerprint=fingerprint or call.fingerprint,
        ),
        options,
        Role(role) if role is not None else None,
    )


def _sole_input(request: InferRequest, reads: Sequence[Modality]) -> tuple[InputTensor, Modality]:
    by_name = {modality.upper(): modality for modality in reads}
    for tensor in request.inputs:
        if tensor.name not in by_name:
            raise InvalidInput(f"{request.model} has no input {excerpt(tensor.name)}", remedy=f"send {' or '.join(by_name)}")
    if len(request.inputs) != 1:
        raise InvalidInput(f"{len(request.inputs)} inputs", remedy=f"send one in a request: {_names(reads)}")
    return request.inputs[0], by_name[request.inputs[0].name]


def _names(reads: Sequence[Modality]) -> str:
    return " or ".join(modality.upper() for modality in reads)


def _output(rows: TapRows) -> OutputTensor:
    """(items, dim) of a tap that has a row an item, else (items, rows, dim). InvalidInput where items differ in their rows."""
    name, counts = rows.tap.tap.name, np.asarray(rows.counts)
    values = np.ascontiguousarray(rows.rows, "<f4")
    if rows.tap.tap.granularity is not Granularity.ITEM:
        if (counts != counts[0]).any():
            raise InvalidInput(
                f"the output {name} has {counts.min():,} rows of one item and {counts.max():,} of another, which no tensor has",
                remedy="send the items one by one, or call topwork.v1.Encoders/Embed",
            )
        values = values.reshape(len(counts), int(counts[0]), rows.tap.tap.dim)
    return OutputTensor(name, values, rows.tap.fingerprint)
