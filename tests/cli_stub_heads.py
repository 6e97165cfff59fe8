"""The heads of the client that answers from memory: see `cli_stub`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fake_heads_service import REPORT, TABLE
from topwork._records import of_record
from topwork.encoders import OptionInfo
from topwork.errors import JobFailed, NotFound
from topwork.heads import HeadInfo, MetricValue, TrainerInfo
from topwork.jobs import Job
from topwork.predictions import Detection, FoundSpan, Predictions
from topwork.probes import ProbeTable
from topwork.report import Report

WHEN = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
FIGURES = (
    MetricValue("accuracy", 0.912, 0.885, 0.936),
    MetricValue("macro F1", 0.9, 0.86, 0.93),
    MetricValue("calibration error before scaling", 0.081, 0.07, 0.09),
    MetricValue("calibration error", 0.021, 0.015, 0.03),
)


def train_job(**others: Any) -> Job:
    return replace(Job("9d02", "train", "birds-label", "running", 0.25, "step 3", WHEN, None, 30.0, ""), **others)


def head_info(**others: Any) -> HeadInfo:
    known = HeadInfo(
        name="birds-label",
        state="ready",
        detail="",
        job=train_job(state="done", fraction=1.0),
        task="classification",
        kind="linear",
        set="birds",
        version=12,
        target="label",
        encoder="letters",
        tap="pooled",
        pooling="row",
        fingerprint="ab" * 32,
        names=("owl", "wren"),
        metrics=FIGURES,
        baseline=(MetricValue("accuracy", 0.104, 0.08, 0.13),),
        estimate="5-fold cross-validation over 482 items",
        options={},
        chosen={"l2": 0.1},
        labeled=482,
        unlabeled=18,
        seed=0,
        temperature=1.7,
        max_abs_error=2.4e-6,
        created=WHEN,
        training_seconds=3.14,
        bytes=41_000,
        pretrained=False,
        warnings=("class 'wren' has 3 examples",),
        server_version="0.1.0",
    )
    return replace(known, **others)


def predictions(head: str, count: int) -> Predictions:
    """By the head's name: `kinds`, `tags`, `size`, `words`, `cells` or `things`, one for each task. Items alternate."""
    odd = np.arange(count) % 2
    match head:
        case "tags":
            array = np.stack([odd, 1 - odd, np.full(count, 0.75)], 1).astype(np.float32)
            return Predictions(head, "multi-label", ("big", "small", "[red]"), count, array)
        case "size":
            return Predictions(head, "regression", (), count, values=np.arange(count, dtype=np.float32), interval=0.5)
        case "words":
            return Predictions(
                head, "tagging", ("O", "B-CITY"), count, spans=[(FoundSpan(0, 6, "CITY", "London", 0.875),)] * count
            )
        case "cells":
            masks = np.tile(np.array([[0, 0], [1, 0]], np.uint8), (count, 1, 1))
            boxes = np.tile(np.array([0, 0, 32, 16], np.float32), (count, 1))
            return Predictions(head, "segmentation", ("sky", "owl"), count, masks=masks, confidences=masks / 2, boxes=boxes)
        case "things":
            found = (Detection("owl", 0.875, (1.0, 2.5, 30.0, 16.0)), Detection("[wren]", 0.25, (0.0, 0.0, 8.0, 8.0)))
            return Predictions(
                head, "detection", ("owl", "[wren]"), count, detections=[found, ()] * (count // 2) + [found] * (count % 2)
            )
    array = np.stack([0.75 - odd / 2, 0.25 + odd / 2], 1).astype(np.float32)
    return Predictions(head, "classification", ("owl", "wren"), count, array)


@dataclass
class HeadStub:
    """`alter` changes what is predicted before it is answered."""

    found_heads: list[HeadInfo] = field(default_factory=lambda: [head_info()])
    found_report: Report = field(default_factory=lambda: of_record(Report, {**REPORT, "json": REPORT}))
    found_table: ProbeTable = field(default_factory=lambda: ProbeTable.of(train_job(state="done", result=TABLE)))
    training: list[Job] = field(default_factory=lambda: [train_job(), train_job(state="done", fraction=1.0, seconds_left=None)])
    alter: Callable[[Predictions], Predictions] = lambda found: found
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def _called(self, verb: str, arguments: dict[str, Any]) -> None:
        self.calls.append((verb, {name: value for name, value in arguments.items() if name != "self"}))

    def trainers(self) -> list[TrainerInfo]:
        option = OptionInfo("strengths", "int", "45", "regularisation strengths that are tried")
        linear = TrainerInfo("linear", "softmax", (option,), "topwork", ("classification", "regression"), False, False, 2)
        return [linear, TrainerInfo("zero-shot", "by text", (), "topwork", ("classification",), True, True, 0)]

    def train(
        self,
        set: str,
        *,
        target: str,
        kind: str = "linear",
        name: str = "",
        task: str = "",
        taps: Sequence[str] = (),
        poolings: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        where: str = "",
        test_where: str = "",
        group: str = "",
        weight: str = "",
        combine: bool = False,
        folds: int = 0,
        seed: int = 0,
        version: int = 0,
        unlabeled: str = "",
        descriptions: Mapping[str, str] | None = None,
        replace: bool = False,
        also: Mapping[str, float] | None = None,
        wait: bool = True,
        progress: Callable[[Job], object],
    ) -> HeadInfo:
        self._called("train", locals())
        if not wait:
            return head_info(state="training", job=train_job())
        self._awaited(progress)
        return self.found_heads[0]

    def _awaited(self, progress: Callable[[Job], object]) -> None:
        for change in self.training:
            if change.message == "interrupt":
                raise KeyboardInterrupt
            progress(change)
        if change.state != "done":
            raise JobFailed(change)

    def head(self, name: str) -> HeadInfo:
        if name == "nobody":
            raise NotFound("there is no head 'nobody'", remedy="see `topwork heads`")
        return self.found_heads[0]

    def heads(self, encoder: str = "") -> list[HeadInfo]:
        self._called("heads", locals())
        return self.found_heads

    def drop_head(self, name: str) -> None:
        self._called("drop_head", locals())

    def report(self, name: str) -> Report:
        return self.found_report

    def report_page(self, name: str) -> str:
        return f"<!doctype html><title>{name}</title>"

    def probe(
        self,
        sets: Sequence[str],
        *,
        target: str,
        taps: Sequence[str] = (),
        poolings: Sequence[str] = (),
        task: str = "",
        kind: str = "linear",
        options: Mapping[str, Any] | None = None,
        where: str = "",
        group: str = "",
        weight: str = "",
        folds: int = 0,
        seed: int = 0,
        wait: bool = True,
        progress: Callable[[Job], object],
    ) -> ProbeTable | Job:
        self._called("probe", locals())
        if not wait:
            return train_job(kind="probe")
        self._awaited(progress)
        return self.found_table

    def export_head(self, name: str, path: Path, *, progress: bool) -> dict[str, Any]:
        self._called("export_head", locals())
        path.write_bytes(bytes(2000))
        pixels = {"name": "pixels", "dtype": "float32", "shape": ["batch", 3, 8, 8]}
        scores = {"name": "scores", "dtype": "float32", "shape": ["batch", 2]}
        return {"inputs": [pixels], "outputs": [scores], "names": ["owl", "wren"]}

    def predict(
        self,
        heads: Sequence[str],
        items: Iterable[Any] | None = None,
        *,
        vectors: Any = None,
        set: str = "",
        ids: Sequence[str] | None = None,
        top: int = 0,
        coverage: float = 0.0,
        abstain: float | None = None,
        unlike: float | None = None,
        min_score: float | None = None,
        max_overlap: float | None = None,
        max_boxes: int = 0,
        options: Mapping[str, Any] | None = None,
        skip_bad_items: bool = False,
        priority: str = "normal",
        progress: bool = False,
    ) -> dict[str, Predictions]:
        items = None if items is None else list(items)
        self._called("predict", locals())
        count = len(next(asked for asked in (items, vectors, ids) if asked is not None))
        return {head: self.alter(predictions(head, count)) for head in heads}
