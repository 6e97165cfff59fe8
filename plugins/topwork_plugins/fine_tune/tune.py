"""Tuning of a trunk, from a FineTuneDataset to a FineTuneResult: what learns and how fast, and the training. Imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from topwork_server import Array, Encoder, FineTuneDataset, FineTuneResult, InvalidInput, Report, Trunk
from torch import nn

from topwork_plugins.fine_tune.early_checks import check_data_options, check_frozen, ready_graph
from topwork_plugins.fine_tune.loop import LearnedTarget, TrainingLoop
from topwork_plugins.fine_tune.lora import RATE, LoraAdapter
from topwork_plugins.fine_tune.network import COSINE, TOWERS, Network, PreparedSamples
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import TrunkOptions
from topwork_plugins.linear.plugin import LinearHead

WEIGHTS = "trunk.safetensors"
#: Parts of the whole that preparing and training take in the progress.
PREPARED, TRAINED = 0.05, 0.95
#: The deviation of matrices that start at random, as BERT's did (Devlin et al. 2019; `initializer_range`).
SPREAD = 0.02
#: Items that tell the scale.
SCALED = 128


class Tuning(ABC):
    """One way to tune a trunk: what its rows are learned from, and the head that comes of it. `patience` as `FineTuneOptions` has
    it."""

    patience = 0

    @abstractmethod
    def objective(self, dataset: FineTuneDataset) -> Objective:
        """Make the objective. InvalidInput where there is nothing to learn."""

    @abstractmethod
    def layer(self, dataset: FineTuneDataset) -> nn.Module:
        """Make the output layer, whose scores the objective reads."""

    @abstractmethod
    def start(self, target: LearnedTarget) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Prepare the output layer; return its groups for the optimizer, and what was chosen."""

    def before(self, target: LearnedTarget) -> Array | None:
        """Return what orders the test items before anything is learned, if anything does."""
        return None

    @abstractmethod
    def finish(self, target: LearnedTarget) -> tuple[LinearHead, Array, Array]:
        """Return the head, and its scores of the validation and the test items."""


def tune_trunk(
    tuning: Tuning,
    trunk: Trunk,
    encoder: Encoder,
    datasets: Sequence[FineTuneDataset],
    weights: Sequence[float],
    options: TrunkOptions,
    seed: int,
    threads: int,
    out: Path,
    report: Report,
) -> list[FineTuneResult]:
    """Tune as `FineTuner.tune_jointly` promises."""
    for dataset in datasets:
        _check(trunk, encoder, dataset, options)
    device = device_of(options.device)
    with seeded(seed, threads, device):
        precision = _precision(options.precision, device)
        objectives = [tuning.objective(dataset) for dataset in datasets]
        report(0.0, f"preparing {sum(len(dataset.items) for dataset in datasets)} items")
        networks = [_network(tuning, trunk, encoder, dataset, threads, device, precision) for dataset in datasets]
        targets = [LearnedTarget(*parts) for parts in zip(networks, objectives, weights, strict=True)]
        groups, chosen, adapter = _start(tuning, trunk, targets, options)
        before = [tuning.before(target) for target in targets]
        report(PREPARED, "training")

        def report_epochs(fraction: float, message: str) -> None:
            report(PREPARED + (TRAINED - PREPARED) * fraction, message)

        scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        random = np.random.default_rng(seed)
        rate = chosen["learning_rate"]
        loop = TrainingLoop(targets, options, tuning.patience, groups, rate, scaler, random, report_epochs)
        loop.run()
        report(TRAINED, f"epoch {loop.best.epoch} was best; judging")
        chosen |= {"epoch": loop.best.epoch, "device": device.type, "precision": str(precision).removeprefix("torch.")}
        if adapter:  # what is judged is what is exported
            chosen |= adapter.merge(out / WEIGHTS)
        found = [tuning.finish(target) for target in targets]
        if not adapter:
            _save_state(targets[0].network.module, out / WEIGHTS)
        config = adapter.config if adapter else None
        return [
            FineTuneResult(
                out / WEIGHTS, replace(head, chosen={**head.chosen, **chosen}), validation, test, loop.history, config, order
            )
            for (head, validation, test), order in zip(found, before, strict=True)
        ]


def _check(trunk: Trunk, encoder: Encoder, dataset: FineTuneDataset, options: TrunkOptions) -> None:
    if trunk.module is None:
        raise ready_graph(encoder.spec)
    check_data_options(encoder.spec, dataset.pooling, options)


def _network(
    tuning: Tuning,
    trunk: Trunk,
    encoder: Encoder,
    dataset: FineTuneDataset,
    threads: int,
    device: torch.device,
    precision: torch.dtype,
) -> Network:
    """Make the way from a dataset's samples to scores, and prepare its items."""
    layer = tuning.layer(dataset)
    prepared = PreparedSamples(encoder, dataset.items, dataset.options, threads, towers=dataset.pooling in TOWERS)
    return Network(trunk, layer, encoder, dataset, prepared, device, _autocast(precision, device))


