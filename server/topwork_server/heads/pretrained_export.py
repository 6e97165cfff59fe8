"""Heads that a pretrained network brought, in its artifact: head-NAME.onnx and head-NAME.json. `native.py` reads them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import topwork_server
from topwork_server.errors import ExportFailed
from topwork_server.heads.head_types import Head, Pooling, Task
from topwork_server.heads.served_graph import served_graph
from topwork_server.plugin_api.head_graphs import linear_graph
from topwork_server.plugin_api.trainer import NativeHead, Target
from topwork_server.types import Granularity, TapInfo

TASKS = {Target.CLASSES: Task.CLASSIFICATION, Target.LABELS: Task.MULTI_LABEL, Target.NUMBERS: Task.REGRESSION}


def write(folder: Path, encoder: str, native: NativeHead, taps: Sequence[TapInfo]) -> None:
    """ExportFailed where its numbers and its tap do not belong together."""
    tap = next((info for info in taps if info.tap.name == native.tap), None)
    if tap is None or native.weight.shape != (len(native.names), tap.tap.dim) or native.target not in TASKS:
        raise ExportFailed(
            f"the head {native.name} of {encoder} has {native.weight.shape} numbers and {len(native.names)} names for the tap"
            f" {native.tap}",
            remedy="mend Trunk.heads of its plugin",
        )
    graph = served_graph(linear_graph(native.weight, native.bias), native.target, 1.0)
    (folder / f"head-{native.name}.onnx").write_bytes(graph)
    (folder / f"head-{native.name}.json").write_text(json.dumps(asdict(_head(encoder, native, tap))), "utf-8")


def _head(encoder: str, native: NativeHead, tap: TapInfo) -> Head:
    several = tap.tap.granularity is not Granularity.ITEM
    return Head(
        name=f"{encoder}/{native.name}",
        definition=None,
        task=TASKS[native.target],
        encoder=encoder,
        encoder_options={},
        tap=tap,
        pooling=Pooling.MEAN if several else Pooling.ROW,
        dim=tap.tap.dim,
        names=native.names,
        created=time.time(),
        code=topwork_server.__version__,
        kind="native",
        estimate=native.description or "not judged here: it came with its encoder",
    )
