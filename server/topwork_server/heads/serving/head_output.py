"""The output of a head for items, and how outputs are joined: one after the other, or spread between items that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from topwork_server.errors import TopworkError
from topwork_server.heads.head_types import Head
from topwork_server.types import Array

#: The value of a mask where an item failed.
NOTHING = 255
#: Fields of HeadOutput that are arrays with one entry per item.
ARRAYS = ("probabilities", "scores", "values", "masks", "confidences", "boxes", "typicality")
#: Fields of HeadOutput that are tuples with one entry per item, and what that of an item that failed is.
LISTS: Mapping[str, Any] = {"spans": (), "detections": (), "candidates": (), "abstained": None}


class Abstention(StrEnum):
    """The reason why an item has no answer."""

    UNSURE = "unsure"  # its likeliest class is likelier wrong than no answer costs
    UNLIKE = "unlike"  # it is unlike the training items


@dataclass(frozen=True, slots=True)
class PredictedSpan:
    """A span of characters (half-open) of the text (part 0) or of its pair (part 1).

    `probability`: for tagging the mean over the rows, of the class that each was given; for question answering that the answer
    starts and ends there.
    """

    start: int
    end: int
    label: str
    probability: float
    part: int = 0


@dataclass(frozen=True, slots=True)
class DetectedBox:
    """A box x0, y0, x1, y1 in pixels of the picture, its label and its score."""

    box: tuple[float, ...]
    label: str
    score: float


@dataclass(frozen=True)
class HeadOutput:
    """The output of a head for all items. Fields of other tasks are None; failed items have NaN, no spans or boxes, masks
    of 255.

    probabilities  (items, names) float32: classification, multi-label
    scores         the same, where it was asked for: what the probabilities were made of, before the temperature
    values         (items,) float64: regression
    spans          one entry per item: tagging, question answering
    detections     one entry per item: detection, the surest first
    masks, confidences  (items, rows, columns) uint8 and float32: segmentation; the likeliest class, and its probability
    boxes          (items, 4) float32 x0, y0, x1, y1: the part of its picture, in pixels, that a mask covers
    typicality     (items,) float32, where it was asked for: the share of training items that lie further from the others
    candidates     one entry per item: the classes or labels that hold the truth with the promised coverage, likeliest first
    interval       half the width of the band that does; None: that of the head
    abstained      one entry per item, where it was asked for: why it has no answer; None for one that has
    threshold      the least probability of a class that was answered, where answers have a cost
    failures       by item: those that lack rows that the head reads, or whose scores are not finite
    """

    head: Head
    probabilities: Array | None = None
    scores: Array | None = None
    values: Array | None = None
    spans: tuple[tuple[PredictedSpan, ...], ...] | None = None
    detections: tuple[tuple[DetectedBox, ...], ...] | None = None
    masks: Array | None = None
    confidences: Array | None = None
    boxes: Array | None = None
    typicality: Array | None = None
    abstained: tuple[Abstention | None, ...] | None = None
    candidates: tuple[tuple[int, ...], ...] | None = None
    interval: float | None = None
    threshold: float = 0.0
    failures: Mapping[int, TopworkError] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of the items, with those that failed."""
        return len(next(of for name in (*ARRAYS, *LISTS) if (of := getattr(self, name)) is not None))


def concat_outputs(parts: Sequence[HeadOutput]) -> HeadOutput:
    """Concatenate the outputs for consecutive items."""
    if len(parts) == 1:
        return parts[0]
    arrays: dict[str, Any] = {
        name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
        for name in ARRAYS
    }
    lists = {name: _joined([getattr(part, name) for part in parts]) for name in LISTS}
    starts = np.cumsum([0, *(part.count for part in parts)]).tolist()
    failures = {
        start + item: error.at(start + item)
        for start, part in zip(starts, parts, strict=False)
        for item, error in part.failures.items()
    }
    return replace(parts[0], **arrays, **lists, failures=failures)


def _joined(parts: Sequence[tuple[Any, ...] | None]) -> Any:
    return None if parts[0] is None else tuple(entry for part in parts for entry in part or ())


def spread_output(output: HeadOutput, good: Array, items: int) -> HeadOutput:
    """Expand the output for the items at positions `good` to all items; the others failed."""

    def wide(array: Array | None) -> Array | None:
        if array is None:
            return None
        all_items = np.full((items, *array.shape[1:]), NOTHING if array.dtype == np.uint8 else np.nan, array.dtype)
        all_items[good] = array
        return all_items

    def wide_list(entries: tuple[Any, ...] | None, empty: Any) -> Any:
        if entries is None:
            return None
        by_item = dict(zip(good.tolist(), entries, strict=True))
        return tuple(by_item.get(item, empty) for item in range(items))

    arrays: dict[str, Any] = {name: wide(getattr(output, name)) for name in ARRAYS}
    lists = {name: wide_list(getattr(output, name), empty) for name, empty in LISTS.items()}
    return HeadOutput(output.head, **arrays, **lists, interval=output.interval, threshold=output.threshold)
