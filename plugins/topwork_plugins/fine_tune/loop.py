"""Epochs of a training: batches, rates, the validation score, and the best state of all. Imports torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from topwork_server import Array, FineTuneDataset, InvalidInput, Report
from torch import Tensor, nn

from topwork_plugins.fine_tune.network import Network
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import TrunkOptions

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass
class BestEpoch:
    """The best epoch so far: by its score, and of equal scores by its loss. `state` is what learned, on the CPU."""

    epoch: int = 0
    score: float = -math.inf
    loss: float = math.inf
    state: list[Tensor] = field(default_factory=list)

    def is_better(self, score: float, loss: float) -> bool:
        return (score, -loss) > (self.score, -self.loss)


@dataclass(frozen=True)
class LearnedTarget:
    """A target that a trunk learns: by which way from samples to scores, and what its loss and score weigh beside others."""

    network: Network
    objective: Objective
    weight: float

    @property
    def dataset(self) -> FineTuneDataset:
        return self.network.dataset

    def evaluate(self, positions: Array) -> tuple[float, float]:
        """Return score and mean loss of those items."""
        raw = self.raw_scores(positions)
        loss = float(self.objective.loss(raw, positions)) / max(self.objective.size(positions), 1)
        return self.objective.score(self.objective.scores_of(raw), positions), loss

    def raw_scores(self, positions: Array, *, exact: bool = False) -> Tensor:
        """Compute raw scores of those items' rows in the order of the positions, (rows, outputs), on the CPU."""

        def scores(rows: Tensor) -> Tensor:
            return self.network.scores(rows.to(self.network.device)).cpu()

        with torch.no_grad():
            found = {p: scores(rows) for p, rows in self.network.features(positions.tolist(), exact=exact)}
            return torch.cat([scores(self.network.no_rows()), *(found[p] for p in positions.tolist())])