def _start(
    tuning: Tuning, trunk: Trunk, targets: Sequence[LearnedTarget], options: TrunkOptions
) -> tuple[list[dict[str, Any]], dict[str, Any], LoraAdapter | None]:
    """Freeze, restart or adapt, and scale; return the groups that the optimizer takes, what was chosen, and the adapter."""
    device, module = targets[0].network.device, targets[0].network.module
    home = block_of_parameters([name for name, _ in module.named_parameters()], trunk.blocks)
    count = max(len(trunk.blocks), 1)
    reached = set().union(*(_reached(one.network) for one in targets))
    learning = freeze(module, home, reached, count, options.frozen_blocks)
    reinitialize(module, home, learning, options.reinitialize)
    for one in targets:
        one.network.scale = measure_scale(one.network, one.dataset.train)
    rate = options.learning_rate
    if rate is None:
        rate = usual_rate(module) * (RATE if options.adapter == "lora" else 1.0)
    chosen: dict[str, Any] = {"learning_rate": rate, "trained_blocks": len(learning), "blocks": count}
    adapter = None
    if options.adapter == "lora":
        adapter = LoraAdapter(module, [name for name, p in module.named_parameters() if p.requires_grad], options)
        module.to(device)  # what was added to it
        home = block_of_parameters([name for name, _ in module.named_parameters()], trunk.blocks)
    groups = parameter_groups(module, home, rate, options)
    for one in targets:
        own, started = tuning.start(one)
        groups, chosen = [*groups, *own], chosen | started
    return groups, chosen, adapter


def _reached(network: Network) -> set[str]:
    """Return the names of the parameters that the tap is computed from."""
    module = network.module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    raw = network.training_scores(network.dataset.train[:1], np.random.default_rng(0), windows=1, flip=False)
    raw.sum().backward()  # type: ignore[no-untyped-call]
    found = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    module.zero_grad(set_to_none=True)
    network.head.zero_grad(set_to_none=True)
    return found


def _save_state(module: nn.Module, file: Path) -> None:
    from safetensors.torch import save_file

    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, file)  # copies: tensors that are shared are written for each of their names


def device_of(asked: str) -> torch.device:
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise InvalidInput("device is 'cuda', and torch sees no CUDA device here", remedy="leave it 'auto', or give 'cpu'")
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def _precision(asked: str, device: torch.device) -> torch.dtype:
    if asked == "fp16" and device.type == "cpu":
        raise InvalidInput("precision fp16 needs CUDA", remedy="leave it 'auto', or give 'bf16'")
    if asked == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]


def _autocast(precision: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if precision is torch.float32 else torch.autocast(device.type, precision)


@contextmanager
def seeded(seed: int, threads: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers and set its threads; both are as before once this is left."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_num_threads(max(threads, 1))
        try:
            yield
        finally:
            torch.set_num_threads(before)


def block_of_parameters(names: Sequence[str], blocks: Sequence[Sequence[str]]) -> dict[str, int]:
    """Map each parameter to its block, as `Trunk.blocks` has it; all are in one block where that is empty."""
    last = max(len(blocks) - 1, 0)
    return {name: next((i for i, block in enumerate(blocks) if name.startswith(tuple(block))), last) for name in names}


def freeze(module: nn.Module, home: Mapping[str, int], reached: Collection[str], count: int, bottom: int) -> list[int]:
    """Let the parameters learn that the tap is computed from and that no frozen block holds; return their blocks, ascending.

    `count` is how many blocks there are, `bottom` how many of them are frozen (-1: all). InvalidInput where there are fewer.
    """
    check_frozen(bottom, count)
    frozen = count if bottom < 0 else bottom
    learning = set()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in reached and home[name] >= frozen)
        if parameter.requires_grad:
            learning.add(home[name])
    return sorted(learning)


def reinitialize(module: nn.Module, home: Mapping[str, int], learning: Sequence[int], top: int) -> None:
    """Restart the `top` highest of the blocks that learn: matrices normal, norms at 1, biases at 0 (Zhang et al. 2021)."""
    if not top:
        return
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        raise InvalidInput(
            "reinitialize is for transformers: this trunk has batch norms, whose statistics stay", remedy="leave it 0"
        )
    if top > len(learning):
        raise InvalidInput(f"reinitialize is {top}, and {len(learning)} blocks learn", remedy=f"give at most {len(learning)}")
    chosen = set(learning[-top:])
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and home[name] in chosen:
                _restart(name, parameter)


def _restart(name: str, parameter: nn.Parameter) -> None:
    if parameter.ndim > 1:
        parameter.normal_(0.0, SPREAD)
    else:
        parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def parameter_groups(module: nn.Module, home: Mapping[str, int], rate: float, options: TrunkOptions) -> list[dict[str, Any]]:
    """Make AdamW's groups of what learns: the top block at `rate`, each below it at `layer_decay` of the one above.

    As the discriminative rates of Howard and Ruder (2018, section 3.2) and of ELECTRA (Clark et al. 2020, appendix B). Norms and
    biases do not decay.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    top = max((home[name] for name in parameters), default=0)
    found: dict[tuple[int, bool], list[Any]] = {}
    for name, parameter in parameters.items():
        found.setdefault((home[name], parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": rate * options.layer_decay ** (top - block),
            "weight_decay": options.weight_decay if decays else 0.0,
        }
        for (block, decays), members in sorted(found.items(), key=lambda entry: entry[0])
    ]


def usual_rate(module: nn.Module) -> float:
    """Return the usual rate; nets with batch norms bear more than transformers do."""
    return 1e-4 if any(isinstance(p, nn.modules.batchnorm._BatchNorm) for p in module.modules()) else 2e-5


def measure_scale(network: Network, train: Array) -> float:
    """Measure the root of the mean square of what the output layer reads: rates of learning then suit any trunk. A cosine has a
    scale of its own."""
    if network.dataset.pooling == COSINE:
        return 1.0
    step = max(len(train) // SCALED, 1)
    squares = [(float((rows**2).mean()), len(rows)) for _, rows in network.features(train[::step][:SCALED].tolist())]
    mean = sum(square * count for square, count in squares) / sum(count for _, count in squares)
    return float(np.sqrt(mean)) or 1.0
