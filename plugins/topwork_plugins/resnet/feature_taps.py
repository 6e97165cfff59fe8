"""Nets whose forward gives every tap in one pass. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput, PretrainedHead
from torch import Tensor

from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.parameter_blocks import by_prefix
from topwork_plugins.resnet.thin import ThinResNet, load_resnet_thin, read_classifier
from topwork_plugins.resnet.timm_nets import load_in_order, load_timm, read_config, set_size
from topwork_plugins.vision.pretrained_head import classifier_of
from topwork_plugins.vision.tapped import Outputs, Tapped
from topwork_plugins.vision.taps import LAYERS, PATCHES, map_names

#: As open_nsfw's own classify_nsfw.py, but for its JPEG round trip between the resize and the crop, which we leave out.
THIN = Recipe((224, 224), (256, 256), "squash", "bilinear", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), white=255.0)


class TappedThin(Tapped):
    """ResNet-50-thin; `pooled` is the mean over the last layer, as published."""

    net: ThinResNet

    def __init__(self, net: ThinResNet) -> None:
        super().__init__(net, {name: name for name in LAYERS})

    def outputs(self, pictures: Tensor) -> Outputs:
        maps = [self.net.layer1(self.net.stem(pictures))]
        for layer in (self.net.layer2, self.net.layer3, self.net.layer4):
            maps.append(layer(maps[-1]))
        return Outputs({"pooled": maps[-1].mean((2, 3))}, dict(zip(LAYERS, maps, strict=True)))

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        return tuple((f"{name}.",) for name in ("stem", *LAYERS))


class TappedTimm(Tapped):
    """A module with the taps of any timm net: `pooled` is its own (`forward_head(pre_logits=True)`), maps are its own features
    (`map_names` says which), and of a ViT `cls` and `patches`, its tokens after the last norm.

    Tokens that stand before the patches (class, distillation, registers) are in no map.
    """

    def __init__(self, net: Any) -> None:
        stages = list(getattr(net, "feature_info", None) or ()) if hasattr(net, "forward_intermediates") else []
        self.indices = map_names([stage["reduction"] for stage in stages])
        places = {name: stages[i]["module"] for name, i in self.indices.items()}
        super().__init__(net, places | {PATCHES: "the net's last norm"})

    def outputs(self, pictures: Tensor) -> Outputs:
        net: Any = self.net
        if not self.indices:
            return Outputs({"pooled": net.forward_head(net.forward_features(pictures), pre_logits=True)}, {})
        wanted = list(self.indices.values())
        last, found = net.forward_intermediates(pictures, indices=wanted, norm=False, output_fmt="NCHW")
        rows, maps = {"pooled": net.forward_head(last, pre_logits=True)}, dict(zip(self.indices, found, strict=True))
        if "block.1" not in maps or last.ndim != 3:
            return Outputs(rows, maps)
        grid = found[-1].shape[2:]
        before = last.shape[1] - grid.numel()
        if getattr(net, "cls_token", None) is not None and before:
            rows["cls"] = last[:, 0]
        return Outputs(rows, maps | {PATCHES: last[:, before:].transpose(1, 2).unflatten(2, grid)})

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        """Group the layers as timm does for rates that fall from layer to layer; a net that timm does not group has none."""
        from timm.models import group_parameters

        try:
            groups = group_parameters(self.net, self.net.group_matcher(coarse=True))  # type: ignore[operator]
        except (AttributeError, AssertionError):  # it has none, or none of stages
            return ()
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


def open_net(assets: Path, settings: Mapping[str, Any]) -> Net:
    """Open the net of a timm folder, of ResNet-50-thin's ONNX file, or of a state dict whose timm architecture is named.

    `settings` may hold `architecture`, and `size`: the height and width of the net's input, in pixels.
    """
    size, architecture = settings.get("size"), settings.get("architecture")
    if assets.suffix == ".onnx":
        if size is not None:
            raise InvalidInput(f"{assets.name} reads pictures of one size", remedy="leave the setting size away")
        net = TappedThin(load_resnet_thin(assets))
        heads = read_classifier(assets)  # its graph numbers the tensors, and does not name them
        classifier = tuple(f"{head.name}.{part}" for head in heads for part in ("weight", "bias"))
        return Net(net, THIN, {"architecture": "resnet50-thin"}, heads, classifier)
    if assets.is_dir():
        config = read_config(assets)
        if architecture not in (None, config["architecture"]):
            raise InvalidInput(
                f"{assets.name} is a {config['architecture']} (config.json), and the setting architecture is {architecture}",
                remedy="leave it away",
            )
        definition = {"architecture": config["architecture"], "arguments": config.get("model_args") or {}}
        return _timm_net(*load_timm(assets), definition, size)
    if architecture is None:
        raise InvalidInput(
            f"{assets.name} does not say which net it is for",
            remedy="pull it with --set architecture=resnet50, or put it into a folder beside a config.json that says so",
        )
    other: Any = load_in_order(architecture, assets)
    return _timm_net(other, other.pretrained_cfg, {"architecture": architecture, "arguments": {}}, size)


def _timm_net(net: Any, config: Mapping[str, Any], definition: Mapping[str, Any], size: int | None) -> Net:
    from timm.data import resolve_data_config

    if size is not None:
        set_size(net, size)
        config = {**config, "input_size": (3, size, size)}
    recipe = Recipe.from_timm(resolve_data_config(pretrained_cfg=config))
    heads = classifier_of(net, config, recipe.size)
    before = list(net.state_dict())
    net.reset_classifier(0)
    kept = set(net.state_dict())
    return Net(TappedTimm(net), recipe, definition, heads, tuple(name for name in before if name not in kept))
