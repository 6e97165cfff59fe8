"""The same trunk with random weights: an encoder of its own in the catalog, served like any other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.encoder import Encoder, Trunk
from topwork_server.runtime import parity
from topwork_server.runtime.export import open_trunk

#: What transformers draws its weights with.
DEVIATION = 0.02


def random_encoder(catalog: Catalog, base: str, seed: int = 0) -> str:
    """The name of `base` with random weights, made where it is not there yet. Its batch norms know the means of real inputs."""
    name = f"{base}-random-{seed}"
    if name in catalog.fine_tuned():
        return name
    from safetensors.torch import save_file

    spec = catalog.spec(base)
    with tempfile.TemporaryDirectory() as scratch:
        trunk = open_trunk(spec, sources.fetch(catalog.source(base), catalog.home, spec.sha256), Path(scratch))
        randomize(trunk.module, seed)
        settle(trunk, spec.encoder(spec, Path(scratch)))
        assert trunk.module is not None, "a network in torch"
        state = {key: tensor.clone().contiguous() for key, tensor in trunk.module.state_dict().items()}
        save_file(state, Path(scratch) / "state.safetensors")
        catalog.add_fine_tuned(
            name, base, Path(scratch) / "state.safetensors", spec.default_tap, "nothing: its weights are random"
        )
    return name


def randomize(module: Any, seed: int) -> None:
    """Convolutions as He et al. 2015, all else that multiplies from a normal distribution, norms and biases as they begin."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=DEVIATION)
        elif hasattr(part, "reset_parameters"):
            part.reset_parameters()
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def settle(trunk: Trunk, encoder: Encoder) -> None:
    """Settle a net's statistics: without those of its own inputs, a deep net of random weights gives zeros or infinities."""
    import torch
    from torch import nn

    assert trunk.module is not None, "a network in torch"
    norms = [part for part in trunk.module.modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad():
        for batch in parity.example_batches(encoder, trunk.examples or encoder.examples(encoder.spec)) if norms else ():
            trunk.module(*(torch.from_numpy(batch.feeds[name]) for name in trunk.inputs))
    trunk.module.eval()
