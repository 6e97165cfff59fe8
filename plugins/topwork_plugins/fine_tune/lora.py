"""LoRA (Hu et al. 2021): a trunk stays as it is, and an adapter of low rank beside each of its layers learns. Imports torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput, prepare_torchvision
from torch import nn

from topwork_plugins.fine_tune.options import TrunkOptions

NAME = "default"
AUTO = "auto"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: An adapter bears larger rates than the weights that it is added to (Hu et al. 2021, appendix D; Biderman et al. 2024, 5).
RATE = 10.0
#: Names that a refusal lists.
LISTED = 8


class LoraAdapter:
    """The adapter of a module while it learns; it is in its place in the module until it is merged."""

    def __init__(self, module: nn.Module, learning: Collection[str], options: TrunkOptions) -> None:
        """Add an adapter to the layers that `target_modules` names and whose weights are among the parameters `learning`.

        Nothing else learns then. InvalidInput where there is no such layer.
        """
        layers = chosen_layers(module, learning, options.target_modules)
        self.trunk_bytes = sum(value.numel() * value.element_size() for value in module.state_dict().values())
        self.config: Mapping[str, Any] = {
            "r": options.rank,
            "lora_alpha": options.alpha,
            "target_modules": "|".join(re.escape(name) for name in layers),  # whole names: ends of names may be of others, too
        }
        self.layers = len(layers)
        prepare_torchvision()  # peft imports transformers
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that GPT-2's layers are transposed, which peft sees by itself
            self._model = LoraModel(module, LoraConfig(**self.config), NAME)

    def merge(self, file: Path) -> dict[str, Any]:
        """Write the adapter as safetensors, add it to the module's weights, and return its figures for the report."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        state = get_peft_model_state_dict(self._model, adapter_name=NAME)
        save_file({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}, file)
        self._model.merge_and_unload(safe_merge=True)
        return {"adapted_layers": self.layers, "adapter_bytes": file.stat().st_size, "trunk_bytes": self.trunk_bytes}


def chosen_layers(module: nn.Module, learning: Collection[str], asked: str) -> list[str]:
    """Choose the layers that get an adapter, among those whose weight learns: by the ends of their names, or all of a kind."""
    able = {name: layer for name, layer in module.named_modules() if f"{name}.weight" in learning and _bears(layer)}
    linear = [name for name, layer in able.items() if not isinstance(layer, CONVOLUTIONS)]
    if asked != AUTO:
        return _named(asked, able)
    if not able:
        raise InvalidInput("no layer that learns could have an adapter", remedy="give fewer frozen_blocks, or adapter 'none'")
    return linear or list(able)


def _bears(layer: nn.Module) -> bool:
    """Tell whether peft has an adapter for a layer; subclasses may compute otherwise (as those inside of MultiheadAttention)."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.groups == 1
    return type(layer) is nn.Linear or type(layer).__name__ == "Conv1D"


def _named(asked: str, able: Collection[str]) -> list[str]:
    ends = [end.strip() for end in asked.split(",")]
    for end in ends:
        if not any(_ends(name, end) for name in able):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in able})[:LISTED])
            raise InvalidInput(
                f"target_modules names {end!r}, and no layer that learns and could have an adapter ends so",
                remedy=f"give some of {there}" if there else "give fewer frozen_blocks",
            )
    return [name for name in able if any(_ends(name, end) for end in ends)]


def _ends(name: str, end: str) -> bool:
    return bool(end) and f".{name}".endswith(f".{end}")
