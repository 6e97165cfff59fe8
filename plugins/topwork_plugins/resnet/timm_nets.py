"""timm nets out of files on this disk. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput, prepare_torchvision
from torch import Tensor, nn

from topwork_plugins import json_files
from topwork_plugins.config_checks import check_config
from topwork_plugins.weight_files import NAMES, misshapen, read_tensors, refuse_misfits


def load_timm(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The net of a folder as timm's hub repositories have it, in evaluation mode, and its pretrained_cfg.

    config.json names the `architecture`, and may hold `num_classes`, `model_args` and `pretrained_cfg`.
    InvalidInput where timm knows no such architecture, or the weights are of another.
    """
    config = read_config(folder)
    facts, arguments = pretrained_config(config), dict(config.get("model_args") or {})
    if config.get("num_classes") is not None:
        arguments["num_classes"] = config["num_classes"]
    # A net that reads one size of picture is made for that of its weights, which may differ from the architecture's.
    made_for = {key: facts[key] for key in ("input_size", "fixed_input_size") if facts.get(key) is not None}
    build = partial(create, config["architecture"], pretrained_cfg_overlay=made_for, **arguments)
    if arguments:
        check_config(folder, [path for path in [_weights_in(folder)] if path], build)
    net = build()
    _load(net, read_weights(folder), folder.name)
    return net, {**net.pretrained_cfg, **facts}  # type: ignore[dict-item]


def load_in_order(architecture: str, path: Path) -> nn.Module:
    """A net whose file names its tensors otherwise than timm, but has them in timm's order.

    InvalidInput where the count or any tensor's shape differs. BatchNorm's step counters are left out on both sides.
    """
    net = create(architecture)
    ours, theirs = _named(net.state_dict()), _named(read_tensors(path))
    if len(ours) != len(theirs):
        raise InvalidInput(f"{path.name} has {len(theirs)} tensors, {architecture} {len(ours)}", remedy="use its own weights")
    for name, source in zip(ours, theirs, strict=True):
        if ours[name].shape != theirs[source].shape:
            raise InvalidInput(
                f"{source} of {path.name} is {tuple(theirs[source].shape)}, {name} of {architecture} is"
                f" {tuple(ours[name].shape)}",
                remedy="use this architecture's weights",
            )
    _load(net, dict(zip(ours, theirs.values(), strict=True)), path.name)
    return net


def create(architecture: str, **arguments: Any) -> nn.Module:
    """A timm net with random weights, in evaluation mode; nothing is downloaded."""
    with torch.device("cpu"):  # tensors of modules that are imported here stay, on whichever device the net is built
        prepare_torchvision()
        import timm

    if not timm.is_model(architecture):
        raise InvalidInput(f"timm {timm.__version__} has no {architecture!r}", remedy="see timm.list_models()")
    net: nn.Module = timm.create_model(architecture, pretrained=False, **arguments)
    return net.eval()


def read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json_files.load(folder / "config.json")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{folder} has no config.json that can be read: {error}", remedy="give a folder as timm's hub repositories are"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise InvalidInput(f"config.json of {folder.name} names no architecture", remedy='write {"architecture": "resnet50"}')
    return config


def pretrained_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm once wrote these fields beside `architecture`, and now below `pretrained_cfg`; names of classes in either place."""
    facts = dict(config.get("pretrained_cfg", config))
    names = facts.get("label_names") or config.get("label_names") or facts.get("labels")
    return {**facts, "label_names": names} if names else facts


def set_size(net: Any, size: int) -> None:
    """Make a net read pictures of size x size pixels: position tables are interpolated. InvalidInput where it cannot."""
    patch = max(getattr(getattr(net, "patch_embed", None), "patch_size", (1,)))
    try:
        if not isinstance(size, int) or size < 1 or size % patch:
            raise ValueError(f"a multiple of {patch} is needed")
        if hasattr(net, "set_input_size"):
            net.set_input_size(img_size=(size, size))
        elif net.pretrained_cfg.get("fixed_input_size"):
            raise ValueError("it reads one size alone")
        with torch.no_grad():
            net.forward_features(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["it does not fit"])[0]
        raise InvalidInput(
            f"the net cannot read pictures of {size} x {size} pixels: {reason}",
            remedy="leave the setting size away, or take a multiple of the net's patches",
        ) from error


def _weights_in(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).exists()), None)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the first file of NAMES that is there; it is never unpickled."""
    path = _weights_in(folder)
    if path is None:
        raise InvalidInput(f"{folder} holds none of {', '.join(NAMES)}", remedy="copy the weights beside config.json")
    return read_tensors(path)


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _load(net: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """BatchNorm's step counters may be missing; nothing else may."""
    wanted = net.state_dict()
    missing = [key for key in wanted.keys() - state.keys() if not key.endswith("num_batches_tracked")]
    remedy = "use this architecture's weights"
    refuse_misfits(f"the file of weights of {name}", missing, misshapen(wanted, state), state.keys() - wanted.keys(), remedy)
    net.load_state_dict(dict(state), strict=False)
