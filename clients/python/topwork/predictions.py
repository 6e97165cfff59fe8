"""Predictions of heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np

from topwork._display.number_text import counted, value_text
from topwork.errors import NotReady, TopworkError
from topwork.features import Array, Features, Timings, by_position, concatenate

#: From this probability on a label of a multi-label head counts as present.
HALF = 0.5
#: Predictions that a repr shows.
SHOWN = 10
#: Letters of a label in a repr.
LONGEST = 80
#: Fields of Predictions that are arrays with a row an item; the messages have them as tensors of the same names.
ARRAYS = ("probabilities", "best", "values", "masks", "confidences", "boxes", "typicality")


class FoundSpan(NamedTuple):
    """Characters that a tagger or an answerer found: half-open, in Unicode code points. `text` is what they are, where the item
    was passed; `part` is 1 where they are in the item's pair."""

    start: int
    end: int
    label: str
    text: str
    probability: float
    part: int = 0


@dataclass(frozen=True)
class Detection:
    """An object that a detector found. `box` is x0, y0, x1, y1 in pixels of the picture that was passed."""

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        return f"{_cut(self.label)} {self.score:.3f} at {','.join(f'{edge:.0f}' for edge in self.box)}"


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Prediction of one item by one head; fields of other tasks than the head's are None or empty.

    label, probability  classification: the likeliest class, and its calibrated probability
    probabilities       classification, multi-label: by name, largest first; of `top` names where that was asked for
    labels              multi-label: those with a probability of at least one half
    candidates          classification: the classes that hold the true one with the promised `coverage`, likeliest first;
                        multi-label: the labels that hold all true ones. None where no coverage was asked for
    value, low, high    regression: the number, and the band that held 90% (or `coverage`) of held-out items
    abstained           "unsure" (the class is likelier wrong than no answer costs) or "unlike" (the item is unlike the training
                        items), where `predict` was asked to abstain: there is no label, labels or value. None: it has an answer
    typicality          the share of training items that lie at least as far from the others as it does, where `unlike` asked
    spans               tagging, question answering: what was found, in the order of the text, or best first
    mask, confidences   segmentation: (rows, columns) uint8, which of the head's `names`, and float32, how probable
    box                 segmentation: x0, y0, x1, y1, the part of the picture that the mask covers, in pixels
    detections          detection: what was found, the surest first
    error               why the item was skipped (only with skip_bad_items)
    """

    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    candidates: tuple[str, ...] | None = None
    abstained: str | None = None
    typicality: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    spans: tuple[FoundSpan, ...] | None = None
    mask: Array | None = None
    confidences: Array | None = None
    box: tuple[float, ...] | None = None
    detections: tuple[Detection, ...] | None = None
    error: TopworkError | None = None

    @property
    def answer(self) -> str | None:
        """The text of the likeliest span, in question answering."""
        return max(self.spans, key=lambda span: span.probability).text if self.spans else None

    def __repr__(self) -> str:
        return f"<Prediction {self}>"

    def __str__(self) -> str:
        if self.error:
            return f"skipped: {self.error}"
        if self.abstained:
            return f"none of these: {self._why}"
        if self.label is not None:
            return f"{_cut(self.label)} {self.probability:.3f}"
        if self.labels is not None:
            return ", ".join(f"{_cut(name)} {self.probabilities[name]:.3f}" for name in self.labels) or "no label"
        if self.value is not None:
            low, high = self.low or 0.0, self.high or 0.0
            value, *ends = (value_text(number, high - low) for number in (self.value, low, high))
            return f"{value} ({ends[0]} to {ends[1]})"
        if self.spans is not None:
            return ", ".join(_span_text(span) for span in self.spans) or "nothing found"
        if self.detections is not None:
            return "; ".join(map(str, self.detections)) or "nothing found"
        return f"mask {'x'.join(map(str, self.mask.shape))}" if self.mask is not None else "nothing"

    @property
    def _why(self) -> str:
        """Format the reason for no answer: "unsure, owl 0.410"."""
        if self.abstained == "unlike":
            return f"unlike the training items, typicality {self.typicality:.3f}"
        name, probability = next(iter(self.probabilities.items()))
        return f"unsure, {_cut(name)} {probability:.3f}"


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Predictions of a number of items by one head, in their order; iterating gives a `Prediction` each, and so does an index.

    task           of the head; what is not of it is None
    names          classes or labels
    items          how many
    probabilities  (items, names) float32; (items, top), largest first, where `top` was asked for: `best` (items, top) int32 says
                   which names. NaN for an item in `failures`, as all numbers are
    values         (items,) float64: regression. `low` and `high` are the band that held 90% (or `coverage`) of held-out items
    candidates     of each item the positions in `names` of those that hold the truth with the promised `coverage`
    abstained      of each item why it has no answer, "unsure" or "unlike", or "" (where `predict` was asked to abstain);
                   `threshold` is the least probability of a class that was answered. Arrays say what the answer would have been
    typicality     (items,) float32, where it was asked for: see `Prediction`
    spans          a tuple of FoundSpan an item: tagging, question answering
    detections     a tuple of Detection an item: detection
    masks          (items, rows, columns) uint8, `confidences` the same in float32, `boxes` (items, 4): segmentation
    fingerprint    of the features that the head reads; `version` says when it was trained
    features       what it has read, where `features` was asked for
    notes          by item position: counts such as {"unknown_words": 2}
    failures       by item position: why an item was skipped (only with skip_bad_items)
    """

    head: str
    task: str
    names: tuple[str, ...]
    items: int
    probabilities: Array | None = None
    best: Array | None = None
    values: Array | None = None
    interval: float = 0.0
    candidates: Sequence[tuple[int, ...]] | None = None
    abstained: Sequence[str] | None = None
    threshold: float = 0.0
    typicality: Array | None = None
    spans: Sequence[tuple[FoundSpan, ...]] | None = None
    masks: Array | None = None
    confidences: Array | None = None
    boxes: Array | None = None
    detections: Sequence[tuple[Detection, ...]] | None = None
    fingerprint: str = ""
    version: str = ""
    features: Features | None = None
    notes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    timings: Timings = field(default_factory=Timings)

    @cached_property
    def labels(self) -> list[Any] | None:
        """Classification: the likeliest class of each item. Multi-label: a tuple of names each. None for an item that failed, and
        for one without an answer."""
        if self.probabilities is None:
            return None
        if self.task == "multi-label":
            return [prediction.labels for prediction in self]
        place = np.nan_to_num(self.probabilities, nan=-1.0).argmax(axis=1)
        which = place if self.best is None else np.take_along_axis(self.best, place[:, None], axis=1)[:, 0]
        failed = [bool(np.isnan(of_item).any()) for of_item in self.probabilities]
        reasons = self.abstained or [""] * self.items
        silent = [bool(bad or why) for bad, why in zip(failed, reasons, strict=True)]
        return [None if none else self.names[name] for name, none in zip(which.tolist(), silent, strict=True)]

    @property
    def low(self) -> Array | None:
        return None if self.values is None else self.values - self.interval

    @property
    def high(self) -> Array | None:
        return None if self.values is None else self.values + self.interval

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[Prediction]:
        return (self._of(i) for i in range(self.items))

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | Sequence[Prediction]:
        positions = range(self.items)[index]
        return self._of(positions) if isinstance(positions, int) else [self._of(i) for i in positions]

    def _of(self, i: int) -> Prediction:
        if i in self.failures:
            return Prediction(error=self.failures[i])
        if self.probabilities is not None:
            return self._with_doubt(i, self._classified(i, self.probabilities[i]))
        if self.values is not None:
            value = float(self.values[i])
            return self._with_doubt(i, Prediction(value=value, low=value - self.interval, high=value + self.interval))
        return Prediction(
            spans=None if self.spans is None else self.spans[i],
            mask=None if self.masks is None else self.masks[i],
            confidences=None if self.confidences is None else self.confidences[i],
            box=None if self.boxes is None else tuple(self.boxes[i].tolist()),
            detections=None if self.detections is None else self.detections[i],
        )

    def _with_doubt(self, i: int, found: Prediction) -> Prediction:
        """Add what was asked of how sure it is; an item that was abstained from has no answer."""
        typicality = None if self.typicality is None else float(self.typicality[i])
        if self.abstained is None or not self.abstained[i]:
            return found if typicality is None else replace(found, typicality=typicality)
        why = self.abstained[i]
        return replace(found, label=None, labels=None, value=None, low=None, high=None, abstained=why, typicality=typicality)

    def _classified(self, i: int, probabilities: Array) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")
        which = order if self.best is None else self.best[i][order]
        named = {self.names[name]: float(p) for name, p in zip(which.tolist(), probabilities[order], strict=True)}
        held = None if self.candidates is None else tuple(self.names[name] for name in self.candidates[i])
        if self.task == "multi-label":
            labels = tuple(name for name, p in named.items() if p >= HALF)
            return Prediction(probabilities=named, labels=labels, candidates=held)
        label = next(iter(named))
        return Prediction(label, named[label], named, candidates=held)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        lines = [f"<Predictions of {self.head} ({self.task}): {self.items} item{'s' * (self.items != 1)}{failed}>"]
        lines += [f"  {prediction}" for prediction in islice(self, SHOWN)]
        return "\n".join([*lines, *([f"  ... and {self.items - SHOWN} more"] if self.items > SHOWN else [])])

    def _repr_html_(self) -> str:
        from topwork._display import html

        rows = [(i, str(prediction)) for i, prediction in enumerate(islice(self, SHOWN))]
        more = f"and {self.items - SHOWN:,} more" if self.items > SHOWN else ""
        return html.table(f"{self.head} ({self.task}), {counted(self.items, 'item')}", ("", "prediction"), rows, more)


