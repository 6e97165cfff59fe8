"""Reads the values of a column, one by one, in the form that each task has. `labels.py` checks the column as a whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import ColumnType
from topwork_server.heads.head_types import Task
from topwork_server.heads.span_decoding import bio_names
from topwork_server.heads.training import mask_labels, span_labels
from topwork_server.heads.training.mask_labels import BoxMask, ImageMask
from topwork_server.plugin_api.boxes import TrueBoxes
from topwork_server.types import Array

#: Squares of larger numbers are not finite in float64.
LARGEST = 1e150


class LabelFormat(ABC):
    """The form of one task's labels: `types` of columns, and the `least_classes` that a training needs."""

    types: ClassVar[tuple[ColumnType, ...]]
    least_classes: ClassVar[int] = 0

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """Read a value that is not null. None where it gives no label; InvalidInput where it is badly written."""

    def matches(self, value: Any) -> Any:
        """Tell whether a value of a column without a given task is written in this form."""
        return self.parse(value)

    def classes(self, value: Any) -> Iterable[str]:
        """List the classes of a value, each once."""
        return ()

    def names(self, classes: Iterable[str]) -> tuple[str, ...]:
        """List what a head's scores stand for, given the classes in order."""
        return tuple(classes)

    def encode(self, value: Any, index: Mapping[str, int]) -> Any:
        """Convert a value to what `LabelColumn.values` has; `index` numbers the classes."""
        return value

    def order(self, classes: Iterable[str]) -> list[str]:
        return sorted(classes)


class Classification(LabelFormat):
    types = (ColumnType.STRING, ColumnType.BOOL, ColumnType.INT)
    least_classes = 2

    def parse(self, value: Any) -> str | None:
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if str(value).strip() else None

    def classes(self, value: str) -> Iterable[str]:
        return (value,)

    def encode(self, value: str, index: Mapping[str, int]) -> int:
        return index[value]

    def order(self, classes: Iterable[str]) -> list[str]:
        return sorted(classes, key=_numbers_first)


class MultiLabel(LabelFormat):
    types = (ColumnType.STRINGS,)
    least_classes = 1

    def parse(self, value: Sequence[str | None]) -> tuple[str, ...]:
        for label in value:
            if not label:
                raise InvalidInput("one of its labels is empty", remedy="write a text for each, and [] for none")
        return tuple(dict.fromkeys(str(label) for label in value))

    def classes(self, value: tuple[str, ...]) -> Iterable[str]:
        return value

    def encode(self, value: tuple[str, ...], index: Mapping[str, int]) -> frozenset[int]:
        return frozenset(index[label] for label in value)


class Regression(LabelFormat):
    types = (ColumnType.FLOAT, ColumnType.INT)

    def parse(self, value: Any) -> float:
        if not math.isfinite(value) or abs(value) > LARGEST:
            raise InvalidInput(
                f"the number is {value:.6g}", remedy=f"write a finite number, of at most {LARGEST:g}, or none where it is unknown"
            )
        return float(value)


class Tagging(LabelFormat):
    types = (ColumnType.STRINGS,)
    least_classes = 1

    def parse(self, value: Sequence[str | None]) -> list[tuple[int, int, str]]:
        return span_labels.tagged(value)

    def classes(self, value: list[tuple[int, int, str]]) -> Iterable[str]:
        return {label for _, _, label in value}

    def names(self, classes: Iterable[str]) -> tuple[str, ...]:
        return bio_names(list(classes))

    def encode(self, value: list[tuple[int, int, str]], index: Mapping[str, int]) -> list[tuple[int, int, int]]:
        return [(start, end, index[label]) for start, end, label in value]


class QuestionAnswering(LabelFormat):
    types = (ColumnType.STRINGS,)

    def parse(self, value: Sequence[str | None]) -> list[tuple[int, int]] | None:
        return span_labels.answers(value) or None

    def names(self, classes: Iterable[str]) -> tuple[str, ...]:
        return ("start", "end")


#: What to do where a picture has more boxes than may be, of which pixels are to be classified.
AS_PNG = "write a mask as a PNG"


class Segmentation(LabelFormat):
    types = (ColumnType.STRING, ColumnType.STRINGS)
    least_classes = 2

    def parse(self, value: Any) -> ImageMask | None:
        if isinstance(value, str):
            return mask_labels.png_mask(value) if value else None
        return mask_labels.box_mask(value, AS_PNG)

    def matches(self, value: Any) -> Any:
        return mask_labels.is_png(value) if isinstance(value, str) else mask_labels.box_mask(value, AS_PNG)

    def classes(self, value: ImageMask) -> Iterable[str]:
        return value.classes

    def encode(self, value: ImageMask, index: Mapping[str, int]) -> LabelMask:
        return LabelMask(value, index)

    def order(self, classes: Iterable[str]) -> list[str]:
        return sorted(classes, key=lambda name: (name != mask_labels.BACKGROUND, _numbers_first(name)))


@dataclass(frozen=True, slots=True)
class LabelMask:
    """A mask and the numbers of its classes."""

    mask: ImageMask
    index: Mapping[str, int]

    def cells(self, boxes: Array) -> Array:
        """Find the class of each of (n, 4) boxes in pixels, (n,) int64; -1 for one to be left out."""
        return self.mask.cells(boxes, self.index)


class Detection(LabelFormat):
    types = (ColumnType.STRINGS,)
    least_classes = 1

    def parse(self, value: Sequence[str | None]) -> BoxMask:
        return mask_labels.box_mask(value, "cut the picture into parts, or leave out the smallest")

    def classes(self, value: BoxMask) -> Iterable[str]:
        return set(value.labels)

    def encode(self, value: BoxMask, index: Mapping[str, int]) -> TrueBoxes:
        labels = np.array([index[label] for label in value.labels], np.int64)
        return TrueBoxes(np.array(value.boxes, np.float64).reshape(-1, 4), labels)


class Alignment(LabelFormat):
    """Captions, without the space around them."""

    types = (ColumnType.STRING,)

    def parse(self, value: str) -> str | None:
        return value.strip() or None


FORMATS: Mapping[Task, LabelFormat] = {
    Task.CLASSIFICATION: Classification(),
    Task.MULTI_LABEL: MultiLabel(),
    Task.REGRESSION: Regression(),
    Task.TAGGING: Tagging(),
    Task.QUESTION_ANSWERING: QuestionAnswering(),
    Task.SEGMENTATION: Segmentation(),
    Task.DETECTION: Detection(),
    Task.ALIGNMENT: Alignment(),
}


def _numbers_first(name: str) -> tuple[int, int, str]:
    """Whole numbers by their size, then texts."""
    plain = name.removeprefix("-")
    return (0, int(name), "") if plain.isascii() and plain.isdecimal() and len(plain) < 20 else (1, 0, name)
