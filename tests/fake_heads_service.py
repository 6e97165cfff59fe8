"""Heads of the fake server: what they say tells of the item, so that a test can see whose it is.

`kinds` (classification), `tags` (multi-label), `size` (regression), `words` (tagging) and `answers` read texts, `cells`
(segmentation) pictures, `motions` clips. A training makes a head of the same kind as `kinds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from fake_indexes import FakeJobs
from fake_server import DIM, FINGERPRINT, FakeServer, Refusal, bad_text, row_of
from fake_sets import FakeSets, invalid
from topwork.v1 import encoders_pb2, heads_pb2, heads_pb2_grpc, types_pb2

Tensor = types_pb2.Tensor
NAMES = ("low", "middle", "high")
EXPORTED = bytes(range(256)) * 40
PART = 4000
FIGURE = {"name": "accuracy", "value": 0.912, "low": 0.885, "high": 0.936}
BASELINE = {"name": "accuracy", "value": 0.4, "low": 0.35, "high": 0.45}
REPORT: dict[str, Any] = {
    "head": "kinds",
    "task": "classification",
    "kind": "linear",
    "set": "birds",
    "version": 2,
    "target": "label",
    "encoder": "letters",
    "tap": "pooled",
    "pooling": "row",
    "fingerprint": FINGERPRINT,
    "names": list(NAMES),
    "estimate": "5-fold cross-validation over 482 items",
    "items": 482,
    "labeled": 482,
    "unlabeled": 18,
    "metrics": [FIGURE, {"name": "macro F1", "value": 0.9, "low": 0.86, "high": 0.93}],
    "baseline": [BASELINE],
    "calibration_before": [{"confidence": 0.95, "accuracy": 0.8, "count": 400}],
    "calibration_after": [{"confidence": 0.85, "accuracy": 0.84, "count": 400}],
    "temperature": 1.7,
    "interval": 0.0,
    "abstaining": [
        {
            **{"cost": 0.2, "threshold": 0.8, "answered": {"name": "answered", "value": 0.7, "low": 0.65, "high": 0.74}},
            **{"accuracy": {**FIGURE, "value": 0.97}, "expected": {"name": "cost", "value": 0.081, "low": 0.07, "high": 0.095}},
        },
    ],
    "classes": [{"name": "low", "support": 200, "precision": 0.95, "recall": 0.9, "f1": 0.924}],
    "confusion": {"names": list(NAMES), "counts": [[180, 20, 0], [5, 145, 0], [0, 3, 129]]},
    "learning_curve": [{"items": n, "metric": {**FIGURE, "value": v}} for n, v in ((48, 0.7), (96, 0.8), (386, 0.91))],
    "scatter": [],
    "misclassified": [{"id": "r7", "truth": "low", "predicted": "high", "confidence": 0.99, "shown": "not [bad] at all"}],
    "semi_supervised": None,
    "chosen": {"l2": 0.1},
    "measure": "mean log likelihood",
    "trials": [{"tap": "pooled", "pooling": "row", "settings": {"l2": 0.1}, "score": -0.2}],
    "history": [],
    "options": {},
    "seed": 0,
    "server_version": "0.1.0",
    "training_seconds": 3.1,
    "warnings": ["class 'high' has 3 examples"],
    "of_a_newer_server": 1,
}
TABLE: dict[str, Any] = {
    "measure": "accuracy",
    "estimate": "5-fold cross-validation over 482 items",
    "items": 482,
    "rows": [
        {
            "set": "birds",
            "encoder": "letters",
            "tap": "tokens",
            "pooling": "mean",
            "dim": 4,
            "metric": {**FIGURE, "value": 0.8},
            "difference": {"name": "accuracy", "value": -0.112, "low": -0.15, "high": -0.07},
            "chosen": {"l2": 1.0},
            "seconds": 0.5,
        },
        {
            "set": "birds",
            "encoder": "letters",
            "tap": "pooled",
            "pooling": "row",
            "dim": 4,
            "metric": FIGURE,
            "difference": None,
            "chosen": {"l2": 0.1},
            "seconds": 0.4,
        },
    ],
    "baseline": BASELINE,
    "advice": "pooled is best",
    "warnings": ["few items"],
}


def head(name: str, task: str, encoder: str = "letters", **others: Any) -> heads_pb2.Head:
    known: dict[str, Any] = {
        "name": name,
        "state": heads_pb2.HEAD_STATE_READY,
        "task": f"TASK_{task}",
        "kind": "linear",
        "set": "birds",
        "version": 2,
        "target": "label",
        "encoder": encoder,
        "tap": "pooled",
        "pooling": "row",
        "fingerprint": FINGERPRINT,
        "names": NAMES if task in ("CLASSIFICATION", "MULTI_LABEL", "SEGMENTATION") else (),
        "metrics": [heads_pb2.MetricValue(**FIGURE)],
        "baseline": [heads_pb2.MetricValue(**BASELINE)],
        "estimate": REPORT["estimate"],
        "labeled": 482,
        "temperature": 1.7,
        "created": 5.0,
        "training_seconds": 3.1,
        "warnings": REPORT["warnings"],
    }
    made = heads_pb2.Head(**{**known, **others})
    made.chosen.update({"l2": 0.1})
    return made


class FakeHeads(heads_pb2_grpc.HeadsServicer):
    """`trained` is called with the answers so far of a stream: what the `version` of all heads is."""

    def __init__(self, server: FakeServer, sets: FakeSets, jobs: FakeJobs) -> None:
        self.server, self.sets, self.jobs = server, sets, jobs
        self.trained: Callable[[int], str] = lambda answers: "5"
        made = [
            head("kinds", "CLASSIFICATION"),
            head("tags", "MULTI_LABEL"),
            head("size", "REGRESSION"),
            head("words", "TAGGING"),
            head("answers", "QUESTION_ANSWERING"),
            head("cells", "SEGMENTATION", "pictures", tap="cells", pooling="rows"),
            head("motions", "CLASSIFICATION", "clips", pretrained=True, kind="", set=""),
        ]
        self.heads = {one.name: one for one in made}

    def find(self, name: str, context: Any) -> heads_pb2.Head:
        if name not in self.heads:
            Refusal(grpc.StatusCode.NOT_FOUND, "NotFound", f"no head {name!r}", "see `topwork heads`").abort(context)
        return self.heads[name]

    def ListTrainers(self, request: Any, context: Any) -> heads_pb2.ListTrainersResponse:  # noqa: N802
        self.server._enter("ListTrainers", request, context)
        option = encoders_pb2.Option(name="l2", type="float", default="0.0", description="0: chosen")
        tasks = [heads_pb2.TASK_CLASSIFICATION, heads_pb2.TASK_QUESTION_ANSWERING]
        trainer = heads_pb2.Trainer(
            kind="linear", description="softmax", options=[option], plugin="tests 1", tasks=tasks, min_per_class=2
        )
        return heads_pb2.ListTrainersResponse(trainers=[trainer])

    def Train(self, request: Any, context: Any) -> heads_pb2.Head:  # noqa: N802
        self.server._enter("Train", request, context)
        found = self.sets.find(request.set, context)
        if request.target not in found.columns:
            invalid(f"set {request.set!r} has no column {request.target!r}").abort(context)
        name = request.name or f"{request.set}-{request.target}"
        if name in self.heads and not request.replace:
            Refusal(grpc.StatusCode.ALREADY_EXISTS, "AlreadyExists", f"head {name!r} is there", "say replace").abort(context)
        job = self.jobs.start(name, "train")
        self.heads[name] = head(name, "CLASSIFICATION", set=request.set, target=request.target, job=job, seed=request.seed)
        begun = heads_pb2.Head()
        begun.CopyFrom(self.heads[name])
        begun.state = heads_pb2.HEAD_STATE_TRAINING
        return begun

    def ListHeads(self, request: Any, context: Any) -> heads_pb2.ListHeadsResponse:  # noqa: N802
        self.server._enter("ListHeads", request, context)
        found = [one for one in self.heads.values() if request.encoder in ("", one.encoder)]
        return heads_pb2.ListHeadsResponse(heads=found)

    def GetHead(self, request: Any, context: Any) -> heads_pb2.Head:  # noqa: N802
        self.server._enter("GetHead", request, context)
        found = self.find(request.name, context)
        if found.HasField("job"):
            found.job.CopyFrom(self.jobs.jobs[found.job.id])
        return found

    def DropHead(self, request: Any, context: Any) -> heads_pb2.DropHeadResponse:  # noqa: N802
        self.server._enter("DropHead", request, context)
        self.find(request.name, context)
        del self.heads[request.name]
        return heads_pb2.DropHeadResponse()

    def GetReport(self, request: Any, context: Any) -> heads_pb2.Report:  # noqa: N802
        self.server._enter("GetReport", request, context)
        self.find(request.name, context)
        page = f"<!doctype html><title>{request.name}</title>" if request.page else ""
        return heads_pb2.Report(json=json.dumps({**REPORT, "head": request.name}), page=page)

    def Probe(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.server._enter("Probe", request, context)
        for name in request.sets:
            self.sets.find(name, context)
        job = self.jobs.start(request.target, "probe")
        self.jobs.results[job.id] = json.dumps(TABLE)
        return job

    def Predict(self, request: Any, context: Any) -> heads_pb2.PredictResponse:  # noqa: N802
        self.server._enter("Predict", request, context)
        settings = request.settings
        try:
            match request.WhichOneof("input"):
                case "items":
                    return self._answer(settings, request.items.items, b"", context, 0)
                case "vectors":
                    if request.fingerprint not in ("", FINGERPRINT):
                        message = f"fingerprint {request.fingerprint} is not {FINGERPRINT}"
                        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NotReady", message)
                    rows = np.frombuffer(request.vectors.data, "<f4").reshape(request.vectors.shape)
                    return self._said(settings, list(rows), None, context, 0)
            found = self.sets.find(request.stored.set, context)
            for position, id in enumerate(request.stored.ids):
                if id not in found.items:
                    raise invalid(f"no item {id!r}", position)
            rows_of = [found.items[id].rows("pooled")[0] for id in request.stored.ids]
            return self._said(settings, rows_of, None, context, 0)
        except Refusal as refusal:
            refusal.abort(context)
            raise

    def PredictStream(self, requests: Iterator[Any], context: Any) -> Iterator[heads_pb2.PredictResponse]:  # noqa: N802
        context.add_callback(self.server.cancelled.set)
        settings = next(requests).settings
        attempt = self.server._enter("PredictStream", settings, context)
        upload, answers = b"", 0
        for message in requests:
            self.server.requests.append(message)
            if message.WhichOneof("message") == "chunk":
                upload += message.chunk
                continue
            self.server.gate.wait()
            self.server._check("PredictStream", attempt, answers, context)
            try:
                yield self._answer(settings, message.items.items, upload, context, answers)
            except Refusal as refusal:
                refusal.abort(context)
            upload, answers = b"", answers + 1

    def ExportHead(self, request: Any, context: Any) -> Iterator[heads_pb2.ExportHeadResponse]:  # noqa: N802
        attempt = self.server._enter("ExportHead", request, context)
        self.find(request.name, context)
        for answers, start in enumerate(range(0, len(EXPORTED), PART)):
            self.server._check("ExportHead", attempt, answers, context)
            about = json.dumps({"names": NAMES, "inputs": {"pixels": [1, 3, 8, 8]}}) if answers == 0 else ""
            part = EXPORTED[start : start + PART]
            yield heads_pb2.ExportHeadResponse(chunk=part, total=len(EXPORTED), description=about)

    def _answer(
        self, settings: Any, items: Sequence[types_pb2.Item], upload: bytes, context: Any, answers: int
    ) -> heads_pb2.PredictResponse:
        if not items:
            raise invalid("there are no items")
        bad = [i for i, item in enumerate(items) if item.text == "bad" or not item.WhichOneof("content")]
        if bad and not settings.skip_bad_items:
            raise bad_text(bad[0])
        rows = [np.full(DIM, np.nan, np.float32) if i in bad else row_of(item, upload)[0] for i, item in enumerate(items)]
        reply = self._said(settings, rows, items, context, answers)
        reply.failures.extend(encoders_pb2.Failure(item=i, code=3, message="a bad text", remedy="send a good one") for i in bad)
        if settings.skip_bad_items and "answers" in settings.heads:  # which is of pairs; the others are not to blame
            lone = [i for i, item in enumerate(items) if i not in bad and not item.HasField("text_pair")]
            reply.failures.extend(encoders_pb2.Failure(item=i, code=3, message="no pair") for i in lone)
        return reply

    def _said(
        self, settings: Any, rows: list[np.ndarray[Any, Any]], items: Any, context: Any, answers: int
    ) -> heads_pb2.PredictResponse:
        whole = np.array(rows, "<f4").reshape(-1, DIM)
        features = types_pb2.TapFeatures(
            tap="pooled",
            fingerprint=FINGERPRINT,
            granularity=types_pb2.GRANULARITY_ITEM,
            rows=tensor(whole),
            counts=[1] * len(rows),
        )
        return heads_pb2.PredictResponse(
            predictions=[self._of(self.find(name, context), settings, whole, items, answers) for name in settings.heads],
            features=[features] if settings.features else [],
            timings=encoders_pb2.Timings(compute=1.0),
        )

    def _of(
        self, found: heads_pb2.Head, settings: Any, rows: np.ndarray[Any, Any], items: Any, answers: int
    ) -> heads_pb2.Predictions:
        predictions = heads_pb2.Predictions(
            head=found.name, task=found.task, names=found.names, fingerprint=FINGERPRINT, version=self.trained(answers)
        )
        match found.task:
            case heads_pb2.TASK_CLASSIFICATION | heads_pb2.TASK_MULTI_LABEL:
                probabilities(predictions, rows[:, 0], settings.top, found.task == heads_pb2.TASK_MULTI_LABEL)
            case heads_pb2.TASK_REGRESSION:
                predictions.values.CopyFrom(tensor(rows[:, 0]))
                predictions.interval = 0.5
            case heads_pb2.TASK_SEGMENTATION:
                masks = np.tile(np.array([[0, 1], [2, 0]], "|u1"), (len(rows), 1, 1))
                predictions.masks.CopyFrom(Tensor(dtype=types_pb2.DTYPE_UINT8, shape=masks.shape, data=masks.tobytes()))
                predictions.confidences.CopyFrom(tensor(np.full(masks.shape, 0.75)))
                predictions.boxes.CopyFrom(tensor(np.tile(np.array([0.0, 0, 32, 16]), (len(rows), 1))))
            case _:
                known = items or [None] * len(rows)
                predictions.spans.extend(heads_pb2.FoundSpans(spans=first_word(found, item)) for item in known)
        return predictions


def tensor(values: np.ndarray[Any, Any]) -> Tensor:
    return Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=values.shape, data=values.astype("<f4").tobytes())


def probabilities(predictions: heads_pb2.Predictions, numbers: np.ndarray[Any, Any], top: int, several: bool) -> None:
    """The number modulo 3 is the class, at 0.75; of labels also the next one, at 0.5."""
    whole = np.full((len(numbers), 3), 0.125, np.float32)
    for row, number in zip(whole, numbers, strict=True):
        if np.isnan(number):
            row[:] = np.nan
            continue
        row[int(number) % 3] = 0.75
        if several:
            row[(int(number) + 1) % 3] = 0.5
    if top:
        best = np.argsort(-whole, axis=1, kind="stable")[:, :top]
        whole = np.take_along_axis(whole, best, 1)
        predictions.best.CopyFrom(Tensor(dtype=types_pb2.DTYPE_INT32, shape=best.shape, data=best.astype("<i4").tobytes()))
    predictions.probabilities.CopyFrom(tensor(whole))


def first_word(found: heads_pb2.Head, item: types_pb2.Item | None) -> list[heads_pb2.FoundSpan]:
    """Of the text or, for an answer, of the context."""
    answers = found.task == heads_pb2.TASK_QUESTION_ANSWERING
    if item is not None and (answers != item.HasField("text_pair") or item.text == "bad"):
        return []
    text = "" if item is None else item.text_pair.pair if answers else item.text
    end = len(text.split(" ")[0]) or 3
    return [heads_pb2.FoundSpan(start=0, end=end, label="" if answers else "FIRST", probability=0.9, part=int(answers))]