def joined(pieces: Sequence[Predictions]) -> Predictions:
    """Join predictions of chunks that follow each other. NotReady where the head was exchanged between them."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if any((piece.version, piece.fingerprint) != (first.version, first.fingerprint) for piece in pieces):
        raise NotReady(f"the head {first.head} was trained again while it was used", remedy="predict all items again")
    lengths = [piece.items for piece in pieces]
    features = [piece.features for piece in pieces if piece.features is not None]
    return Predictions(
        head=first.head,
        task=first.task,
        names=first.names,
        items=sum(lengths),
        interval=first.interval,
        threshold=first.threshold,
        abstained=None if first.abstained is None else [why for piece in pieces for why in piece.abstained or ()],
        candidates=None if first.candidates is None else [held for piece in pieces for held in piece.candidates or ()],
        spans=None if first.spans is None else [spans for piece in pieces for spans in piece.spans or ()],
        detections=None if first.detections is None else [found for piece in pieces for found in piece.detections or ()],
        fingerprint=first.fingerprint,
        version=first.version,
        features=concatenate(features) if features else None,
        notes=by_position(lengths, [piece.notes for piece in pieces]),
        failures=by_position(lengths, [piece.failures for piece in pieces]),
        timings=Timings.sum(piece.timings for piece in pieces),
        **{name: _stacked([getattr(piece, name) for piece in pieces]) for name in ARRAYS},
    )


def _stacked(arrays: Sequence[Array | None]) -> Any:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 3]}..."


def _span_text(span: FoundSpan) -> str:
    head = f"{span.label} " if span.label else ""
    return f"{head}{span.text!r} {span.probability:.3f}" if span.text else f"{head}{span.start}-{span.end} {span.probability:.3f}"
