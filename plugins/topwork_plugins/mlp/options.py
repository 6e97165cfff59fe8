"""What Train may set. None leaves the choice to the number of examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class MlpOptions:
    layers: int = field(default=1, metadata={"help": "hidden layers, 1 to 3"})
    width: int = field(default=128, metadata={"help": "units of a hidden layer, 8 to 4096"})
    dropout: float = field(default=0.5, metadata={"help": "share of hidden units that are dropped while learning, 0 to 0.9"})
    weight_decay: float = field(default=1.0, metadata={"help": "decoupled (AdamW), 0 to 100"})
    learning_rate: float = field(default=2e-3, metadata={"help": "at its height, 0.000001 to 1"})
    epochs: int | None = field(default=None, metadata={"help": "at most, 1 to 10000; 60 unless there are very many examples"})
    patience: int = field(default=10, metadata={"help": "epochs without a gain on what was left out, 1 to 10000"})
    batch: int | None = field(default=None, metadata={"help": "examples a step, 1 to 65536; an eighth of all, 4 to 256"})
    members: int | None = field(
        default=None,
        metadata={"help": "nets that are averaged, 1 to 10; each leaves another part out. 5 up to 2,000 examples, else 1"},
    )
    class_weight: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: rare classes count as much as frequent ones"}
    )

    def __post_init__(self) -> None:
        _between("layers", self.layers, 1, 3)
        _between("width", self.width, 8, 4096)
        _between("dropout", self.dropout, 0, 0.9)
        _between("weight_decay", self.weight_decay, 0, 100)
        _between("learning_rate", self.learning_rate, 1e-6, 1)
        _between("epochs", self.epochs, 1, 10_000)
        _between("patience", self.patience, 1, 10_000)
        _between("batch", self.batch, 1, 65_536)
        _between("members", self.members, 1, 10)


def _between(name: str, value: Any, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} is {value}; give {low} to {high}")
