"""The steps of a training: batches, rates, evaluations, the best state, and when it ends. Imports torch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from topwork_server import Array, InvalidInput, Report
from torch import Tensor, nn

from topwork_plugins.fine_tune.loop import schedule
from topwork_plugins.language_model.objective import Objective
from topwork_plugins.language_model.options import LanguageModelOptions
from topwork_plugins.language_model.tokenized import Pieces

#: Batches whose pieces are sorted by length together, so that those of one batch need little padding.
POOL = 32
#: The random numbers of evaluations: all hide the same words.
EVALUATION_SEED = 12345
#: The part of max_seconds that one evaluation may take: of more held-out pieces some are drawn.
EVALUATED = 0.05


@dataclass(frozen=True)
class HeldOut:
    """Loss of a token and accuracy on pieces that are not learned from."""

    loss: float
    accuracy: float


class LanguageModelLoop:
    """One training. `run` leaves the state of the best evaluation in the model; `before` and `best` are those of the first and of
    that."""

    def __init__(
        self,
        objective: Objective,
        learned: Pieces,
        held: Pieces,
        groups: list[dict[str, Any]],
        alone: float,
        seed: int,
        device: torch.device,
        report: Report,
    ) -> None:
        options: LanguageModelOptions = objective.options
        self._objective, self._learned, self._held, self._options = objective, learned, held, options
        self._model, self._device, self._report = objective.model, device, report
        self._optimizer = torch.optim.AdamW(groups)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._random = np.random.default_rng(seed)
        per_epoch = math.ceil(len(learned) / options.batch)
        self._steps, self._every = options.epochs * per_epoch, options.evaluate_every or per_epoch
        self._alone = math.ceil(alone * self._steps)  # steps in which a new head learns by itself
        self._learning, self._step, self._worse = 0.0, 0, 0  # seconds, steps, evaluations without a better loss
        self._judged = np.arange(len(held))
        self.trunk_steps = 0  # in which more than a new head learned
        self.history: list[Mapping[str, Any]] = []
        self.stopped = ""

    def run(self) -> None:
        """Train until the epochs or the time are over, or the held-out loss falls no more. InvalidInput: a loss is not finite."""
        self._report(0.0, "evaluating before")
        self.before = self.best = self._first_evaluation()
        state = self._copy_state()
        total = count = 0.0
        for numbers in self._batches():
            began = time.monotonic()
            loss, tokens = self._train_step(numbers)
            self._learning += time.monotonic() - began
            total, count = total + loss, count + tokens
            over = self._out_of_time()
            if self._step % self._every == 0 or self._step == self._steps or over:
                if self._evaluated(total / max(count, 1)):
                    state = self._copy_state()
                total = count = 0.0
                if over or self._patience_ends():
                    break
        self._restore(state)

    @property
    def sampled(self) -> str:
        """A warning that names what the evaluations judge, where that is not all that was held out."""
        some, every = len(self._judged), len(self._held)
        return f"judged on {some:,} of {every:,} held-out pieces, drawn at random: max_seconds is short" if some < every else ""

    def _first_evaluation(self) -> HeldOut:
        """Evaluate, and choose what is judged: all that was held out, or as much as takes a small part of a time limit."""
        if not self._options.max_seconds:
            return self.evaluate()
        self._judged = np.random.default_rng(EVALUATION_SEED).permutation(len(self._held))
        return self.evaluate(EVALUATED * self._options.max_seconds)

    def evaluate(self, seconds: float = math.inf) -> HeldOut:
        """Judge held-out pieces, with the same words hidden each time; what takes longer is not judged again either."""
        self._model.eval()
        began, random, loss, right, count = time.monotonic(), np.random.default_rng(EVALUATION_SEED), 0.0, 0, 0
        with torch.no_grad():
            for start in range(0, len(self._judged), self._options.batch):
                if count and time.monotonic() - began > seconds:
                    self._judged = self._judged[:start]
                    break
                numbers = self._judged[start : start + self._options.batch]
                outcome = self._objective.outcome(self._on_device(self._objective.batch(self._held, numbers, random)))
                loss, right, count = loss + float(outcome.loss), right + outcome.right, count + outcome.count
        if not count or not math.isfinite(loss):
            raise InvalidInput("the held-out loss is not a number", remedy="check the encoder, or give longer texts")
        return HeldOut(loss / count, right / count)

    def _evaluated(self, learned: float) -> bool:
        """Evaluate and record; tell whether it is the best so far."""
        found = self.evaluate()
        self.history.append(
            {
                "step": self._step,
                "epoch": round(self._step * self._options.epochs / self._steps, 3),
                "loss": learned,
                "held-out loss": found.loss,
                "held-out accuracy": found.accuracy,
                "learning_rate": max(group["lr"] for group in self._optimizer.param_groups),
            }
        )
        better = found.loss < self.best.loss
        self.best, self._worse = (found, 0) if better else (self.best, self._worse + 1)
        return better

    def _batches(self) -> Iterator[Array]:
        """Numbers of pieces, each once an epoch; those of one batch are of like length."""
        lengths = np.diff(np.array(self._learned.starts))
        size = self._options.batch
        for _ in range(self._options.epochs):
            order = self._random.permutation(len(self._learned))
            pools = [order[start : start + POOL * size] for start in range(0, len(order), POOL * size)]
            ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
            batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
            yield from (batches[number] for number in self._random.permutation(len(batches)))

    def _train_step(self, numbers: Array) -> tuple[float, int]:
        self._model.train()
        self._set_rates()
        batch = self._on_device(self._objective.batch(self._learned, numbers, self._random))
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            outcome = self._objective.outcome(batch)
        loss = outcome.loss / max(outcome.count, 1)
        if not math.isfinite(float(loss.detach())):
            raise InvalidInput(f"the loss of step {self._step + 1} is not finite", remedy="give a smaller learning_rate")
        loss.backward()  # type: ignore[no-untyped-call]
        if self._options.clip:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._options.clip)
        self._optimizer.step()
        self._step += 1
        self._report_progress(float(loss.detach()))
        return float(outcome.loss.detach()), outcome.count

    def _set_rates(self) -> None:
        """Rise and fall; in the first steps the trunk stays, where its head is new."""
        done = max(self._step, int(self._spent() * self._steps))  # the time may be over before the steps
        self.trunk_steps += done >= self._alone
        factor = schedule(min(done, self._steps - 1), self._steps, self._options.warmup)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = 0.0 if done < self._alone and not group["new"] else rate * factor

    def _spent(self) -> float:
        """The part of the time that was learned; 0 without a limit. Evaluations do not count."""
        return min(1.0, self._learning / self._options.max_seconds) if self._options.max_seconds else 0.0

    def _out_of_time(self) -> bool:
        if self._spent() < 1:
            return False
        self.stopped = f"stopped at step {self._step} of {self._steps} by max_seconds"
        return True

    def _patience_ends(self) -> bool:
        if not 0 < self._options.patience <= self._worse:
            return False
        self.stopped = f"stopped at step {self._step} of {self._steps}: the held-out loss fell no more"
        return True

    def _report_progress(self, loss: float) -> None:
        held = self.history[-1]["held-out loss"] if self.history else self.before.loss
        words = f"step {self._step} of {self._steps}, loss {loss:.3f}, held-out loss {held:.3f}"
        self._report(max(self._step / self._steps, self._spent()), words)

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self._device) for name, tensor in batch.items()}

    def _copy_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._model.state_dict().items()}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._model.load_state_dict(state)
