"""Heads that a pretrained network brings, as files of its artifact: head-NAME.onnx and head-NAME.json."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import topwork_server
from topwork_server.errors import ExportFailed
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api.trainer import PretrainedHead, Target, linear_graph
from topwork_server.types import FingerprintedTap

PREFIX = "head-"
#: The tasks that such a head can have, as the `Task` of the package `heads` spells them.
TASKS = {Target.CLASSES: "classification", Target.LABELS: "multi-label", Target.NUMBERS: "regression"}


@dataclass(frozen=True)
class PretrainedHeadRecord:
    """A pretrained head, as its JSON file holds it. `name` is ENCODER/NAME; `created` is in seconds since 1970."""

    name: str
    task: str
    encoder: str
    tap: FingerprintedTap
    names: tuple[str, ...]
    created: float
    code: str
    estimate: str


def write(folder: Path, encoder: str, head: PretrainedHead, taps: Sequence[FingerprintedTap]) -> None:
    """Write both files of a head. ExportFailed where its numbers do not fit its tap."""
    tap = next((info for info in taps if info.tap.name == head.tap), None)
    if tap is None or head.weight.shape != (len(head.names), tap.tap.dim) or head.target not in TASKS:
        raise ExportFailed(
            f"the head {head.name} of {encoder} has {head.weight.shape} numbers and {len(head.names)} names for the tap"
            f" {head.tap}",
            remedy="correct Trunk.heads of its plugin",
        )
    graph = served_graph(linear_graph(head.weight, head.bias), head.target, 1.0)
    (folder / f"{PREFIX}{head.name}.onnx").write_bytes(graph)
    record = PretrainedHeadRecord(
        name=f"{encoder}/{head.name}",
        task=TASKS[head.target],
        encoder=encoder,
        tap=tap,
        names=head.names,
        created=time.time(),
        code=topwork_server.__version__,
        estimate=head.description or "not evaluated here: it came with its encoder",
    )
    (folder / f"{PREFIX}{head.name}.json").write_text(json.dumps(asdict(record)), "utf-8")
