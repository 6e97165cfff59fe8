"""What a request may set of fine-tuning. Each default and range says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

MOST_EPOCHS, MOST_BATCH, MOST_WINDOWS = 10_000, 4096, 64


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class FineTuneOptions:
    """Defaults follow Mosbach et al. 2021 (small rate, warm-up, bias correction, many epochs) with early stopping."""

    frozen_blocks: int = _option(0, "how many blocks at the bottom of the trunk stay as they are; 0: none, -1: all")
    learning_rate: float | None = _option(None, "of the topmost block; none: 2e-5, or 1e-4 of a net with batch norms")
    head_learning_rate: float = _option(
        1e-3, "of the output layer, which starts anew; it reads rows scaled to a mean square of 1"
    )
    layer_decay: float = _option(0.9, "each block learns at this part of the rate of the block above it; 1: all alike")
    warmup: float = _option(0.1, "part of the steps over which rates rise from 0; over the others they fall to 0")
    epochs: int = _option(20, "passes over the training items, at most")
    patience: int = _option(5, "epochs without a better validation score after which it stops; 0: it never stops early")
    batch: int = _option(16, "items a step")
    weight_decay: float = _option(0.01, "AdamW's, of matrices and kernels alone")
    bias_correction: bool = _option(True, "Adam's correction of its first steps; false: without, as BERT was once trained")
    reinitialise: int = _option(0, "how many blocks at the top of a transformer start at random (Zhang et al. 2021)")
    dropout: bool = _option(True, "the trunk's own dropout while it learns")
    class_weight: Literal["none", "balanced"] = _option("none", "balanced: each class counts as much as any other")
    clip: float = _option(1.0, "longest gradient of a step; 0: any")
    flip: bool = _option(False, "half of the pictures are mirrored, another half each epoch")
    windows: int = _option(2, "windows of a video that a step learns from, others each epoch; what is judged reads all")
    head_start: Literal["random", "probe"] = _option(
        "random", "probe: the output layer starts as a linear head on frozen features"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option("auto", "auto: fp32 on a CPU, bf16 or fp16 on CUDA")
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "auto: CUDA where there is one")
    max_seconds: float = _option(
        0.0, "stop after so many seconds of training; 0: no limit. The same seed may then give another head"
    )

    def __post_init__(self) -> None:
        _check("frozen_blocks", self.frozen_blocks, -1, 10_000)
        _check("learning_rate", self.learning_rate or 0.0, 0.0, 1.0)
        _check("head_learning_rate", self.head_learning_rate, 0.0, 1.0)
        _check("layer_decay", self.layer_decay, 1e-3, 1.0)
        _check("warmup", self.warmup, 0.0, 1.0)
        _check("epochs", self.epochs, 1, MOST_EPOCHS)
        _check("patience", self.patience, 0, MOST_EPOCHS)
        _check("batch", self.batch, 1, MOST_BATCH)
        _check("weight_decay", self.weight_decay, 0.0, 10.0)
        _check("reinitialise", self.reinitialise, 0, 10_000)
        _check("clip", self.clip, 0.0, 1e6)
        _check("windows", self.windows, 1, MOST_WINDOWS)
        _check("max_seconds", self.max_seconds, 0.0, 1e7)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also of NaN
        raise ValueError(f"{name} is {value}, not {low:g} to {high:g}")
