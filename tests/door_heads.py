"""Heads of every task on the encoder `ready` of the fake engine, for tests of doors. They read the length of a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fake_engine
import numpy as np
import sample_heads
from fake_engine import DIM, TAPS
from topwork_server.atomic_store import file_sha256
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head, Pooling, Task
from topwork_server.heads.span_decoding import bio_names
from topwork_server.models.artifacts import MANIFEST
from topwork_server.models.head_graph import served_graph
from topwork_server.models.pretrained_heads import PretrainedHeadRecord
from topwork_server.plugin_api.trainer import linear_graph

#: The classes of `mood`: of 5 letters the scores are 0, 2 and -2.
MOODS = ("short", "long", "huge: very")
#: By name: task, tap, names, and of each output what it is for a length of 0, and how much more for each letter.
HEADS: dict[str, tuple[Task, str, tuple[str, ...], Sequence[tuple[float, float]]]] = {
    "mood": (Task.CLASSIFICATION, "pooled", MOODS, [(0, 0), (-3, 1), (-12, 2)]),
    "ready": (Task.CLASSIFICATION, "pooled", ("odd", "even"), [(1, 0), (0, 0)]),
    "tags": (Task.MULTI_LABEL, "pooled", ("a", "b"), [(-1, 0), (-3, 1)]),
    "size": (Task.REGRESSION, "pooled", (), [(1, 2)]),
    "mask": (Task.SEGMENTATION, "cells", ("sky", "sea"), [(3, 0), (0, 1)]),
    "boxes": (Task.DETECTION, "cells", ("cat",), [(-3, 1), *[(0.5, 0)] * 4]),
    "spans": (Task.TAGGING, "tokens", bio_names(("X",)), [(3, 0), (0, 0), (0, 1)]),
    "answer": (Task.QUESTION_ANSWERING, "tokens", (), [(0, 1), (0, 1)]),
}


def publish(home: Path, *names: str, **fields: Any) -> None:
    """Publish heads into the home of a server, as trainings do."""
    for name in names or HEADS:
        head, graph = made(name, **fields)
        HeadStore(home / "heads").publish(head, graph, None)


def bring(server: fake_engine.ServedApp, folder: Path, *names: str) -> None:
    """Let the encoder `ready` bring heads, as `ready/NAME`."""
    folder.mkdir()
    for name in names:
        head, graph = made(name)
        record = PretrainedHeadRecord(
            f"ready/{name}", head.task, "ready", head.tap, head.names, head.created, head.server_version, head.estimate
        )
        (folder / f"head-{name}.json").write_text(json.dumps(asdict(record)))
        (folder / f"head-{name}.onnx").write_bytes(graph)
    files = {path.name: file_sha256(path) for path in folder.glob("head-*")}
    (folder / MANIFEST).write_text(json.dumps({"files": files}))
    server.catalog.entries["ready"] = replace(server.catalog.entries["ready"], folder=folder)


def made(name: str, **fields: Any) -> tuple[Head, bytes]:
    """A head and its graph, which reads the first number of each row alone."""
    task, tap, names, outputs = HEADS[name]
    weight = np.zeros((len(outputs), DIM), np.float32)
    weight[:, 0] = [more for _, more in outputs]
    pooling = Pooling.ROWS if task.every_row else Pooling.ROW
    usual = {"encoder": "ready", "tap": TAPS[tap], "pooling": pooling, "dim": DIM, "chosen": {}}
    head = sample_heads.head(name, task=task, names=names, **{**usual, **fields})
    graph = linear_graph(weight, np.array([least for least, _ in outputs], np.float32))
    return head, served_graph(graph, task.target, head.temperature)
