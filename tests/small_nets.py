"""Picture nets for tests: random weights in folders as on the hub, and what the export makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from topwork_plugins.resnet import plugin as resnet
from topwork_plugins.resnet.plugin import ResNetEncoder
from topwork_plugins.resnet.timm_nets import create
from topwork_server import EncoderSpec, InvalidInput, NoOptions, SourceUri
from topwork_server.models.artifacts import Manifest
from topwork_server.plugin_api import example_inputs
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session
from topwork_server.types import Array

SPECS = {spec.name: spec for spec in resnet.register_encoders()}


def random_net(architecture: str, seed: int = 0, **arguments: Any) -> Any:
    """With statistics in its batch norms that are not trivial: timm begins the last of a block at zero."""
    torch.manual_seed(seed)
    net = create(architecture, **arguments)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return net


def as_on_the_hub(net: Any, folder: Path, size: int = 64, arguments: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder as timm's hub repositories are; `arguments` are the architecture's, `changes` its preprocessing's."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.clone() for name, value in net.state_dict().items()}, folder / "model.safetensors")
    preprocessing = {"input_size": [3, size, size], "crop_pct": 0.9, "interpolation": "bicubic", "license": "mit", **changes}
    config = {"architecture": net.pretrained_cfg["architecture"], "num_classes": net.num_classes, "pretrained_cfg": preprocessing}
    config |= {"model_args": arguments} if arguments else {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def spec_of(folder: Path) -> EncoderSpec:
    spec = resnet.resolve_source("small", SourceUri.parse(f"file:{folder}"))
    assert spec is not None
    return spec


class Exported:
    """The files that the export left in a folder."""

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        self.manifest = Manifest.read(folder)
        self.taps = {info.tap.name: info.tap for info in self.manifest.taps}
        self.encoder = ResNetEncoder(spec, folder)
        self.session = Session(folder / "model.onnx", threads=1)

    def pictures(self) -> Array:
        samples = [s for p in example_inputs.pictures() for s in self.encoder.preprocess(p, NoOptions())]
        return self.encoder.collate(samples)["pictures"]

    def __call__(self, pictures: Array) -> dict[str, Array]:
        return dict(zip(self.taps, self.session.run(list(self.taps), {"pictures": pictures}), strict=True))


def export(spec: EncoderSpec, assets: Path, folder: Path) -> Exported:
    folder.mkdir()
    export_encoder(spec, assets, folder)
    return Exported(spec, folder)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.remedy
    return caught.value.message
