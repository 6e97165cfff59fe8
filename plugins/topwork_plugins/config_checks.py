"""Compares config.json with the weights beside it before a network of these sizes is built. Export process only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import nn

from topwork_plugins.json_files import read_json
from topwork_plugins.weight_files import shapes_of

APART = "its config.json and its weights do not belong together; copy the model again"
#: Fields that are whole numbers above 0 wherever they are not null; some architectures list one for each stage.
_SIZES = re.compile(
    r"(hidden|vocab|intermediate|embedding|patch|image)_size|max_position_embeddings|num_(attention_|key_value_)?heads"
    r"|num_channels|width|heads|context_length|embed_dim|(encoder|decoder)_(attention_heads|ffn_dim)|n_(embd|head|heads|inner|positions|ctx)|d_(model|ff|kv)|(hidden_)?dim"
    r"|(in|out)_features"
)
#: Fields that count parts of a network of which each is built.
_LAYERS = re.compile(r"num_(\w+_)?layers|n_layers?|(encoder_|decoder_)?layers|depths?|num_hidden_groups|num_(local_)?experts")
_INDEX = re.compile(r"(?:^|\.)(\d+)\.")
#: Layers that a network may have beyond those of its weights: it is built, and those that are missing are then named.
SPARE_LAYERS = 1000
#: Times the numbers of its weights that a network may have, and numbers in all: it fits in memory where they do, and then each
#: weight that does not fit is named.
SPARE_SIZE, SMALL = 4, 100_000_000


def check_config(folder: Path, weights: Sequence[Path], build: Callable[[], nn.Module]) -> None:
    """Raise InvalidInput where config.json is of no network, or of one far larger than its weights; the error names the field.
    `build` makes the network: here without memory for its numbers."""
    config = folder / "config.json"
    check_numbers(config, weights)
    shapes, network = _shapes(weights), _without_memory(build)
    if shapes and network is not None:
        _check_size(config, network, shapes)


def check_numbers(config: Path, weights: Sequence[Path]) -> None:
    """Raise InvalidInput for a size or a count of layers in a JSON file that is no whole number, and for layers far beyond those
    of the weights."""
    shapes = _shapes(weights)
    layers = max((int(n) + 1 for name in shapes for n in _INDEX.findall(name)), default=0)
    for name, value in _fields(read_json(config, missing_ok=True)):
        last = name.rpartition(".")[2]
        counts = _LAYERS.fullmatch(last) is not None
        if not counts and not _SIZES.fullmatch(last):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < (0 if counts else 1):
            raise InvalidInput(
                f"{_said(config, name, value)}, which is no whole number {'from 0 on' if counts else 'above 0'}",
                remedy=f"copy the model's {config.name} again",
            )
        if counts and shapes and value > layers + SPARE_LAYERS:
            raise InvalidInput(f"{_said(config, name, value)}, and the weights have {layers}", remedy=APART)


def check_known(config: Path, error: Exception) -> None:
    """Raise InvalidInput where a library lacks a word of config.json (hidden_act), of which it tells the word alone."""
    for name, value in _fields(read_json(config, missing_ok=True)):
        if isinstance(error, KeyError) and isinstance(value, str) and error.args[:1] == (value,):
            raise InvalidInput(
                f"{_said(config, name, value)}, which transformers does not have", remedy=f"copy the model's {config.name} again"
            ) from error


def _check_size(config: Path, network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a network that has no memory for its numbers with the weights: by their count, then by their shapes."""
    held = sum(map(math.prod, shapes.values()))
    wanted = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    if sum(map(math.prod, wanted.values())) <= max(SPARE_SIZE * held, SMALL):
        return
    prefix = f"{getattr(network, 'base_model_prefix', '')}."
    known = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    pairs = [
        (size, has)
        for name, shape in wanted.items()
        if len(found := known.get(name.removeprefix(prefix), ())) == len(shape)
        for size, has in zip(shape, found, strict=True)
        if size > has
    ]
    for size, has in sorted(set(pairs), reverse=True):
        for name, value in _fields(read_json(config)):
            if value == size:
                raise InvalidInput(f"{_said(config, name, value)}, and the weights have {has}", remedy=APART)
    count = f"{sum(map(math.prod, wanted.values())):,}"
    raise InvalidInput(
        f"{config.parent.name}: {config.name} is of a network of {count} numbers, and the weights have {held:,}", remedy=APART
    )


def _without_memory(build: Callable[[], nn.Module]) -> nn.Module | None:
    """Return the network on torch's "meta" device; None where it cannot be built so, which says nothing of it."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:  # of any class: what config.json says is used everywhere
        return None


def _shapes(weights: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    return {name: shape for path in weights for name, shape in shapes_of(path).items()}


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of config.json that are not null, those of its towers (text_config.hidden_size) too, of lists each
    number."""
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith(("config", "cfg", "args")):
            yield from _fields(value, f"{prefix}{name}.")
        elif isinstance(value, list):  # words in a list are names: out_features of a backbone are those of its stages
            yield from ((prefix + name, one) for one in value if not isinstance(one, str | list | dict | None))
        elif value is not None and not isinstance(value, dict):
            yield prefix + name, value


def _said(config: Path, name: str, value: Any) -> str:
    return f"{config.parent.name}: {config.name} says {name} {value!r}"
