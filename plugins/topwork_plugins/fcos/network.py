"""The detector's net in torch, and how it learns: focal loss for classes, generalized overlap for boxes, checkpoints by mAP."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from topwork_server import Array, mean_average_precision
from torch import Tensor, nn
from torch.nn import functional

from topwork_plugins.fcos.cell_targets import cell_targets
from topwork_plugins.fcos.options import FcosOptions

#: Of the focal loss (Lin et al. 2017, section 4.1): the weight of objects, the exponent, and how likely an object is at first.
ALPHA, GAMMA, PRIOR = 0.25, 2.0, 0.01
#: Weight of the boxes against the classes.
BOXES = 2.0
#: Logarithms of distances in cells that a net may give.
NEAREST, FARTHEST = -6.0, 6.0
WARM_UP, LONGEST_GRADIENT = 0.1, 5.0
#: Pictures that are seen in all, where no epochs are asked for, and bounds of the epochs and of the steps.
SEEN, FEWEST_EPOCHS, MOST_EPOCHS, FEWEST_STEPS = 12_000, 15, 60, 300
#: How often the net is compared on pictures that it does not learn from.
CHECKS = 10
SCORED = 64  # pictures at a time


class DetectorNet(nn.Module):
    """Maps (pictures, dim, rows, columns) to (pictures, classes + 4, rows, columns): logits, and distances in cells."""

    def __init__(self, dim: int, classes: int, options: FcosOptions) -> None:
        super().__init__()
        width, self.classes = options.width, classes
        layers: list[nn.Module] = [nn.Conv2d(dim, width, 1), nn.ReLU()]
        for _ in range(options.layers):
            layers += [nn.Dropout2d(options.dropout), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.body, self.ends = nn.Sequential(*layers), nn.Conv2d(width, classes + 4, 1)

    def begin(self, reach: float) -> None:
        """Begin with rare objects whose edges are so far away."""
        with torch.no_grad():
            self.ends.weight.mul_(0.1)
            likely = torch.full((self.classes,), -math.log((1 - PRIOR) / PRIOR))
            self.ends.bias = nn.Parameter(torch.cat([likely, torch.full((4,), math.log(reach))]))

    def forward(self, pictures: Tensor) -> Tensor:
        found = self.ends(self.body(pictures))
        return torch.cat([found[:, : self.classes], found[:, self.classes :].clamp(NEAREST, FARTHEST).exp()], dim=1)


@dataclass(frozen=True)
class Pictures:
    """Rows (pictures, cells, dim) float32, of `grid`, and values (pictures, cells, 5)."""

    rows: Array
    values: Array
    grid: tuple[int, int]


def train_net(
    learned: Pictures, held: Pictures, classes: int, options: FcosOptions, seed: int, report: Callable[[float], None]
) -> tuple[DetectorNet, int, float]:
    """Train a net; return it at its best mAP on the pictures that are held, after which epoch that was, and that mAP. Where none
    are held, it is the last."""
    torch.manual_seed(seed)
    training = _Training(learned, DetectorNet(learned.rows.shape[2], classes, options), options, seed)
    best, best_epoch, every = -1.0, training.epochs, max(1, training.epochs // CHECKS)
    state = training.net.state_dict()
    for epoch in range(1, training.epochs + 1):
        training.run_epoch()
        report(epoch / training.epochs)
        if len(held.rows) and (epoch % every == 0 or epoch == training.epochs):
            score = mean_average_precision(held.values.reshape(-1, 5), net_scores(training.net, held.rows, held.grid), held.grid)
            if score >= best:  # of equals, which are often 0 at first, the later
                best, best_epoch = score, epoch
                state = {name: tensor.clone() for name, tensor in training.net.state_dict().items()}
    training.net.load_state_dict(state)
    return training.net.eval(), best_epoch, max(best, 0.0)


class _Training:
    """A net, what it learns from, and the state of its optimizer."""

    def __init__(self, pictures: Pictures, net: DetectorNet, options: FcosOptions, seed: int) -> None:
        self.net, self._pictures, count = net, pictures, len(pictures.rows)
        classes, distances = cell_targets(pictures.values, pictures.grid)
        net.begin(float(distances[classes >= 0].mean()) if (classes >= 0).any() else 1.0)
        self._classes, self._distances = torch.from_numpy(classes), torch.from_numpy(distances)
        self._batch = options.batch or int(np.clip(count // 8, 4, 16))
        self.epochs = options.epochs or _epochs(count, self._batch)
        self._random = np.random.default_rng(seed)
        rate, steps = options.learning_rate, self.epochs * math.ceil(count / self._batch)
        self._optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=options.weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rate, steps, pct_start=WARM_UP)

    def run_epoch(self) -> None:
        """Learn from each picture once."""
        self.net.train()
        order = self._random.permutation(len(self._pictures.rows))
        for start in range(0, len(order), self._batch):
            self._step(np.sort(order[start : start + self._batch]))

    def _step(self, some: Array) -> None:
        found = self.net(_as_pictures(self._pictures.rows[some], self._pictures.grid))
        loss = _loss(found, self._classes[some], self._distances[some])
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), LONGEST_GRADIENT)
        self._optimizer.step()
        self._schedule.step()


def _epochs(count: int, batch: int) -> int:
    return max(int(np.clip(SEEN // count, FEWEST_EPOCHS, MOST_EPOCHS)), FEWEST_STEPS // math.ceil(count / batch))


def net_scores(net: DetectorNet, rows: Array, grid: tuple[int, int]) -> Array:
    """Score (pictures, cells, dim) rows: (pictures * cells, classes + 4) float32."""
    net.eval()
    with torch.inference_mode():
        parts = [net(_as_pictures(rows[at : at + SCORED], grid)) for at in range(0, len(rows), SCORED)]
        found = [part.flatten(2).transpose(1, 2).reshape(-1, part.shape[1]).numpy() for part in parts]
    return np.concatenate([np.zeros((0, net.classes + 4), np.float32), *found])


def _as_pictures(rows: Array, grid: tuple[int, int]) -> Tensor:
    return torch.from_numpy(rows.reshape(len(rows), *grid, rows.shape[2])).permute(0, 3, 1, 2)


def _loss(found: Tensor, classes: Tensor, distances: Tensor) -> Tensor:
    """Add the focal loss of all cells and the loss of the boxes of those that have one, both a cell with a box."""
    scores = found.flatten(2).transpose(1, 2)
    logits, reach = scores[..., :-4], scores[..., -4:]
    there = classes >= 0
    truth = torch.zeros_like(logits)
    truth[there] = functional.one_hot(classes[there], logits.shape[2]).to(truth.dtype)
    sure = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
    weight = torch.where(truth > 0, ALPHA, 1 - ALPHA) * (1 - sure) ** GAMMA
    focal = (weight * functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")).sum()
    count = max(1, int(there.sum()))
    return focal / count + BOXES * (1 - _generalized_overlap(reach[there], distances[there])).sum() / count


def _generalized_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Compute GIoU (Rezatofighi et al. 2019) of boxes around one point, given by their distances (n, 4)."""
    shared = (torch.minimum(a[:, :2], b[:, :2]) + torch.minimum(a[:, 2:], b[:, 2:])).clamp(min=0).prod(dim=1)
    hull = (torch.maximum(a[:, :2], b[:, :2]) + torch.maximum(a[:, 2:], b[:, 2:])).prod(dim=1)
    either = (a[:, :2] + a[:, 2:]).prod(dim=1) + (b[:, :2] + b[:, 2:]).prod(dim=1) - shared
    return shared / either - (hull - either) / hull
