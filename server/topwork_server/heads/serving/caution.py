"""Predictions that say how sure they are: with classes or bands of a promised coverage, or without an answer where it is not
worth its risk, or where the item is unlike what the head has learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.heads import conformal
from topwork_server.heads.conformal import HeldOutScores
from topwork_server.heads.head_store import StoredHead
from topwork_server.heads.head_types import PROMISING, Head, Task, UnlabeledUse
from topwork_server.heads.serving.head_output import Abstention, HeadOutput
from topwork_server.heads.typicality import FEWEST_COMPARED, MOST_COMPARED
from topwork_server.types import Array

PRETRAINED = "train one on items of your own, with labels"


@dataclass(frozen=True)
class Caution:
    """The demands on predictions beside the likeliest answer.

    coverage  promised of candidates and bands; 0: no promise
    abstain   what no answer costs, where a wrong one costs 1; None: all items have an answer
    unlike    the least typicality of an item with an answer; None: it is not computed
    """

    coverage: float = 0.0
    abstain: float | None = None
    unlike: float | None = None

    def check(self, stored: Sequence[StoredHead]) -> None:
        """Raise InvalidInput for what means nothing, or nothing to one of the heads; NotReady where a head keeps too little."""
        self._check_values()
        for one in stored:
            if self.coverage:
                _held_out(one.head).promised(one.head.name, self.coverage)
            if self.abstain is not None:
                _check_abstaining(one.head, self.abstain)
            if self.unlike is not None:
                _check_typicality(one, self.unlike)

    def applied(self, output: HeadOutput) -> HeadOutput:
        """Add what is asked for to the output of a head that was checked."""
        if self.coverage:
            output = self._with_promise(output)
        if self.abstain is None and self.unlike is None:
            return output
        return self._abstaining(output)

    def _check_values(self) -> None:
        if self.coverage and not 0 < self.coverage < 1:
            raise InvalidInput(f"coverage is {self.coverage:g}", remedy="promise a share above 0 and below 1, such as 0.9")
        if self.abstain is not None and not 0 < self.abstain < 1:
            raise InvalidInput(
                f"abstain is {self.abstain:g}",
                remedy="give what no answer costs where a wrong one costs 1: above 0 and below 1, such as 0.2",
            )
        if self.unlike is not None and not 0 <= self.unlike < 1:
            raise InvalidInput(f"unlike is {self.unlike:g}", remedy="give the least typicality: from 0 to below 1, such as 0.01")

    def _with_promise(self, output: HeadOutput) -> HeadOutput:
        quantile = _held_out(output.head).promised(output.head.name, self.coverage)
        if output.probabilities is None:
            return replace(output, interval=quantile)
        return replace(output, candidates=_ordered(output.head, output.probabilities, quantile))

    def _abstaining(self, output: HeadOutput) -> HeadOutput:
        """Mark the items without an answer: UNLIKE before UNSURE. Comparisons with the NaN of items that failed are false."""
        threshold = 0.0 if self.abstain is None else 1 - self.abstain
        found: list[Abstention | None] = [None] * output.count
        if output.probabilities is not None and threshold:
            for item in np.flatnonzero(output.probabilities.max(axis=1) < threshold):
                found[item] = Abstention.UNSURE
        if output.typicality is not None and self.unlike is not None:
            for item in np.flatnonzero(output.typicality < self.unlike):
                found[item] = Abstention.UNLIKE
        return replace(output, abstained=tuple(found), threshold=threshold)


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
            remedy=PRETRAINED if head.pretrained else "train it again with replace",
        )
    return head.held_out


def _check_abstaining(head: Head, cost: float) -> None:
    if head.task is not Task.CLASSIFICATION:
        raise InvalidInput(
            f"the head {head.name!r} is for {head.task}, and a wrong answer has a cost in classification alone",
            remedy="leave abstain out",
        )
    if not head.metrics:
        raise NotReady(
            f"the head {head.name!r} was not evaluated: its probabilities were fitted on no held-out item, and no cost follows",
            remedy=PRETRAINED,
        )
    least = 1 / len(head.names)  # of the likeliest class
    if 1 - cost <= least:
        raise InvalidInput(
            f"abstain is {cost:g}, and the likeliest of the {len(head.names)} classes of the head {head.name!r} is wrong with a "
            f"probability of at most {1 - least:g}: all items would have an answer",
            remedy=f"give less than {1 - least:g}, such as 0.2" if len(head.names) > 1 else "leave abstain out",
        )


def _check_typicality(stored: StoredHead, unlike: float) -> None:
    head = stored.head
    if head.task.every_row:
        raise InvalidInput(
            f"the head {head.name!r} is for {head.task}, and typicality is of items with one row", remedy="leave unlike out"
        )
    if not stored.typicality:
        why, remedy = _without_typicality(head)
        raise NotReady(f"the head {head.name!r} does not know what its training items look like: it {why}", remedy=remedy)
    least = 1 / (_compared(head) + 1)
    if 0 < unlike <= least:
        raise InvalidInput(
            f"unlike is {unlike:g}, and of {_compared(head):,} training items no typicality is below {least:.2g}: the head"
            f" {head.name!r} would keep nothing back",
            remedy=f"ask for more than {least:.2g}, or train with {math.ceil(1 / unlike):,} items",
        )


def _compared(head: Head) -> int:
    """Count the training items that an item is compared with, at most."""
    used = head.definition is not None and head.definition.unlabeled is not UnlabeledUse.LEFT_OUT
    return min(MOST_COMPARED, head.labeled + (head.unlabeled if used else 0))


def _without_typicality(head: Head) -> tuple[str, str]:
    """Say why a head has no typicality, and what to do."""
    if head.pretrained:
        return "came with its encoder", PRETRAINED
    if head.tuned:
        return "learned its trunk too", "train one on frozen features"
    enough = f"train one with labels of {FEWEST_COMPARED + 1} items or more"
    if not head.labeled:
        return "learned from descriptions of its classes, and from no item", enough
    if head.labeled <= FEWEST_COMPARED:
        return f"learned from {head.labeled} items alone", enough
    if head.dim < 2:
        return "reads one number, which has no direction", "leave unlike out"
    return "learned from items of few groups, or an older server trained it", "train it again with replace, without groups"


def _ordered(head: Head, probabilities: Array, quantile: float) -> tuple[tuple[int, ...], ...]:
    """List the classes in the set of each item, the likeliest first; none of an item that failed."""
    failed = np.asarray(np.isnan(probabilities).any(axis=1))
    known = np.where(failed[:, None], -1.0, probabilities)
    held = conformal.candidates(head.task.target, known, quantile) & ~failed[:, None]
    order = np.argsort(-known, axis=1, kind="stable")
    sizes = held.sum(axis=1)
    return tuple(tuple(of[:size].tolist()) for of, size in zip(order, sizes, strict=True))
