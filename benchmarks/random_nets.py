"""Large nets with random weights, for speed alone: a ResNet-50 and the Inception I3D, exported as anybody's files would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from topwork_server.models.catalog import Catalog, CatalogEntry
from topwork_server.plugin_api.plugin_registry import PluginRegistry


def _resnet50() -> Any:
    from topwork_server.models import torch_compat

    torch_compat.prepare_torchvision()
    import timm

    return timm.create_model("resnet50", zero_init_last=False).state_dict()


def _i3d() -> Any:
    """As the published files are: written before batch norms counted their steps."""
    from topwork_plugins.i3d.inception import InceptionI3d

    return {k: v for k, v in _lively(InceptionI3d(3)).state_dict().items() if not k.endswith("num_batches_tracked")}


def _lively(net: Any) -> Any:
    """Random batch norms that let a signal through all layers; at the usual start it fades to nothing."""
    from torch import nn

    for part in net.modules():
        if isinstance(part, nn.BatchNorm3d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.1, 0.5)
    return net


#: Weights, the family that reads them, and its settings.
NETS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "resnet50": (_resnet50, "resnet", {"architecture": "resnet50"}),
    "i3d": (_i3d, "i3d", {}),
}


def exported(home: Path, name: str) -> CatalogEntry:
    """The net as an encoder of this home, NAME-random; made where it is not there yet."""
    import torch

    home.mkdir(parents=True, exist_ok=True)
    there = Catalog(PluginRegistry.load(), home)
    if f"{name}-random" in there.names() and (entry := there.entry(f"{name}-random")).folder:
        return entry

    torch.manual_seed(0)
    weights, family, settings = NETS[name]
    path = home / f"{name}.pt"
    torch.save(weights(), path)
    catalogue = Catalog(PluginRegistry.load(), home)
    catalogue.add(f"file:{path}", f"{name}-random", family, settings)
    catalogue.export(f"{name}-random")
    return catalogue.entry(f"{name}-random")
