"""Nets whose forward gives every tap in one pass. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput, PretrainedHead, Tap
from torch import Tensor, nn

from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.parameter_blocks import by_prefix, under
from topwork_plugins.resnet.pretrained_head import classifier_of
from topwork_plugins.resnet.taps import LAYERS, image_taps
from topwork_plugins.resnet.thin import ThinResNet, load_resnet_thin, read_classifier
from topwork_plugins.resnet.timm_nets import load_in_order, load_timm, read_config

#: As open_nsfw's own classify_nsfw.py, but for its JPEG round trip between the resize and the crop, which we leave out.
THIN = Recipe((224, 224), (256, 256), "squash", "bilinear", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), white=255.0)


class Tapped(nn.Module):
    """(batch, 3, H, W) float32 to one tensor a tap: pooled (batch, dim), layers' means, cells (batch, H' * W', dim).

    `places` says by tap where in the net a layer ends.
    """

    def __init__(self, net: nn.Module, places: Mapping[str, str]) -> None:
        super().__init__()
        self.net = net
        self.places = places

    def maps(self, pictures: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """The layers' maps (batch, dim, H', W'), and the net's own pooled output (batch, dim)."""
        raise NotImplementedError

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        maps, pooled = self.maps(pictures)
        return pooled, *(m.mean((2, 3)) for m in maps), *(m.flatten(2).transpose(1, 2) for m in maps)

    def taps(self, size: tuple[int, int]) -> tuple[Tap, ...]:
        """The taps of `forward`, in its order, for pictures of `size` (height, width)."""
        self.eval()
        with torch.no_grad():
            maps, pooled = self.maps(torch.zeros(1, 3, *size))
        layers = {name: (m.shape[1], (m.shape[2], m.shape[3])) for name, m in zip(self.places, maps, strict=True)}
        return image_taps(pooled.shape[1], layers, self.places)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """List the blocks of `Trunk.blocks`: the stem and the stages."""
        return under("net.", self._blocks())

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        raise NotImplementedError


class TappedThin(Tapped):
    """ResNet-50-thin; `pooled` is the mean over the last layer, as published."""

    net: ThinResNet

    def __init__(self, net: ThinResNet) -> None:
        super().__init__(net, {name: name for name in LAYERS})

    def maps(self, pictures: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        maps = [self.net.layer1(self.net.stem(pictures))]
        for layer in (self.net.layer2, self.net.layer3, self.net.layer4):
            maps.append(layer(maps[-1]))
        return maps, maps[-1].mean((2, 3))

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        return tuple((f"{name}.",) for name in ("stem", *LAYERS))


class TappedTimm(Tapped):
    """A module with the taps of any timm net: `pooled` is its own (`forward_head(pre_logits=True)`), a layer its last stage at
    a stride.

    A net without stages at strides 4, 8, 16 and 32 (a ViT) has `pooled` alone.
    """

    def __init__(self, net: Any) -> None:
        stages = {info["reduction"]: i for i, info in enumerate(getattr(net, "feature_info", ()))}
        whole = all(stride in stages for stride in LAYERS.values())
        self.indices = [stages[stride] for stride in LAYERS.values()] if whole else []
        modules = [net.feature_info[i]["module"] for i in self.indices]
        super().__init__(net, dict(zip(LAYERS, modules, strict=False)))

    def maps(self, pictures: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        if not self.indices:
            return [], self.net.forward_head(self.net.forward_features(pictures), pre_logits=True)  # type: ignore
        last, maps = self.net.forward_intermediates(pictures, indices=self.indices, norm=False, output_fmt="NCHW")  # type: ignore
        return maps, self.net.forward_head(last, pre_logits=True)  # type: ignore

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        """Group the layers as timm does for rates that fall from layer to layer; a net that timm does not group has none."""
        from timm.models import group_parameters

        matcher = getattr(self.net, "group_matcher", None)
        if matcher is None:
            return ()
        groups = group_parameters(self.net, matcher(coarse=True))
        return by_prefix([groups[depth] for depth in sorted(groups)])


@dataclass(frozen=True)
class Net:
    """A net with its taps, its classifier apart, what stands before it, and what names it in a fingerprint.

    `classifier` names the classifier's weights in the source; `heads` is empty where it cannot be served as a head.
    """

    module: Tapped
    recipe: Recipe
    definition: Mapping[str, Any]
    heads: tuple[PretrainedHead, ...] = ()
    classifier: tuple[str, ...] = ()

    @property
    def unused(self) -> tuple[str, ...]:
        return () if self.heads else self.classifier


def open_net(assets: Path, architecture: str | None) -> Net:
    """Open the net of a timm folder, of ResNet-50-thin's ONNX file, or of a state dict whose timm `architecture` is named."""
    if assets.suffix == ".onnx":
        net = TappedThin(load_resnet_thin(assets))
        heads = read_classifier(assets)  # its graph numbers the tensors, and does not name them
        classifier = tuple(f"{head.name}.{part}" for head in heads for part in ("weight", "bias"))
        return Net(net, THIN, {"architecture": "resnet50-thin"}, heads, classifier)
    if assets.is_dir():
        config = read_config(assets)
        definition = {"architecture": config["architecture"], "arguments": config.get("model_args") or {}}
        return _timm_net(*load_timm(assets), definition)
    if architecture is None:
        raise InvalidInput(
            f"{assets.name} does not say which net it is for",
            remedy="pull it with --set architecture=resnet50, or put it into a folder beside a config.json that says so",
        )
    other: Any = load_in_order(architecture, assets)
    return _timm_net(other, other.pretrained_cfg, {"architecture": architecture, "arguments": {}})


def _timm_net(net: Any, config: Mapping[str, Any], definition: Mapping[str, Any]) -> Net:
    from timm.data import resolve_data_config

    recipe = Recipe.from_timm(resolve_data_config(pretrained_cfg=config))
    heads = classifier_of(net, config, recipe.size)
    before = list(net.state_dict())
    net.reset_classifier(0)
    kept = set(net.state_dict())
    return Net(TappedTimm(net), recipe, definition, heads, tuple(name for name in before if name not in kept))
