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

import topwork_server
from topwork_server.errors import ExportFailed
from topwork_server.models.head_graph import ROWS, SCORES, served_model
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.trainer import OPSET, PretrainedHead, Target, linear_graph
from topwork_server.types import EncoderSpec, FingerprintedTap, Granularity

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
    model = served_model(_graph(head, tap.tap.dim), head.target, 1.0)
    shape = [axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim]
    if head.gaps is None and shape[-1:] != [len(head.names)]:
        raise _fault(spec, head, f"has {shape} scores and {len(head.names)} names")
    if head.gaps is not None and (tap.tap.granularity is not Granularity.TOKEN or spec.encoder.words is Encoder.words):
        raise _fault(spec, head, f"fills gaps from {tap.tap.granularity} rows, and its encoder may have no words")
    save(model, folder / f"{PREFIX}{head.name}.onnx")
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


def _graph(head: PretrainedHead, dim: int) -> onnx.ModelProto:
    if head.module is not None:
        return module_graph(head.module, dim)
    assert head.weight is not None, "a PretrainedHead has a module, or weight and bias"
    assert head.bias is not None, "a PretrainedHead has a module, or weight and bias"
    return linear_graph(head.weight, head.bias)


def module_graph(module: torch.nn.Module, dim: int) -> onnx.ModelProto:
    """A head in ONNX, of a torch module that gives scores (n, outputs) of rows (n, dim)."""
    import onnx
    import torch

    rows = torch.zeros(3, dim)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        outputs = module.eval()(rows).shape[-1]
        path, axes = Path(folder) / "head.onnx", {ROWS: {0: "n"}, SCORES: {0: "n"}}
        names: dict[str, Any] = {"input_names": [ROWS], "output_names": [SCORES]}
        torch.onnx.export(module, (rows,), str(path), dynamo=False, opset_version=OPSET, dynamic_axes=axes, **names)
        model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = outputs
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph, its weights into a file beside it where they are too large for one."""
    import onnx

    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST
    onnx.save(model, str(path), save_as_external_data=large, location=f"{path.stem}.weights" if large else None)


def _fault(spec: EncoderSpec, head: PretrainedHead, what: str) -> ExportFailed:
    return ExportFailed(f"the head {head.name} of {spec.name} {what}", remedy="correct Trunk.heads of its plugin")
