"""Vision transformers and modern convolutional nets of timm: taps against what their own modules give, and as they are served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_nets import as_on_the_hub, export, random_net, refusal, spec_of
from topwork_plugins.resnet.feature_taps import TappedTimm, open_net
from topwork_plugins.vision.taps import LAYERS, map_names

VIT = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2}
SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
#: Small nets: timm's name, arguments, tokens before the patches, whether one of them is of the class.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "vit": ("vit_tiny_patch16_224", VIT, 1, True),
    "vit without a class token": ("vit_base_patch16_siglip_224", VIT, 0, False),
    "deit": ("deit_tiny_distilled_patch16_224", VIT, 2, True),
    "deit3": ("deit3_small_patch16_224", VIT, 1, True),
    "beit": ("beitv2_base_patch16_224", VIT, 1, True),
    "dinov2": ("vit_small_patch14_dinov2", {**VIT, "img_size": 56}, 1, True),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {**VIT, "img_size": 56}, 5, True),
    "dinov3": ("vit_small_patch16_dinov3", VIT, 5, True),
    "eva02": ("eva02_tiny_patch14_224", {**VIT, "img_size": 56}, 1, True),
}
STAGED: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swinv2": ("swinv2_tiny_window8_256", SWIN),
    "convnext": ("convnext_atto", CONVNEXT),
    "convnextv2": ("convnextv2_atto", CONVNEXT),
}


def maps_by_hooks(net: Any, pictures: torch.Tensor) -> list[torch.Tensor]:
    """What the modules that timm lists as features give, as they give it."""
    kept: list[torch.Tensor] = []
    parts = [net.get_submodule(info["module"]) for info in net.feature_info]
    hooks = [part.register_forward_hook(lambda _, __, out: kept.append(out)) for part in parts]
    with torch.no_grad():
        net(pictures)
    for hook in hooks:
        hook.remove()
    return kept


def taps_of(tapped: TappedTimm, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    names = [tap.name for tap in tapped.taps((pictures.shape[2], pictures.shape[3]))]
    with torch.no_grad():
        return dict(zip(names, tapped(pictures), strict=True))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformers_taps_are_its_tokens(name: str) -> None:
    architecture, arguments, before, has_class = TRANSFORMERS[name]
    net = random_net(architecture, **arguments, num_classes=0)
    pictures = torch.randn(3, 3, arguments["img_size"], arguments["img_size"])
    found = taps_of(TappedTimm(net), pictures)
    maps = ["block.1", "block.2", "patches"]
    rows = ["pooled", *(["cls"] if has_class else [])]
    assert list(found) == [*rows, *(f"{name}.pooled" for name in maps), *maps]
    with torch.no_grad():
        pooled, last = net(pictures), net.forward_features(pictures)
    torch.testing.assert_close(found["pooled"], pooled)
    torch.testing.assert_close(found["patches"], last[:, before:])
    if has_class:
        torch.testing.assert_close(found["cls"], last[:, 0])
    for name, tokens in zip(maps, maps_by_hooks(net, pictures), strict=False):
        torch.testing.assert_close(found[name], tokens[:, before:])
        torch.testing.assert_close(found[f"{name}.pooled"], tokens[:, before:].mean(1))


@pytest.mark.parametrize("name", STAGED)
def test_stages_are_layers(name: str) -> None:
    architecture, arguments = STAGED[name]
    net = random_net(architecture, **arguments, num_classes=0)
    pictures = torch.randn(2, 3, 64, 64)
    tapped = TappedTimm(net)
    found = taps_of(tapped, pictures)
    assert [tap.grid for tap in tapped.taps((64, 64)) if tap.name in LAYERS] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert list(found) == ["pooled", *(f"{layer}.pooled" for layer in LAYERS), *LAYERS]
    for layer, expected in zip(LAYERS, maps_by_hooks(net, pictures), strict=True):
        cells = expected.flatten(1, 2) if "swin" in name else expected.flatten(2).transpose(1, 2)
        torch.testing.assert_close(found[layer], cells)


def test_maps_are_named_by_their_strides() -> None:
    assert map_names([2, 4, 8, 16, 32]) == {"layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    assert map_names([4, 8, 8, 16, 32, 32]) == {"layer1": 0, "layer2": 2, "layer3": 3, "layer4": 5}
    assert map_names([16, 16]) == {"block.1": 0, "block.2": 1}
    assert map_names([16, 32, 64]) == {"stage.1": 0, "stage.2": 1, "stage.3": 2}
    assert map_names([]) == {}


@pytest.mark.parametrize("name", ["dinov2 with registers", "dinov3", "swinv2", "convnextv2"])
def test_exported_taps_are_what_timm_computes(name: str, tmp_path: Path) -> None:
    architecture, arguments, *_ = {**TRANSFORMERS, **STAGED}[name]
    size = arguments.get("img_size", 64)
    net = random_net(architecture, **arguments)
    folder = as_on_the_hub(net, tmp_path / "hub", size=size, arguments=arguments)
    exported = export(spec_of(folder), folder, tmp_path / "artifact")
    pictures = exported.pictures()
    net.reset_classifier(0)
    expected = taps_of(TappedTimm(net), torch.from_numpy(pictures))
    together, alone = exported(pictures), exported(pictures[:1])
    for tap, rows in expected.items():
        np.testing.assert_allclose(together[tap], rows, atol=2e-4, rtol=1e-3)
        np.testing.assert_allclose(alone[tap], rows[:1], atol=2e-4, rtol=1e-3)
    grids = {tap.name: tap.grid for tap in exported.taps.values() if tap.grid}
    assert grids["patches" if "dino" in name else "layer3"] == (4, 4)


def test_a_net_is_made_for_the_size_of_its_weights(tmp_path: Path) -> None:
    """timm has one architecture with weights for several sizes; the folder's pretrained_cfg says which."""
    arguments = {**VIT, "img_size": 96}
    net = random_net("vit_tiny_patch16_224", **arguments)
    del arguments["img_size"]
    folder = as_on_the_hub(net, tmp_path, size=96, arguments=arguments, fixed_input_size=True)
    assert open_net(folder, {}).recipe.size == (96, 96)


