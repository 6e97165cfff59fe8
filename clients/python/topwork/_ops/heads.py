"""Heads: trainings, reports, comparisons, exports."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from topwork._codec import decode_heads, decode_sets, messages
from topwork._files import save_features
from topwork._ops.jobs import done, left
from topwork._ops.progress_bar import Advance, Progress, reporting
from topwork._ops.sets import numbered
from topwork._records import of_record
from topwork._transport.calls import ClientState, Steps, StreamCall, unary
from topwork._transport.methods import DROP_HEAD, EXPORT_HEAD, GET_HEAD, GET_REPORT, LIST_HEADS, LIST_TRAINERS, PROBE, TRAIN
from topwork._transport.streams import DownloadStream
from topwork.errors import InvalidInput, TopworkError
from topwork.heads import HeadInfo, TrainerInfo
from topwork.jobs import Job, JobProgress
from topwork.probes import ProbeTable
from topwork.report import Report
from topwork.v1 import heads_pb2


def trainers(session: ClientState, *, timeout: float | None = None) -> Steps[list[TrainerInfo]]:
    """The kinds of training that `train` takes, with their tasks and their options."""
    reply = yield from unary(LIST_TRAINERS, heads_pb2.ListTrainersRequest(), timeout)
    return [decode_heads.trainer(message) for message in reply.trainers]


def train(
    session: ClientState,
    set: str,
    *,
    target: str = "",
    kind: str = "",
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
    version: int | str = 0,
    unlabeled: str = "",
    descriptions: Mapping[str, str] | None = None,
    replace: bool = False,
    also: Mapping[str, float] | None = None,
    wait: bool = True,
    progress: JobProgress = None,
    timeout: float | None = None,
) -> Steps[HeadInfo]:
    """Train a head to predict a column of a set's metadata from its features, evaluate it on items it has not seen, and serve it.

    target        the column of metadata that holds the labels; items without a value are unlabeled. None where `descriptions`
                  are all there is to learn from; such a head is not evaluated
    kind          one of `trainers()`: "linear" (softmax or ridge regression; where none is named), "fine-tune" (the trunk, too),
                  "fcos" (of detection the only one) ...
    name          none: SET-TARGET, or SET-KIND
    task          "classification", "multi-label", "regression", "tagging", "question-answering", "segmentation", "detection" or
                  "alignment";
                  none: by the type of the column. How labels of each are written: `topwork.span`, `topwork.box`, `topwork.mask`
    taps          of the set; none: its first. Of several, cross-validation chooses
    poolings      of taps with several rows an item: "mean", "max", "mean+std" or "pair"; of pairs of texts that the set keeps,
                  "two-tower" or "cosine" (each text encoded by itself), too; of several, cross-validation chooses. None: the
                  usual one, and of pairs all
    options       of the kind, such as {"class_weight": "balanced"}: see `trainers()`
    where         SQL over id and metadata: only these items
    test_where    these items evaluate the head, and are never learned from; none: cross-validation
    group         a column: items with the same value (a patient, a video) are never on both sides of a split
    weight        a column of numbers above 0: what each item counts for, in learning and in the metrics ("linear", "mlp" and
                  "prototype" alone)
    combine       read all taps side by side instead of choosing one: the head stands on "layer3.pooled+pooled". Taps may then be
                  of other sets of the same items, by other encoders, too: ["pooled", "other-set:pooled"]
    folds         of the cross-validation; 0: 5, or one split of a fifth where there are many items
    seed          the same seed gives the same head
    version       of the set, by its number or by the name that it is pinned under; 0: the current one
    unlabeled     "self-training" or "label-propagation": unlabeled items may help, and the report says what they did
    descriptions  of classes by text, which the trunk embeds: for kinds that learn from them, without any label
    replace       a head of that name, which serves until the new one is ready
    also          of "fine-tune": other columns that the trunk learns together with the target, and what each counts for beside
                  its 1, as {"rating": 0.5}; each becomes a head NAME-COLUMN on the same new encoder. Needs `test_where`
    wait          until the training has ended; JobFailed where it failed
    progress      True for a bar on a terminal, or a function of the Job at each change
    timeout       seconds, for all of it; None is the client's for the call, and as long as it takes for the training. A training
                  goes on where its caller stopped waiting

    Raises InvalidInput for labels that cannot be learned, before the training begins; AlreadyExists where the name is taken.
    """
    number = yield from numbered(session, set, version, timeout)
    request = heads_pb2.TrainRequest(
        set=set,
        target=target,
        name=name,
        kind=kind,
        task=decode_heads.task(task),
        taps=taps,
        poolings=poolings,
        options=messages.struct(options),
        where=where,
        test_where=test_where,
        group=group,
        weight=weight,
        combine=combine,
        folds=folds,
        seed=seed,
        version=number,
        unlabeled=unlabeled,
        descriptions=descriptions,
        replace=replace,
        also=messages.weights(also),
    )
    started = time.monotonic()
    begun = decode_heads.head((yield from unary(TRAIN, request, timeout)))
    session.heads.pop(begun.name, None)
    if not wait or begun.job is None:
        return begun
    yield from done(session, begun.job, begun.name, progress, left(timeout, started))
    return (yield from head(session, begun.name, timeout=timeout))


def head(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[HeadInfo]:
    """One head, as it stands now. Raises NotFound."""
    info = decode_heads.head((yield from unary(GET_HEAD, heads_pb2.GetHeadRequest(name=name), timeout)))
    session.heads[name] = info
    return info


def heads(session: ClientState, encoder: str = "", *, timeout: float | None = None) -> Steps[list[HeadInfo]]:
    """List all heads or those on one encoder, with those that came with their encoder ("efficientnet-lite0/imagenet")."""
    reply = yield from unary(LIST_HEADS, heads_pb2.ListHeadsRequest(encoder=encoder), timeout)
    return [decode_heads.head(message) for message in reply.heads]


def drop_head(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[None]:
    """Delete a head and its report, and end its training if one runs. Its set stays. Raises NotFound."""
    session.heads.pop(name, None)
    yield from unary(DROP_HEAD, heads_pb2.DropHeadRequest(name=name), timeout)


def report(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[Report]:
    """Get the evaluation of a head on items that it has not seen, with its worst errors. Raises NotFound."""
    reply = yield from unary(GET_REPORT, heads_pb2.GetReportRequest(name=name), timeout)
    record = json.loads(reply.json)
    return of_record(Report, {**record, "json": record})


def report_page(session: ClientState, name: str, *, timeout: float | None = None) -> Steps[str]:
    """The report as a page with plots, in HTML, all in one file."""
    return (yield from unary(GET_REPORT, heads_pb2.GetReportRequest(name=name, page=True), timeout)).page


def probe(
    session: ClientState,
    sets: str | Sequence[str],
    *,
    target: str,
    taps: Sequence[str] = (),
    poolings: Sequence[str] = (),
    task: str = "",
    kind: str = "",
    options: Mapping[str, Any] | None = None,
    where: str = "",
    group: str = "",
    weight: str = "",
    folds: int = 0,
    seed: int = 0,
    wait: bool = True,
    progress: JobProgress = None,
    timeout: float | None = None,
) -> Steps[ProbeTable | Job]:
    """Learn the same task from several sets and taps, evaluated on the same folds: which trunk and depth suit the data.

    sets      one or several: the same items, as different encoders see them
    taps      none: all of each set
    poolings  none: "mean"
    wait      until it has ended; JobFailed where it failed. Without, the Job comes back: `ProbeTable.of(job)` once it is done

    No head is kept: `train` makes one. `print` the table to read it. See `train` for the rest.
    """
    request = heads_pb2.ProbeRequest(
        sets=several(sets),
        target=target,
        taps=taps,
        poolings=poolings,
        task=decode_heads.task(task),
        kind=kind,
        options=messages.struct(options),
        where=where,
        group=group,
        weight=weight,
        folds=folds,
        seed=seed,
    )
    started = time.monotonic()
    job = decode_sets.job((yield from unary(PROBE, request, timeout)))
    if not wait:
        return job
    return ProbeTable.of((yield from done(session, job, target, progress, left(timeout, started))))


def export_head(
    session: ClientState, name: str, path: str | os.PathLike[str], *, progress: Progress = None, timeout: float | None = None
) -> Steps[dict[str, Any]]:
    """Trunk and head as one ONNX file, which plain onnxruntime runs with the same numbers.

    path      of the file; it appears whole or not at all
    progress  True for a bar on a terminal, or a function of (bytes done, bytes in all)
    timeout   seconds: the longest wait for the next chunk

    Returns what a caller of the file must know: inputs, outputs, preprocessing, names.
    """
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {target.absolute().parent}", remedy="create it, or write elsewhere")
    if target.is_dir():
        raise InvalidInput(f"{target} is a folder", remedy="name a file")
    with save_features.whole(target) as file, reporting(progress, None, name) as advance:
        download = HeadDownload(heads_pb2.ExportHeadRequest(name=name), file, advance)
        tail = DownloadStream(session, download.ask, session.timeout if timeout is None else timeout)
        yield StreamCall(EXPORT_HEAD, tail, download.receive)
        if download.done != download.total:
            raise TopworkError(f"{session.target} sent {download.done:,} of {download.total or 0:,} bytes of {name}")
    return download.description


def several(names: str | Sequence[str]) -> list[str]:
    """Convert names to a list; a lone name is one, not its letters."""
    return [names] if isinstance(names, str) else list(names)


@dataclass
class HeadDownload:
    """The state of a download. `total` is None before the first part."""

    request: heads_pb2.ExportHeadRequest
    file: IO[bytes]
    advance: Advance
    done: int = 0
    total: int | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def ask(self) -> heads_pb2.ExportHeadRequest | None:
        """The request for the whole file, which begins again after a break; None where it has come."""
        if self.done == self.total:
            return None
        self.file.seek(0)
        self.file.truncate()
        self.advance(-self.done, self.total)
        self.done = 0
        return self.request

    def receive(self, reply: heads_pb2.ExportHeadResponse, _: None) -> None:
        if reply.description:
            self.description = json.loads(reply.description)
        self.total = reply.total or self.total
        self.file.write(reply.chunk)
        self.done += len(reply.chunk)
        self.advance(len(reply.chunk), self.total)
