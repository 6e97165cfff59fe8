"""AdamW and its rates. Imports torch."""

from __future__ import annotations

import math
from typing import Any

import torch

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019) over groups with rates of their own, that rise and fall together.

    Without `bias_correction` a step is m / (sqrt(v) + eps), as in the optimiser that BERT came with (Mosbach et al. 2021, 5.1)
    instead of Kingma and Ba's m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) (2015, algorithm 1): the first steps are then larger,
    the very first (1 - b1) / sqrt(1 - b2) = 3.2 times.
    """

    def __init__(self, groups: list[dict[str, Any]], *, bias_correction: bool) -> None:
        self._adam = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON)
        self._rates = [(float(group["lr"]), float(group["weight_decay"])) for group in self._adam.param_groups]
        self._corrected = bias_correction

    @property
    def torch(self) -> torch.optim.Optimizer:
        return self._adam

    def prepare(self, factor: float) -> None:
        """Before a step: its rates are `factor` of those that the groups came with.

        The correction lies in the rate and in eps alone (Kingma and Ba 2015, end of section 2), and is undone there; decay is no
        part of it.
        """
        taken = max((float(state["step"]) for state in self._adam.state.values()), default=0.0)  # a scaler may have skipped some
        ones, twos = (1 - beta ** (taken + 1) for beta in BETAS)
        for group, (rate, decay) in zip(self._adam.param_groups, self._rates, strict=True):
            undo = 1.0 if self._corrected else ones / math.sqrt(twos)
            group["lr"] = rate * factor * undo
            group["eps"] = EPSILON if self._corrected else EPSILON / math.sqrt(twos)
            group["weight_decay"] = decay / undo


def schedule(step: int, steps: int, warmup: float) -> float:
    """Of step 0 .. steps - 1: up from 0 to 1 over the first part of them, then down to 0 (Devlin et al. 2019, A.2)."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(steps - rising, 1)
