"""Models of transformers out of local folders, with all of their weights or not at all. Export process only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import nn

from topwork_plugins.config_checks import APART, check_config, check_known
from topwork_plugins.json_files import code_refusal, own_code, read_json
from topwork_plugins.weight_files import check_whole, counted, is_of_file, refuse_misfits, unreadable, weights_of

#: Tables that checkpoints hold and transformers computes.
_NO_WEIGHT = re.compile(r"position_ids$|token_type_ids$|inv_freq$|attn\.(masked_)?bias$")


def from_pretrained(folder: Path, kind: str, attention: str | None = "eager") -> tuple[Any, Mapping[str, Any]]:
    """Load the fp32 model of a folder by a class of transformers, with its report of the weights, which `refuse_gaps` checks.
    `attention` is transformers' implementation; None: its own choice. InvalidInput where it cannot be read; nothing is unpickled,
    and no code of the folder runs."""
    import transformers

    weights = weights_of(folder)
    for path in weights:
        check_whole(path)
    check_config(folder, weights, partial(_network, folder, kind))
    try:
        model, report = getattr(transformers, kind).from_pretrained(
            folder,
            attn_implementation=attention,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, by name; `refuse_gaps` refuses them
        )
    except MemoryError:
        raise
    except Exception as error:  # a wrong value in config.json fails wherever it is used
        if weights and is_of_file(error):
            raise unreadable(weights[0], error) from error
        code = own_code(read_json(folder / "config.json"))
        if code and "trust_remote_code" in str(error):  # transformers' own words tell to let it run
            raise code_refusal(folder.name, code) from error
        check_known(folder / "config.json", error)
        raise InvalidInput(
            f"the model in {folder.name} could not be read: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            remedy="it should hold config.json and model.safetensors (or pytorch_model.bin), as the hub has them",
        ) from error
    return model, report


def _network(folder: Path, kind: str) -> nn.Module:
    """Build the network of a folder by a class of transformers, with random weights."""
    import transformers

    maker = getattr(transformers, kind)
    with torch.device("cpu"):  # tensors of modules that are imported here stay, on whichever device the network is built
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        getattr(maker, "_model_mapping", {}).get(type(config), None)
    network: nn.Module = maker.from_config(config) if hasattr(maker, "from_config") else maker(config)
    return network


def remarks_on(config: Mapping[str, Any], model: Any) -> tuple[str, ...]:
    """Tell which class computes a model whose config.json names code of its own."""
    code = own_code(config)
    if not code:
        return ()
    return (f"code of the folder (auto_map in config.json: {code}) is never run: {type(model).__name__} of transformers is used",)


def refuse_gaps(folder: Path, report: Mapping[str, Any], spare: str = r"^pooler\.") -> None:
    """Raise InvalidInput for missing weights, which transformers fills with random numbers, unless `spare` is in their names; and
    for those of other shapes."""
    missing = [key for key in map(str, report["missing_keys"]) if not re.search(spare, key)]
    refuse_misfits(folder.name, missing, report["mismatched_keys"], (), APART)


def without_place(folder: Path, model: Any, report: Mapping[str, Any]) -> list[str]:
    """List the weights that the model has no place for. InvalidInput for layers beyond those of config.json: they would silently
    not be computed."""
    unused = [key for key in map(str, report["unexpected_keys"]) if not _NO_WEIGHT.search(key)]
    stacks = [name for name, part in model.base_model.named_modules() if isinstance(part, nn.ModuleList)]
    surplus = [key for key in unused if any(re.search(rf"(^|\.){re.escape(stack)}\.\d+\.", key) for stack in stacks)]
    if surplus:
        raise InvalidInput(
            f"{folder.name} has {counted(surplus)} of layers that its config.json does not have, among them"
            f" {', '.join(surplus[:3])}",
            remedy=APART,
        )
    return unused
