"""The outputs of a head as tensors, and the classes that Triton's clients ask for by the parameter `classification`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from topwork._display.excerpts import excerpt

from topwork_server.doors.oip.tensors import BYTES, CLASSES, OutputTensor, RequestedOutput
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.serving.head_output import HeadOutput
from topwork_server.types import Array

PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as the metadata of a model tell of it; -1 is an axis of any length."""

    name: str
    datatype: str
    shape: Sequence[int]


def output_specs(head: Head) -> list[TensorSpec]:
    """Describe what a head gives. Items that have several spans or boxes each are filled up to the most that one has, with zeros
    and empty texts; `counts` tells how many are its own."""
    of_each, of_all = (-1,), (-1, -1)
    match head.task:
        case Task.CLASSIFICATION:
            return [TensorSpec(PROBABILITIES, "FP32", (-1, len(head.names))), TensorSpec("labels", BYTES, of_each)]
        case Task.MULTI_LABEL:
            return [TensorSpec(PROBABILITIES, "FP32", (-1, len(head.names)))]
        case Task.REGRESSION:
            return [TensorSpec("values", "FP64", of_each)]
        case Task.SEGMENTATION:
            grid = (-1, *(head.tap.tap.grid or of_all))
            masks = [TensorSpec("masks", "UINT8", grid), TensorSpec("confidences", "FP32", grid)]
            return [*masks, TensorSpec("boxes", "FP32", (-1, 4))]
    found = ("boxes", "FP32", (-1, -1, 4)) if head.task is Task.DETECTION else ("spans", "INT32", (-1, -1, 2))
    labels = [] if head.task is Task.QUESTION_ANSWERING else [TensorSpec("labels", BYTES, of_all)]
    return [TensorSpec(*found), TensorSpec("scores", "FP32", of_all), *labels, TensorSpec("counts", "INT32", of_each)]


def check_outputs(head: Head, outputs: Sequence[RequestedOutput]) -> None:
    """Raise NotFound for an output that a head does not have, InvalidInput for one that is asked for classes and has none."""
    names = [one.name for one in output_specs(head)]
    for asked in outputs:
        if asked.name not in names:
            remedy = f"its outputs are {', '.join(names)}"
            raise NotFound(f"the head {head.name!r} has no output {excerpt(asked.name)}", remedy=remedy)
        if asked.classes and asked.name != PROBABILITIES:
            raise InvalidInput(
                f"the output {asked.name} of the head {head.name!r} has no classes to rank",
                remedy=f"leave `{CLASSES}` out"
                + (f", or ask for {PROBABILITIES} with it" if PROBABILITIES in names else f": the head is for {head.task}"),
            )


def output_tensors(output: HeadOutput, asked: Sequence[RequestedOutput]) -> list[OutputTensor]:
    """The outputs that were asked for, in their order; all of them where none was. `check_outputs` has passed."""
    arrays, head = _ARRAYS.get(output.head.task, _plain)(output), output.head
    wanted = asked or [RequestedOutput(one.name) for one in output_specs(head)]
    return [
        OutputTensor(
            one.name,
            _ranked(arrays[one.name], head.names, one.classes) if one.classes else np.ascontiguousarray(arrays[one.name]),
            head.tap.fingerprint,
        )
        for one in wanted
    ]


def _ranked(probabilities: Array, names: Sequence[str], count: int) -> Array:
    """The likeliest classes of each item (items, count), the first one first, as Triton writes them: value:index:label."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    rows = [[f"{row[i]:.6f}:{i}:{names[i]}" for i in order] for row, order in zip(probabilities, best.tolist(), strict=True)]
    return np.array(rows, object).reshape(best.shape)


def _plain(output: HeadOutput) -> Mapping[str, Any]:
    values = None if output.values is None else output.values.astype(np.float64)
    return {"values": values, "masks": output.masks, "confidences": output.confidences, "boxes": output.boxes}


def _of_classes(output: HeadOutput) -> Mapping[str, Any]:
    found = output.probabilities
    assert found is not None, "the head is one of classes"
    names = np.array(output.head.names, object)
    return {PROBABILITIES: found, "labels": names[found.argmax(axis=1)]}


def _of_boxes(output: HeadOutput) -> Mapping[str, Any]:
    found = output.detections or ()
    boxes = _filled([[one.box for one in item] for item in found], np.zeros(4, np.float32))
    return {**_of_found([[(one.score, one.label) for one in item] for item in found]), "boxes": boxes}


def _of_spans(output: HeadOutput) -> Mapping[str, Any]:
    found = output.spans or ()
    spans = _filled([[(one.start, one.end) for one in item] for item in found], np.zeros(2, np.int32))
    return {**_of_found([[(one.probability, one.label) for one in item] for item in found]), "spans": spans}


def _of_found(found: Sequence[Sequence[tuple[float, str]]]) -> Mapping[str, Any]:
    """Scores and labels of what was found in each item, and how much that was."""
    return {
        "scores": _filled([[score for score, _ in item] for item in found], np.zeros((), np.float32)),
        "labels": _filled([[label for _, label in item] for item in found], np.array("", object)),
        "counts": np.array([len(item) for item in found], np.int32),
    }


def _filled(found: Sequence[Sequence[Any]], empty: Array) -> Array:
    """(items, most of any item, ...): lists of different lengths, filled up with `empty`."""
    filled = np.empty((len(found), max(map(len, found), default=0), *empty.shape), empty.dtype)
    filled[...] = empty
    for row, item in zip(filled, found, strict=True):
        if item:
            row[: len(item)] = item
    return filled


_ARRAYS: Mapping[Task, Callable[[HeadOutput], Mapping[str, Any]]] = {
    Task.CLASSIFICATION: _of_classes,
    Task.MULTI_LABEL: _of_classes,
    Task.DETECTION: _of_boxes,
    Task.TAGGING: _of_spans,
    Task.QUESTION_ANSWERING: _of_spans,
}
