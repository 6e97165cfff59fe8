"""Options of fine-tuning, apart from what uses them, since it imports torch. Each default and range has its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from topwork_server import InvalidInput, option

MOST_EPOCHS, MOST_BATCH, MOST_WINDOWS = 10_000, 4096, 64


@dataclass(frozen=True)
class TrunkOptions:
    """Options of how a trunk learns. Defaults follow Mosbach et al. 2021 (small rate, warm-up, bias correction, many epochs)."""

    frozen_blocks: int = option(
        0, "how many blocks at the bottom of the trunk stay as they are; 0: none, -1: all", minimum=-1, maximum=10_000
    )
    learning_rate: float | None = option(
        None,
        "of the topmost block; none: 2e-5, or 1e-4 of a net with batch norms; of an adapter ten times as much",
        minimum=0.0,
        maximum=1.0,
    )
    layer_decay: float = option(
        0.9, "each block learns at this part of the rate of the block above it; 1: all alike", minimum=1e-3, maximum=1.0
    )
    warmup: float = option(
        0.1, "part of the steps over which rates rise from 0; over the others they fall to 0", minimum=0.0, maximum=1.0
    )
    epochs: int = option(20, "passes over the training items, at most", minimum=1, maximum=MOST_EPOCHS)
    batch: int = option(16, "items a step", minimum=1, maximum=MOST_BATCH)
    weight_decay: float = option(0.01, "AdamW's, of matrices and kernels alone", minimum=0.0, maximum=10.0)
    adapter: Literal["none", "lora"] = option(
        "none", "lora: the trunk's weights stay, and what is learned is an adapter of a few MB that is added to them"
    )
    rank: int = option(
        8, "of the adapter: how many directions each of its layers learns", minimum=1, maximum=1024, only_with="adapter"
    )
    alpha: float = option(
        16.0, "what the adapter adds is multiplied by alpha / rank", minimum=1e-3, maximum=1e4, only_with="adapter"
    )
    target_modules: str = option(
        "auto",
        "layers with an adapter, by the ends of their names: query,value; auto: all linear layers of the blocks that learn, or of"
        " a net without any its convolutions",
        only_with="adapter",
    )
    bias_correction: bool = option(True, "Adam's correction of its first steps; false: without, as BERT was once trained")
    reinitialize: int = option(
        0, "how many blocks at the top of a transformer start at random (Zhang et al. 2021)", minimum=0, maximum=10_000
    )
    dropout: bool = option(True, "the trunk's own dropout while it learns")
    clip: float = option(1.0, "longest gradient of a step; 0: any", minimum=0.0, maximum=1e6)
    flip: bool = option(False, "half of the pictures are mirrored, another half each epoch")
    windows: int = option(
        2,
        "windows of a video or a recording that a step learns from, others each epoch; what is judged reads all",
        minimum=1,
        maximum=MOST_WINDOWS,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", "auto: fp32 on a CPU, bf16 or fp16 on CUDA")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: CUDA where there is one")
    max_seconds: float = option(
        0.0,
        "stop after so many seconds of training; 0: no limit. The same seed may then give another head",
        minimum=0.0,
        maximum=1e7,
    )

    def __post_init__(self) -> None:
        """Raise InvalidInput for options of which one undoes the other."""
        if self.adapter != "none" and self.reinitialize:
            raise InvalidInput(
                "an adapter leaves the trunk's weights, and reinitialize changes them", remedy="leave one of them out"
            )
        for name in ("learning_rate", "layer_decay", "adapter", "reinitialize"):
            if self.frozen_blocks < 0 and getattr(self, name) != getattr(TrunkOptions, name):
                raise InvalidInput(
                    f"{name} is of blocks that learn, and frozen_blocks is -1: none does", remedy="leave one of them out"
                )


@dataclass(frozen=True)
class FineTuneOptions(TrunkOptions):
    """Options of fine-tuning with an output layer, which stops early."""

    head_learning_rate: float = option(
        1e-3, "of the output layer, which is new; it reads rows scaled to a mean square of 1", minimum=0.0, maximum=1.0
    )
    patience: int = option(
        5,
        "epochs without a better validation score after which it stops; 0: it never stops early",
        minimum=0,
        maximum=MOST_EPOCHS,
    )
    class_weight: Literal["none", "balanced"] = option("none", "balanced: each class counts as much as any other")
    head_start: Literal["random", "probe"] = option(
        "random", "probe: the output layer starts as a linear head on frozen features"
    )
