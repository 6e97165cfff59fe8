"""A pretraining from a base's folder to a new one: opens the model and its tokenizer, trains, and saves. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput, Measure, PretrainResult, Report, prepare_torchvision

from topwork_plugins.fine_tune.tune import device_of, seeded
from topwork_plugins.language_model.loop import LanguageModelLoop
from topwork_plugins.language_model.model_folder import ModelFolder
from topwork_plugins.language_model.objective import Objective
from topwork_plugins.language_model.options import LanguageModelOptions, MaskedOptions
from topwork_plugins.language_model.tokenized import held_out, tokenize
from topwork_plugins.pretrained_models import from_pretrained, refuse_gaps

#: Parts of the whole, in the progress.
TOKENIZED, TRAINED = 0.1, 0.97
#: Fewer steps than these (3,200 texts of a usual batch) are told to be few.
FEW_STEPS = 100
#: Of a head that the encoder lacks.
HEAD_OPTIONS = ("head_rate", "head_first")


def pretrain(
    kind: type[Objective],
    texts: Collection[str],
    folder: ModelFolder,
    options: LanguageModelOptions,
    seed: int,
    threads: int,
    out: Path,
    report: Report,
) -> PretrainResult:
    """Train further as the pretrainers promise."""
    prepare_torchvision()
    device = device_of(options.device)
    with seeded(seed, threads, device):
        report(0.0, "opening the model")
        model, new_head = _opened(folder, kind)
        tokenizer = _tokenizer(folder)
        objective = kind(folder, model, tokenizer, new_head, options)
        model.to(device)
        is_held = held_out(texts, options.held_out, seed)
        most = objective.most_tokens
        learned, held = tokenize(texts, objective.texts, most, is_held, lambda part: report(TOKENIZED * part, "tokenizing"))
        loop = LanguageModelLoop(
            objective,
            objective.arranged(learned),
            objective.arranged(held),
            _groups(model, new_head, options),
            options.head_first if new_head and isinstance(options, MaskedOptions) else 0.0,
            seed,
            device,
            lambda part, words: report(TOKENIZED + (TRAINED - TOKENIZED) * part, words),
        )
        loop.run()
    report(TRAINED, "saving")
    model.to("cpu").save_pretrained(folder.copy(out))
    return PretrainResult(folder.family, _measures(loop), loop.history, folder.settings, _warnings(loop, objective))


def _opened(folder: ModelFolder, kind: type[Objective]) -> tuple[Any, list[str]]:
    """The model with its head in fp32, and the names of parameters of the head that the folder lacks."""
    try:
        model, report = from_pretrained(folder.transformer, kind.auto_class, attention=None)  # the quickest: nothing is traced
    except InvalidInput as error:
        raise InvalidInput(
            f"{folder.name} ({folder.model_type}) cannot be read as a {kind.what}: {error.message}",
            remedy="name another encoder; `ListPretrainers` says what each kind trains",
        ) from error
    refuse_gaps(folder.transformer, report, spare=rf"^(?!{model.base_model_prefix}\.)")  # a head may be new, its trunk not
    return model, sorted(map(str, report["missing_keys"]))


def _tokenizer(folder: ModelFolder) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.transformer, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise InvalidInput(
            f"the tokenizer of {folder.name} cannot be read: {str(error).splitlines()[0]}", remedy="add a tokenizer.json"
        ) from error
    if not tokenizer.is_fast:
        raise InvalidInput(
            f"the tokenizer of {folder.name} has no tokenizer.json", remedy="write one with transformers' fast tokenizer"
        )
    return tokenizer


def _groups(model: Any, new_head: list[str], options: LanguageModelOptions) -> list[dict[str, Any]]:
    """The parameters by rate and decay: those of a new head learn faster, and vectors do not decay."""
    rates = {
        False: options.learning_rate,
        True: options.head_rate if isinstance(options, MaskedOptions) else options.learning_rate,
    }
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name in new_head, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rates[new], "weight_decay": options.weight_decay if decays else 0.0, "new": new}
        for (new, decays), parameters in groups.items()
    ]


def _measures(loop: LanguageModelLoop) -> list[Measure]:
    before, after = loop.before, loop.best
    return [
        Measure("held-out loss", after.loss, before.loss),
        Measure("held-out accuracy", after.accuracy, before.accuracy),
        Measure("held-out perplexity", math.exp(min(after.loss, 700)), math.exp(min(before.loss, 700))),
    ]


def _warnings(loop: LanguageModelLoop, objective: Objective) -> list[str]:
    new = f"{objective.folder.name} had no head of a {objective.what}: it starts at random, so `before` says little"
    worse = "no evaluation was better than before: the encoder is as it was"
    idle = [name for name in HEAD_OPTIONS if getattr(objective.options, name, None) != getattr(MaskedOptions, name)]
    unused = f"{objective.folder.name} has a head: {' and '.join(idle)} did nothing"
    found = [new] if objective.new_head else [unused] if idle and isinstance(objective.options, MaskedOptions) else []
    few = f"the encoder learned in {loop.trunk_steps:,} steps alone, which changes little: give more texts, epochs or time"
    found += [worse] if loop.best is loop.before else [few] if loop.trunk_steps < FEW_STEPS else []
    return [*found, *filter(None, (loop.sampled, loop.stopped))]
