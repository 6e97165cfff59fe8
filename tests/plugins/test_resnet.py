"""Taps against timm in torch, specs against the nets that they speak of, and EfficientNet-Lite0 with its real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_nets import SPECS, Exported, as_on_the_hub, export, random_net, spec_of
from topwork_plugins.resnet.feature_taps import TappedTimm
from topwork_plugins.resnet.plugin import ResNetEncoder
from topwork_plugins.resnet.timm_nets import create, load_in_order
from topwork_plugins.vision.taps import LAYERS
from topwork_server import EncoderSpec, NoOptions
from topwork_server.models import fingerprint

ON_THE_HUB = [name for name, spec in SPECS.items() if spec.source.startswith("timm:")]
POOLED = [f"{name}.pooled" for name in LAYERS]
CATS = range(281, 286)  # ImageNet's tabby, tiger cat, Persian, Siamese, Egyptian cat


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Exported]:
    """timm's own small ResNet for tests, exported, and the net in torch."""
    place = tmp_path_factory.mktemp("small")
    net = random_net("test_resnet")
    folder = as_on_the_hub(net, place / "hub")
    return net, export(spec_of(folder), folder, place / "artifact")


def test_exported_taps_are_what_timm_computes(small: tuple[Any, Exported]) -> None:
    net, exported = small
    pictures = exported.pictures()
    found = exported(pictures)
    with torch.no_grad():
        last = net.forward_features(torch.from_numpy(pictures))
        pooled = net.forward_head(last, pre_logits=True)
    np.testing.assert_allclose(found["pooled"], pooled, atol=1e-5)
    np.testing.assert_allclose(found["layer4"], last.flatten(2).transpose(1, 2), atol=1e-5)
    for name in LAYERS:
        np.testing.assert_allclose(found[f"{name}.pooled"], found[name].mean(1), atol=1e-5)


def test_taps_say_what_they_are(small: tuple[Any, Exported]) -> None:
    _, exported = small
    assert list(exported.taps) == ["pooled", *POOLED, *LAYERS]
    assert [exported.taps[name].grid for name in LAYERS] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert {tap.granularity.value for name, tap in exported.taps.items() if name in LAYERS} == {"cell"}
    assert {tap.granularity.value for name, tap in exported.taps.items() if name not in LAYERS} == {"item"}
    rows = exported(exported.pictures()[:1])
    for name, tap in exported.taps.items():
        cells = () if tap.grid is None else (tap.grid[0] * tap.grid[1],)
        assert rows[name].shape == (1, *cells, tap.dim)


def test_cells_are_row_major(small: tuple[Any, Exported]) -> None:
    """A change in the picture's upper right corner is seen in the last cell of the first row, and not across the picture."""
    _, exported = small
    before = exported.pictures()[:1]
    after = before.copy()
    after[:, :, :4, -4:] += 2
    change = np.abs(exported(after)["layer1"] - exported(before)["layer1"]).sum(-1).reshape(16, 16)
    assert change.argmax() in (15, 14, 31, 30)
    assert change[8:, :8].max() == 0


def test_one_picture_gives_one_sample_with_its_box(small: tuple[Any, Exported]) -> None:
    _, exported = small
    picture = np.asarray(Image.new("RGB", (142, 71)))
    (sample,) = exported.encoder.preprocess(picture, NoOptions())
    assert sample.inputs["pictures"].shape == (3, 64, 64)
    assert sample.box == pytest.approx((39, 3.5, 103, 67.5), abs=1)


def meaning(folder: Path) -> str:
    """A fingerprint without an export."""
    trunk = ResNetEncoder.export(spec_of(folder), folder, folder)
    assert trunk.module is not None
    weights = fingerprint.module_digest(trunk.module)
    return fingerprint.fingerprint(weights, trunk.definition, trunk.preprocessing, trunk.taps[0].name)


def test_the_fingerprint_follows_weights_and_preprocessing_alone(tmp_path: Path) -> None:
    net = random_net("test_resnet")
    first = meaning(as_on_the_hub(net, tmp_path / "first"))
    assert meaning(as_on_the_hub(net, tmp_path / "elsewhere", license="apache-2.0")) == first
    assert meaning(as_on_the_hub(net, tmp_path / "crop", crop_pct=0.8)) != first
    assert meaning(as_on_the_hub(random_net("test_resnet", seed=1), tmp_path / "weights")) != first


@pytest.mark.parametrize("architecture", ["resnet18", "resnext50_32x4d", "wide_resnet50_2", "tf_efficientnet_lite0"])
def test_layers_are_timms_own_features(architecture: str) -> None:
    """timm's `features_only` nets find the same stages by another way."""
    import timm

    net = random_net(architecture)
    features = timm.create_model(architecture, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    state = net.state_dict()
    missing, _ = features.load_state_dict(state, strict=False)
    assert not missing
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, pooled = features(pictures), net.forward_head(net.forward_features(pictures), pre_logits=True)
        found = TappedTimm(net)(pictures)
    torch.testing.assert_close(found[0], pooled)
    assert features.feature_info.reduction() == list(LAYERS.values())
    for mean, cells, layer in zip(found[1:5], found[5:], expected, strict=True):
        torch.testing.assert_close(mean, layer.mean((2, 3)))
        torch.testing.assert_close(cells, layer.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", [*ON_THE_HUB, "efficientnet-lite0"])
def test_listed_taps_and_parameters_are_the_nets(name: str) -> None:
    spec = SPECS[name]
    architecture = spec.settings.get("architecture") or spec.source.removeprefix("timm:").partition(".")[0]
    with torch.device("meta"):
        net: Any = create(architecture)
        net.reset_classifier(0)
        assert TappedTimm(net).taps((224, 224)) == spec.taps
    assert sum(p.numel() for p in net.parameters()) == spec.parameters


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_listed_hub_names_are_timms(name: str) -> None:
    import timm

    architecture, _, tag = SPECS[name].source.removeprefix("timm:").partition(".")
    config = timm.get_pretrained_cfg(f"{architecture}.{tag}")
    assert config is not None
    assert config.hf_hub_id == f"timm/{architecture}.{tag}"
    assert config.license.lower() == SPECS[name].license.lower()
    assert config.input_size == (3, 224, 224)


def test_the_moderation_net_says_so() -> None:
    assert "content moderation" in SPECS["resnet50-thin"].trained_on


@pytest.mark.weights
def test_efficientnet_knows_a_cat(assets: Callable[[EncoderSpec], Path], artifact: Callable[[EncoderSpec], Path]) -> None:
    """`pooled` as served, read by the net's own classifier."""
    from skimage import data

    spec = SPECS["efficientnet-lite0"]
    exported = Exported(spec, artifact(spec))
    assert tuple(exported.taps.values()) == spec.taps
    assert exported.manifest.parameters == spec.parameters
    samples = list(exported.encoder.preprocess(data.chelsea(), NoOptions()))
    pooled = torch.from_numpy(exported(exported.encoder.collate(samples)["pictures"])["pooled"])
    net: Any = load_in_order("tf_efficientnet_lite0", assets(spec))
    with torch.no_grad():
        best = net.classifier(pooled)[0].topk(3).indices.tolist()
    assert set(best) <= set(CATS)
