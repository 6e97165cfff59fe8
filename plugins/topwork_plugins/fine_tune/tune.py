"""Fine-tunes a trunk: from a FineTuneDataset to a FineTuneResult, by the parts of this folder. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from topwork_server import Encoder, FineTuneDataset, FineTuneResult, InvalidInput, Modality, Report, Trunk
from torch import nn

from topwork_plugins.fine_tune import blocks
from topwork_plugins.fine_tune.linear_probe import measure_scale, start_linear
from topwork_plugins.fine_tune.loop import TrainingLoop
from topwork_plugins.fine_tune.network import Network
from topwork_plugins.fine_tune.objective import Objective
from topwork_plugins.fine_tune.options import FineTuneOptions
from topwork_plugins.fine_tune.samples import PreparedSamples
from topwork_plugins.linear.head import LinearHead

WEIGHTS = "trunk.safetensors"
#: Parts of the whole that preparing and training take in the progress.
PREPARED, TRAINED = 0.05, 0.95


def fine_tune(
    trunk: Trunk,
    encoder: Encoder,
    lesson: FineTuneDataset,
    options: FineTuneOptions,
    seed: int,
    threads: int,
    out: Path,
    report: Report,
) -> FineTuneResult:
    """See `FineTune.tune`."""
    if trunk.module is None:
        raise InvalidInput(
            f"{encoder.spec.name} is a ready graph and cannot be fine-tuned", remedy="train a head on its features"
        )
    if options.flip and (encoder.spec.modality is not Modality.IMAGE or lesson.pooling == "rows"):
        raise InvalidInput("flip mirrors whole pictures, whose values do not depend on left and right", remedy="leave it off")
    if options.windows != FineTuneOptions.windows and encoder.spec.modality is not Modality.VIDEO:
        raise InvalidInput(
            f"windows are of videos, and {encoder.spec.name} reads {encoder.spec.modality}s", remedy="leave it out"
        )
    device = _device(options.device)
    with _seeded(seed, threads, device):
        precision = _precision(options.precision, device)
        objective = Objective(lesson, options.class_weight)
        report(0.0, f"preparing {len(lesson.items)} items")
        prepared = PreparedSamples(encoder, lesson.items, lesson.options, threads)
        network = Network(trunk, encoder, lesson, prepared, device, _autocast(precision, device))
        groups, chosen = _start(trunk, network, objective, lesson, options)
        report(PREPARED, "training")

        def told(fraction: float, message: str) -> None:
            report(PREPARED + (TRAINED - PREPARED) * fraction, message)

        scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        loop = TrainingLoop(
            network, objective, lesson, options, groups, chosen["learning_rate"], scaler, np.random.default_rng(seed), told
        )
        loop.run()
        report(TRAINED, f"epoch {loop.best.epoch} was best; judging")
        chosen |= {"epoch": loop.best.epoch, "device": device.type, "precision": str(precision).removeprefix("torch.")}
        return _result(trunk.module, network, objective, loop, lesson, chosen, out)


def _start(
    trunk: Trunk, network: Network, objective: Objective, lesson: FineTuneDataset, options: FineTuneOptions
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Freezes, restarts and scales; the groups that the optimiser takes, and what was chosen."""
    module = network.module
    home = blocks.block_of_parameters([name for name, _ in module.named_parameters()], trunk.blocks)
    count = max(len(trunk.blocks), 1)
    learning = blocks.freeze(module, home, _reached(network, lesson), count, options.frozen_blocks)
    blocks.reinitialise(module, home, learning, options.reinitialise)
    network.scale = measure_scale(network, lesson.train)
    rate = blocks.usual_rate(module) if options.learning_rate is None else options.learning_rate
    chosen: dict[str, Any] = {"learning_rate": rate, "blocks_that_learnt": len(learning), "blocks": count}
    if options.head_start == "probe":
        chosen["probe_strength"] = start_linear(network, objective, lesson)
    head = list(network.head.named_parameters())
    last = [
        {"params": [p], "lr": options.head_learning_rate, "weight_decay": options.weight_decay if p.ndim > 1 else 0.0}
        for _, p in head
    ]
    return [*blocks.groups(module, home, rate, options), *last], chosen


def _reached(network: Network, lesson: FineTuneDataset) -> set[str]:
    """The parameters that the tap is computed from."""
    module = network.module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    raw = network.training_scores(lesson.train[:1], np.random.default_rng(0), windows=1, flip=False)
    raw.sum().backward()  # type: ignore[no-untyped-call]
    found = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    module.zero_grad(set_to_none=True)
    network.head.zero_grad(set_to_none=True)
    return found


def _result(
    module: nn.Module,
    network: Network,
    objective: Objective,
    loop: TrainingLoop,
    lesson: FineTuneDataset,
    chosen: dict[str, Any],
    out: Path,
) -> FineTuneResult:
    from safetensors.torch import save_file

    validation, test = (objective.scores_of(loop.raw_scores(which, exact=True)) for which in (lesson.validation, lesson.test))
    layer = network.head.cpu()
    weight, bias = objective.fold_output_layer(layer.weight.detach().numpy(), layer.bias.detach().numpy(), network.scale)
    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, out / WEIGHTS)  # copies: tensors that are shared are written for each of their names
    return FineTuneResult(out / WEIGHTS, LinearHead(weight, bias, chosen=chosen), validation, test, loop.history)


def _device(asked: str) -> torch.device:
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
def _seeded(seed: int, threads: int, device: torch.device) -> Iterator[None]:
    """Torch's own random numbers and threads, as they were before once it is left."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_num_threads(max(threads, 1))
        try:
            yield
        finally:
            torch.set_num_threads(before)
