"""Predictions that say how sure they are: the classes or the band that hold the truth with a promised coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.heads import conformal
from topwork_server.heads.conformal import HeldOutScores
from topwork_server.heads.head_types import Head, Task
from topwork_server.heads.serving.head_output import HeadOutput
from topwork_server.types import Array

PROMISING = (Task.CLASSIFICATION, Task.MULTI_LABEL, Task.REGRESSION)


@dataclass(frozen=True)
class Caution:
    """What is asked of predictions beside the likeliest answer. `coverage` 0: no promise."""

    coverage: float = 0.0

    def check(self, heads: Sequence[Head]) -> None:
        """Raise InvalidInput for what means nothing, or nothing to one of the heads; NotReady where a head keeps too little."""
        if not self.coverage:
            return
        if not 0 < self.coverage < 1:
            raise InvalidInput(f"coverage is {self.coverage:g}", remedy="promise a share above 0 and below 1, such as 0.9")
        for head in heads:
            _held_out(head).promised(head.name, self.coverage)

    def applied(self, output: HeadOutput) -> HeadOutput:
        """Add what is asked for to the output of a head that was checked."""
        if not self.coverage:
            return output
        quantile = _held_out(output.head).promised(output.head.name, self.coverage)
        if output.probabilities is None:
            return replace(output, interval=quantile)
        return replace(output, candidates=_ordered(output.head, output.probabilities, quantile))


def _held_out(head: Head) -> HeldOutScores:
    if head.task not in PROMISING:
        raise InvalidInput(
            f"the head {head.name!r} is for {head.task}, and coverage is promised by {', '.join(PROMISING)}",
            remedy="leave coverage out",
        )
    if head.held_out is None:
        why = "it came with its encoder" if head.pretrained else "it was not evaluated, or trained by an older server"
        raise NotReady(
            f"the head {head.name!r} keeps no held-out scores to promise a coverage by: {why}",
            remedy="train one on items of your own, with labels" if head.pretrained else "train it again with replace",
        )
    return head.held_out


def _ordered(head: Head, probabilities: Array, quantile: float) -> tuple[tuple[int, ...], ...]:
    """List the classes in the set of each item, the likeliest first; none of an item that failed."""
    failed = np.asarray(np.isnan(probabilities).any(axis=1))
    known = np.where(failed[:, None], -1.0, probabilities)
    held = conformal.candidates(head.task.target, known, quantile) & ~failed[:, None]
    order = np.argsort(-known, axis=1, kind="stable")
    sizes = held.sum(axis=1)
    return tuple(tuple(of[:size].tolist()) for of, size in zip(order, sizes, strict=True))
