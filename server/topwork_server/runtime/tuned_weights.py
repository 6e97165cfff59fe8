"""Puts what was learned in a fine-tuning into a trunk: a state of its own, or a LoRA adapter, which is merged. Imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server import atomic_store
from topwork_server.errors import ExportFailed
from topwork_server.models import fingerprint
from topwork_server.plugin_api.encoder import Trunk
from topwork_server.types import Adapter, TunedWeights

if TYPE_CHECKING:
    import torch


def load(name: str, trunk: Trunk, tuned: TunedWeights) -> None:
    """Load the tuned weights of the encoder `name`. ExportFailed where they were changed, or are an adapter of another trunk."""
    path, module = Path(tuned.path), trunk.module
    if module is None or not atomic_store.is_unchanged(path, tuned.sha256):
        raise ExportFailed(f"{path} is not what {name} was fine-tuned to", remedy="train its head again")
    if tuned.adapter is None:
        from safetensors.torch import load_file

        module.load_state_dict(load_file(path))
        return
    if tuned.adapter.below:
        load(tuned.base, trunk, tuned.adapter.below)
    _check_trunk(name, module, tuned, tuned.adapter)
    merge(module, path, tuned.adapter.config)


def merge(module: torch.nn.Module, adapter: Path, config: Mapping[str, Any]) -> None:
    """Add a LoRA adapter to the weights of a module, in its place: of each of its layers, alpha / rank * B A (Hu et al. 2021)."""
    from topwork_server.models.torch_compat import prepare_torchvision

    prepare_torchvision()  # peft imports transformers
    from peft import LoraConfig, set_peft_model_state_dict
    from peft.tuners.lora import LoraModel
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that GPT-2's layers are transposed, which peft sees by itself
        layers = LoraModel(module, LoraConfig(**config), "default")
    set_peft_model_state_dict(layers, load_file(adapter), adapter_name="default")
    layers.merge_and_unload(safe_merge=True)


def _check_trunk(name: str, module: torch.nn.Module, tuned: TunedWeights, adapter: Adapter) -> None:
    if (found := fingerprint.module_digest(module)) != adapter.trunk:
        raise ExportFailed(
            f"the adapter of {name} is of another trunk: it was learned on weights {adapter.trunk[:12]} of {tuned.base}, which"
            f" has {found[:12]} now",
            remedy=f"bring the weights of {tuned.base} back, or train the head again",
        )
