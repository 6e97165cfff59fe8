"""Opens a picture model of transformers out of a local folder. Export process only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import nn

from topwork_plugins.vision.layout import Layout

#: Weights that no feature depends on, and that folders may lack.
SPARE = ("pooler.", "mask_token")


@dataclass(frozen=True)
class Loaded:
    """`trunk` takes pixel_values. `model` is the same with its classifier where it has one, whose weights `classifier` names.

    `unused` are the weights of the folder that the trunk has no place for.
    """

    trunk: Any
    model: Any
    classifier: tuple[str, ...]
    unused: tuple[str, ...]


def load(layout: Layout) -> Loaded:
    """Load the fp32 model of a folder. InvalidInput where a weight is missing or does not fit; nothing is unpickled."""
    model, report = _from_pretrained(layout)
    missing = _missing(layout.folder, report)
    trunk = model.base_model if layout.classifier else model
    if any(".pooler." in f".{name}" for name in missing):
        trunk.pooler = None  # random numbers
    if trunk.main_input_name != "pixel_values":
        raise InvalidInput(
            f"{layout.folder.name} is a {layout.kind!r} model (config.json), which does not read pictures alone",
            remedy="name a picture model, or leave --family vision away",
        )
    unused = sorted(map(str, report["unexpected_keys"]))
    _refuse_layers_without_place(layout.folder, trunk, unused)
    ours = {id(p) for p in trunk.parameters()}
    classifier = tuple(name for name, p in model.named_parameters() if id(p) not in ours)
    return Loaded(trunk, model.eval(), classifier, tuple(unused))


def linear_of(loaded: Loaded) -> nn.Linear | None:
    """The one linear layer of the classifier; None where it is anything else."""
    inside = set(loaded.trunk.modules())
    parts = [
        part for part in loaded.model.modules() if part not in inside and next(part.parameters(recurse=False), None) is not None
    ]
    return parts[0] if len(parts) == 1 and isinstance(parts[0], nn.Linear) else None


def _from_pretrained(layout: Layout) -> tuple[Any, Mapping[str, Any]]:
    import transformers
    from safetensors import SafetensorError

    maker = getattr(transformers, layout.classifier or "", transformers.AutoModel)
    try:
        model, report = maker.from_pretrained(
            layout.folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, UnpicklingError, SafetensorError) as error:
        raise InvalidInput(
            f"the model in {layout.folder.name} could not be read: {str(error).splitlines()[0]}",
            remedy="it should hold config.json and model.safetensors (or pytorch_model.bin), as the hub has them",
        ) from error
    return model, report


def _missing(folder: Path, report: Mapping[str, Any]) -> Sequence[str]:
    """transformers fills missing weights with random numbers; InvalidInput unless they are of SPARE."""
    missing = sorted(map(str, report["missing_keys"]))
    gaps = [name for name in missing if not any(part in f".{name}" for part in (f".{SPARE[0]}", SPARE[1]))]
    gaps += sorted(str(key) for key in report.get("mismatched_keys", ()))
    if gaps:
        raise InvalidInput(
            f"{folder.name} lacks {len(gaps)} weights of its architecture, among them {', '.join(gaps[:3])}",
            remedy="its config.json and its weights do not belong together; copy the model again",
        )
    return missing


def _refuse_layers_without_place(folder: Path, trunk: nn.Module, unused: Sequence[str]) -> None:
    """Layers beyond those of config.json would silently not be computed."""
    places = [re.escape(name) for name, part in trunk.named_modules() if isinstance(part, nn.ModuleList)]
    surplus = [key for key in unused if places and re.search(rf"(^|\.)({'|'.join(places)})\.\d+\.", key)]
    if surplus:
        raise InvalidInput(
            f"{folder.name} has {len(surplus)} weights of layers that its config.json does not have, among them"
            f" {', '.join(surplus[:3])}",
            remedy="its config.json and its weights do not belong together; copy the model again",
        )
