"""The options of a detector's training."""

from __future__ import annotations

from dataclasses import dataclass

from topwork_server import option


@dataclass(frozen=True)
class FcosOptions:
    width: int = option(64, "channels within the net", minimum=8, maximum=1024)
    layers: int = option(2, "convolutions of 3 x 3 cells", minimum=1, maximum=6)
    dropout: float = option(0.2, "share of channels that are dropped while learning", minimum=0, maximum=0.9)
    epochs: int | None = option(None, "15 to 60 by the number of pictures, more of very few", minimum=1, maximum=10_000)
    learning_rate: float = option(2e-3, "at its height", minimum=1e-6, maximum=1)
    weight_decay: float = option(0.05, "decoupled (AdamW)", minimum=0, maximum=100)
    batch: int | None = option(None, "pictures a step; an eighth of all, 4 to 16", minimum=1, maximum=1024)