def test_another_size_interpolates_the_position_table(tmp_path: Path) -> None:
    net = random_net("vit_tiny_patch16_224", **VIT)
    folder = as_on_the_hub(net, tmp_path, size=64, arguments=VIT, fixed_input_size=True)
    opened = open_net(folder, {"size": 96})
    assert opened.recipe.size == (96, 96)
    assert opened.recipe.resize == (106, 106)  # the same share of the picture is seen
    assert {tap.grid for tap in opened.module.taps((96, 96)) if tap.grid} == {(6, 6)}
    net.set_input_size(img_size=(96, 96))
    net.reset_classifier(0)
    pictures = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(opened.module(pictures)[0], net(pictures))
    assert "100 x 100" in refusal(lambda: open_net(folder, {"size": 100}))
    assert "large" in refusal(lambda: open_net(folder, {"size": "large"}))


def test_a_net_of_one_size_and_one_of_any(tmp_path: Path) -> None:
    staged = as_on_the_hub(random_net("convnext_atto", **CONVNEXT), tmp_path / "any", arguments=CONVNEXT)
    assert open_net(staged, {"size": 96}).recipe.size == (96, 96)
    fixed = as_on_the_hub(random_net("convit_tiny", depth=1), tmp_path / "one", size=224, arguments={"depth": 1})
    assert "one size" in refusal(lambda: open_net(fixed, {"size": 96}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 10**12}, "num_classes 1000000000000, and the weights have 2"),
        ({"model_args": {"depth": 10**9}}, "model_args.depth 1000000000, and the weights have"),
        ({"model_args": {"embed_dim": 0}}, "model_args.embed_dim 0, which is no whole number above 0"),
    ],
)
def test_a_net_far_larger_than_its_weights_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = as_on_the_hub(random_net("test_vit", num_classes=2), tmp_path, size=160)
    config = json.loads((folder / "config.json").read_text()) | {"num_classes": 2} | changes
    (folder / "config.json").write_text(json.dumps(config))
    assert words in refusal(lambda: open_net(folder, {}))


def test_names_of_classes_stand_in_either_place(tmp_path: Path) -> None:
    net = random_net("test_vit", num_classes=2)
    folder = as_on_the_hub(net, tmp_path, size=160)
    config = json.loads((folder / "config.json").read_text()) | {"num_classes": 2, "label_names": ["cat", "dog"]}
    (folder / "config.json").write_text(json.dumps(config))
    [head] = open_net(folder, {}).heads
    assert (head.name, head.names) == ("classes", ("cat", "dog"))
