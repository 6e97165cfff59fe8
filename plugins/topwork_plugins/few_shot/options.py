"""What Train may set. None leaves the choice to the examples: each is then judged by those that were left out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PrototypeOptions:
    """A mean for each class."""

    temperature: float | None = field(default=None, metadata={"help": "what cosines are divided by, above 0"})
    centre: bool | None = field(default=None, metadata={"help": "whether the mean of all rows is taken off before cosines"})
    #: Of MiniLM and 20 topics of docstrings, 3 was better than 1 with one to five examples a class.
    prior: float = field(default=3.0, metadata={"help": "how many examples the description of a class counts for, 0 or more"})

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)
        if not 0 <= self.prior <= 1e6:
            raise ValueError(f"prior is {self.prior}; give 0 to 1000000")


@dataclass(frozen=True)
class KnnOptions:
    """The nearest examples vote."""

    k: int | None = field(default=None, metadata={"help": "how many neighbours vote, 1 to 1000"})
    temperature: float | None = field(default=None, metadata={"help": "what cosines are divided by in a vote's weight, above 0"})
    centre: bool | None = field(default=None, metadata={"help": "whether the mean of all rows is taken off before cosines"})

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)
        if self.k is not None and not 1 <= self.k <= 1000:
            raise ValueError(f"k is {self.k}; give 1 to 1000")


@dataclass(frozen=True)
class ZeroShotOptions:
    """Descriptions alone."""

    temperature: float | None = field(
        default=None, metadata={"help": "what cosines are divided by, above 0; fitted on the examples, 0.07 where there are none"}
    )

    def __post_init__(self) -> None:
        above_zero("temperature", self.temperature)


def above_zero(name: str, value: float | None) -> None:
    if value is not None and not 1e-4 <= value <= 1e4:
        raise ValueError(f"{name} is {value}; give 0.0001 to 10000")
