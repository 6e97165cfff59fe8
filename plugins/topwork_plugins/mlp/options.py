"""Options that Train may set. None leaves the choice to the number of examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topwork_server import option


@dataclass(frozen=True)
class MlpOptions:
    layers: int = option(1, "hidden layers", minimum=1, maximum=3)
    width: int = option(128, "units of a hidden layer", minimum=8, maximum=4096)
    dropout: float = option(0.5, "share of hidden units that are dropped while learning", minimum=0, maximum=0.9)
    weight_decay: float = option(1.0, "decoupled (AdamW)", minimum=0, maximum=100)
    learning_rate: float = option(2e-3, "at its height", minimum=1e-6, maximum=1)
    epochs: int | None = option(None, "at most; 60 unless there are very many examples", minimum=1, maximum=10_000)
    patience: int = option(10, "epochs without a gain on what was left out", minimum=1, maximum=10_000)
    batch: int | None = option(None, "examples a step; an eighth of all, 4 to 256", minimum=1, maximum=65_536)
    members: int | None = option(
        None,
        "nets that are averaged; each leaves another part out. 5 up to 2,000 examples, else 1",
        minimum=1,
        maximum=10,
    )
    class_weight: Literal["none", "balanced"] = option("none", "balanced: rare classes count as much as frequent ones")