class TrainingLoop:
    """One training, of one target or of several that share a trunk. `run` leaves the best epoch's state in the networks.

    Each batch is of one target, so that an item needs no value of the others (as Liu et al. 2019 do, algorithm 1).
    """

    def __init__(
        self,
        targets: Sequence[LearnedTarget],
        options: TrunkOptions,
        patience: int,
        groups: list[dict[str, Any]],
        rate: float,
        scaler: torch.amp.GradScaler,
        random: np.random.Generator,
        report: Report,
    ) -> None:
        self._targets, self._options, self._patience = targets, options, patience
        self._module = targets[0].network.module
        self._optimizer = Optimizer(groups, bias_correction=options.bias_correction)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._rate, self._scaler, self._random, self._report = rate, scaler, random, report
        self._steps = options.epochs * sum(one.objective.steps(len(one.dataset.train), options.batch) for one in targets)
        self._step_count = 0
        self._started = time.monotonic()
        self.best = BestEpoch()
        self.history: list[Mapping[str, Any]] = []

    def run(self) -> None:
        self.best.state = self._copy_state()
        for epoch in range(1, self._options.epochs + 1):
            loss = self._epoch(epoch)
            score, validation = self._evaluate()
            self._record_epoch(epoch, loss, score, validation)
            if self._out_of_time() or self._patience_ends(epoch):
                break
        with torch.no_grad():
            for parameter, value in zip(self._parameters, self.best.state, strict=True):
                parameter.copy_(value)

    def _evaluate(self) -> tuple[float | None, float | None]:
        """Return score and mean loss of the validation items, the weighted means over the targets that have any; None of none."""
        there = [one for one in self._targets if len(one.dataset.validation)]
        if not there:
            return None, None
        found = np.array([one.evaluate(one.dataset.validation) for one in there])
        if len(there) == 1:
            return float(found[0, 0]), float(found[0, 1])
        found[:, 0] = found[:, 0].clip(0.0)  # R2 has no lower end: one target alone would choose the epoch
        score, loss = np.average(found, axis=0, weights=[one.weight for one in there])
        return float(score), float(loss)

    def _epoch(self, epoch: int) -> float:
        """Run one pass; return the mean loss."""
        total = size = 0.0
        self._module.train(self._options.dropout)
        for part in self._module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()  # batches are small, and the statistics good
        for target, batch in self._batches():
            loss, count = self._step(target, batch)
            total, size = total + loss, size + count
            self._report_progress(epoch, total / max(size, 1))
            if self._out_of_time():
                break
        return total / max(size, 1)

    def _batches(self) -> list[tuple[LearnedTarget, Array]]:
        dealt = [
            (one, batch)
            for one in self._targets
            for batch in one.objective.batches(one.dataset.train, one.network.prepared.costs, self._options.batch, self._random)
        ]
        return dealt if len(self._targets) == 1 else [dealt[i] for i in self._random.permutation(len(dealt))]

    def _step(self, target: LearnedTarget, batch: Array) -> tuple[float, int]:
        """Take one step; return the sum of the loss, and over how much. InvalidInput where it is not finite."""
        network, objective = target.network, target.objective
        self._optimizer.set_rates(schedule(self._step_count, self._steps, self._options.warmup))
        self._optimizer.torch.zero_grad(set_to_none=True)
        size, total = objective.size(batch), 0.0
        for part in network.parts(batch):
            raw = network.training_scores(part, self._random, self._options.windows, flip=self._options.flip)
            loss = target.weight * objective.loss(raw, part)
            self._scaler.scale(loss / max(size, 1)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise InvalidInput(f"the loss of step {self._step_count + 1} is not finite", remedy="give a smaller learning_rate")
        self._scaler.unscale_(self._optimizer.torch)
        if self._options.clip:
            nn.utils.clip_grad_norm_(self._parameters, self._options.clip)
        self._scaler.step(self._optimizer.torch)
        self._scaler.update()
        self._step_count += 1
        return total, size

    def _record_epoch(self, epoch: int, loss: float, score: float | None, validation: float | None) -> None:
        rate = self._rate * schedule(self._step_count - 1, self._steps, self._options.warmup)
        self.history.append(
            {
                "epoch": epoch,
                "step": self._step_count,
                "loss": loss,
                "score": score,
                "validation_loss": validation,
                "learning_rate": rate,
            }
        )
        if score is None or validation is None:  # nothing is evaluated: the last epoch is the best
            self.best = BestEpoch(epoch, state=self._copy_state())
        elif self.best.is_better(score, validation):
            self.best = BestEpoch(epoch, score, validation, self._copy_state())

    def _patience_ends(self, epoch: int) -> bool:
        return 0 < self._patience <= epoch - self.best.epoch

    def _out_of_time(self) -> bool:
        return 0 < self._options.max_seconds <= time.monotonic() - self._started

    def _copy_state(self) -> list[Tensor]:
        return [parameter.detach().to("cpu", copy=True) for parameter in self._parameters]

    def _report_progress(self, epoch: int, loss: float) -> None:
        """Report epoch, step and loss; the job adds how much time is left."""
        message = f"epoch {epoch}/{self._options.epochs}, step {self._step_count}/{self._steps}, loss {loss:.3f}"
        if self.history and self.history[-1]["score"] is not None:
            name = self._targets[0].objective.name if len(self._targets) == 1 else "mean score"
            message += f", validation {name} {self.history[-1]['score']:.3f}"
        spent = time.monotonic() - self._started
        by_time = spent / self._options.max_seconds if self._options.max_seconds else 0.0
        self._report(min(1.0, max(self._step_count / self._steps, by_time)), message)


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over groups with rates of their own, that rise and fall together.

    Without `bias_correction` a step is m / (sqrt(v) + eps), as in the optimizer that BERT came with (Mosbach et al. 2021, 5.1)
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

    def set_rates(self, factor: float) -> None:
        """Set the rates of the next step to `factor` of those that the groups came with.

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
    """Return the factor of step 0 .. steps - 1: up from 0 to 1 over the first part of them, then down to 0 (Devlin et al. 2019,
    A.2)."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(steps - rising, 1)
