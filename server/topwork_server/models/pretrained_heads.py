"""Heads that a pretrained network brings, as files of its artifact: head-NAME.onnx and head-NAME.json."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import topwork_server
from topwork_server.errors import ExportFailed
from topwork_server.models import onnx_files
from topwork_server.models.head_graph import ROWS, SCORES, served_model
from topwork_server.models.onnx_graph import node_inputs
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.trainer import IR_VERSION, OPSET, PretrainedHead, Target
from topwork_server.types import Array, EncoderSpec, FingerprintedTap, Granularity

if TYPE_CHECKING:
    import onnx
    import torch

PREFIX = "head-"
#: The tasks that such a head can have, as the `Task` of the package `heads` spells them.
TASKS = {Target.CLASSES: "classification", Target.LABELS: "multi-label", Target.NUMBERS: "regression"}
FILL = "fill"
#: Bytes of weights in one ONNX file, which protobuf bounds by 2 GiB.
LARGEST = (1 << 31) - (1 << 24)


@dataclass(frozen=True)
class PretrainedHeadRecord:
    """A pretrained head, as its JSON file holds it. `name` is ENCODER/NAME; `created` is in seconds since 1970.

    Of a head over the vocabulary, which has no `names`: `gaps` is a GapRows, and its `settings` hold the size as "words".
    """

    name: str
    task: str
    encoder: str
    tap: FingerprintedTap
    names: tuple[str, ...]
    created: float
    code: str
    estimate: str
    gaps: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def names_in(folder: Path) -> list[str]:
    """Name the heads of an artifact, without the encoder's name."""
    return sorted(path.stem.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*.json"))


def bytes_in(folder: Path) -> int:
    """Bytes of the heads of an artifact, which are in memory only while they are used."""
    return sum(path.stat().st_size for path in folder.glob(f"{PREFIX}*"))


def write(folder: Path, spec: EncoderSpec, head: PretrainedHead, taps: Sequence[FingerprintedTap]) -> Path:
    """Write both files of a head, and give its graph. ExportFailed where its numbers do not fit its tap."""
    tap = next((info for info in taps if info.tap.name == head.tap), None)
    if tap is None or head.target not in TASKS:
        raise _fault(spec, head, f"reads the tap {head.tap} for {head.target}")
    model, weights = _graph(head, tap.tap.dim)
    shape = [axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim]
    if head.weight is not None and head.weight.shape[1] != tap.tap.dim:
        raise _fault(spec, head, f"reads {head.weight.shape[1]} numbers, and the tap {head.tap} has {tap.tap.dim}")
    if head.gaps is None and shape[-1:] != [len(head.names)]:
        raise _fault(spec, head, f"has {shape} scores and {len(head.names)} names")
    if head.gaps is not None and (tap.tap.granularity is not Granularity.TOKEN or spec.encoder.words is Encoder.words):
        raise _fault(spec, head, f"fills gaps from {tap.tap.granularity} rows, and its encoder may have no words")
    save(served_model(model, head.target, 1.0), weights, folder / f"{PREFIX}{head.name}.onnx")
    record = PretrainedHeadRecord(
        name=f"{spec.name}/{head.name}",
        task=TASKS[head.target] if head.gaps is None else FILL,
        encoder=spec.name,
        tap=tap,
        names=head.names,
        created=time.time(),
        code=topwork_server.__version__,
        estimate=head.description or "not evaluated here: it came with its encoder",
        gaps=head.gaps or "",
        settings={**head.settings, "words": shape[-1]} if head.gaps else head.settings,
    )
    (folder / f"{PREFIX}{head.name}.json").write_text(json.dumps(asdict(record)), "utf-8")
    return folder / f"{PREFIX}{head.name}.onnx"


def _graph(head: PretrainedHead, dim: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The graph of a head without its weights, and these by name."""
    from onnx import TensorProto, helper

    if head.module is not None:
        return module_graph(head.module, dim)
    assert head.weight is not None, "a PretrainedHead has a module, or weight and bias"
    assert head.bias is not None, "a PretrainedHead has a module, or weight and bias"
    gemm = helper.make_node("Gemm", [ROWS, "weight", "bias"], [SCORES], transB=1)
    rows = helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, ["n", head.weight.shape[1]])
    scores = helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["n", len(head.weight)])
    graph = helper.make_graph([gemm], "head", [rows], [scores])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model, {"weight": head.weight, "bias": head.bias}


def module_graph(module: torch.nn.Module, dim: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A head in ONNX, of a torch module that gives scores (n, outputs) of rows (n, dim): its graph and its weights by name. The
    exporter is kept from the weights, of which it makes several copies, and no file of more than 2 GiB."""
    import onnx
    import torch

    rows = torch.zeros(3, dim)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        outputs = module.eval()(rows).shape[-1]
        path, axes = Path(folder) / "head.onnx", {ROWS: {0: "n"}, SCORES: {0: "n"}}
        names: dict[str, Any] = {"input_names": [ROWS], "output_names": [SCORES], "dynamic_axes": axes}
        bare: dict[str, Any] = {"export_params": False, "do_constant_folding": False}
        torch.onnx.export(module, (rows,), str(path), dynamo=False, opset_version=OPSET, **bare, **names)
        model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = outputs
    read = {name for node in model.graph.node for name in node_inputs(node)}
    state = module.state_dict()
    weights = {value.name: state[value.name].numpy() for value in model.graph.input if value.name in read and value.name in state}
    del model.graph.input[1:]  # the weights, those of the trunk too
    return model, weights


def save(model: onnx.ModelProto, weights: Mapping[str, Array], path: Path) -> None:
    """Write a graph with its weights, into a file beside it where they are too large for one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if sum(array.nbytes for array in weights.values()) <= LARGEST:
        tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    else:
        kind = helper.np_dtype_to_tensor_dtype
        tensors = [TensorProto(name=name, data_type=kind(a.dtype), dims=a.shape) for name, a in weights.items()]
        contents = (np.ascontiguousarray(array).data for array in weights.values())
        onnx_files.write_weights(zip(tensors, contents, strict=True), path.with_suffix(".weights"))
    model.graph.initializer.extend(tensors)
    onnx.save(model, str(path))


def _fault(spec: EncoderSpec, head: PretrainedHead, what: str) -> ExportFailed:
    return ExportFailed(f"the head {head.name} of {spec.name} {what}", remedy="correct Trunk.heads of its plugin")
