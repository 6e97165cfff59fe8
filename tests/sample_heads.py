"""Heads without a training: linear ones with given numbers, for tests of what keeps and serves heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from topwork.heads import MetricValue
from topwork.report import Report
from topwork_server.heads.head_types import Head, HeadDefinition, Pooling, Task
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api.trainer import linear_graph
from topwork_server.types import Array, FingerprintedTap, Granularity, Modality, Tap

TAP = FingerprintedTap(Tap("mean", 4, Granularity.ITEM), "a" * 64)
DEFINITION = HeadDefinition(
    name="birds",
    set="birds",
    version=3,
    path="/nowhere/birds.lance",
    target="label",
    kind="linear",
    task=Task.CLASSIFICATION,
    encoder="letters",
    encoder_options={"case": "lower"},
    modality=Modality.TEXT,
    views=((TAP, Pooling.ROW),),
    options={"folds": 3},
    descriptions={"owl": "a bird of the night"},
    described=(((0.5, 0.25, 0.0, 1.0),),),
)


def head(name: str = "birds", **fields: Any) -> Head:
    made = Head(
        name=name,
        definition=replace(DEFINITION, name=name),
        task=Task.CLASSIFICATION,
        encoder="letters",
        encoder_options={},
        tap=TAP,
        pooling=Pooling.ROW,
        dim=TAP.tap.dim,
        names=("owl", "wren"),
        created=1700000000.0,
        server_version="0.1.0",
        kind="linear",
        chosen={"l2": 0.1},
        metrics=(MetricValue("accuracy", 0.9, 0.8, 0.95),),
        warnings=("few examples",),
    )
    return replace(made, **fields)


def numbers(made: Head, seed: int = 0) -> tuple[Array, Array]:
    """weight (outputs, dim) and bias (outputs,) of its graph."""
    rng = np.random.default_rng(seed)
    outputs = {Task.REGRESSION: 1, Task.QUESTION_ANSWERING: 2}.get(made.task, len(made.names))
    return rng.normal(size=(outputs, made.dim)).astype(np.float32), rng.normal(size=outputs).astype(np.float32)


def graph(made: Head, seed: int = 0) -> bytes:
    return served_graph(linear_graph(*numbers(made, seed)), made.task.target, made.temperature)


def report(made: Head) -> Report:
    return Report(
        head=made.name,
        task=made.task,
        kind=made.kind,
        set="birds",
        version=3,
        target="label",
        encoder=made.encoder,
        tap=made.tap.tap.name,
        pooling=made.pooling,
        fingerprint=made.tap.fingerprint,
        names=made.names,
        estimate="5-fold cross-validation over 20 items",
        items=20,
        labeled=20,
        unlabeled=0,
        metrics=made.metrics,
        baseline=(),
    )
