"""What CreateIndex may set for each kind. None leaves the choice to `recipes.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class HnswOptions:
    """A graph of neighbours (Malkov and Yashunin 2016)."""

    neighbours: int | None = field(default=None, metadata={"help": "links of a row (M), 4 to 128; memory grows by 8 bytes each"})
    construction_effort: int | None = field(
        default=None, metadata={"help": "candidates while building (efConstruction), 8 to 2000"}
    )

    def __post_init__(self) -> None:
        _between("neighbours", self.neighbours, 4, 128)
        _between("construction_effort", self.construction_effort, 8, 2000)


@dataclass(frozen=True)
class IvfOptions:
    """Lists around the centres of a k-means."""

    lists: int | None = field(default=None, metadata={"help": "lists (nlist), 1 to 1048576; at most rows / 39 are made"})

    def __post_init__(self) -> None:
        _between("lists", self.lists, 1, 1 << 20)


@dataclass(frozen=True)
class PqOptions(IvfOptions):
    """Lists of product-quantised codes (Jegou et al. 2011)."""

    segments: int | None = field(default=None, metadata={"help": "codes of a row (M); divides the dim"})
    bits: Literal[4, 8] = field(default=8, metadata={"help": "bits of a code"})
    refine: Literal["auto", "none", "sq4", "sq6", "sq8", "exact"] = field(
        default="auto", metadata={"help": "what is kept beside the codes to order the candidates by"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _between("segments", self.segments, 1, 4096)


def _between(name: str, value: Any, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} is {value}; give {low} to {high}")
