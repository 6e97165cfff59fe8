"""What is learnt from: rows of a view, in the frame of their own directions, and what scores of them cost."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from topwork_server import Array

from topwork_plugins.linear.gram import PrincipalBasis
from topwork_plugins.linear.losses import Loss


class Problem:
    """The rows at `positions` of a view. `share` is how many of the frame's own rows these are."""

    def __init__(self, view: Array, positions: Array, frame: PrincipalBasis, loss: Loss, share: float = 1.0) -> None:
        self.view, self.positions, self.frame, self.loss = view, positions, frame, loss
        self.spectrum = frame.spectrum * share

    @cached_property
    def rows(self) -> Array:
        """(n, rank + 1) float32. Closed forms do without."""
        return self.frame.project(self.view, self.positions)

    def products(self, targets: Array) -> Array:
        """(rank, outputs) float64: rows' targets."""
        return self.frame.project_products(self.view, self.positions, targets)

    def sample(self, count: int, random: np.random.Generator) -> Problem:
        """Of so many rows by chance."""
        some = np.sort(random.choice(len(self.positions), count, replace=False))
        share = count / len(self.positions)
        return Problem(self.view, self.positions[some], self.frame, self.loss.take(some), share)
