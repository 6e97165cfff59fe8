"""Taps against timm in torch, weights that are refused, and the two packaged nets with their real weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from topwork_plugins import resnet
from topwork_plugins.resnet import LAYERS, ResNetEncoder
from topwork_plugins.resnet_taps import TappedTimm
from topwork_plugins.resnet_thin import ThinResNet, convolutions_of, load_resnet_thin
from topwork_plugins.resnet_timm import create, load_in_order, load_timm
from topwork_server import EncoderSpec, InvalidInput, NoOptions, Source, examples, fingerprint
from topwork_server.artifacts import Manifest
from topwork_server.export import export_encoder
from topwork_server.session import Session
from topwork_server.types import Array

SPECS = {spec.name: spec for spec in resnet.register_encoders()}
ON_THE_HUB = [name for name, spec in SPECS.items() if spec.source.startswith("timm:")]
POOLED = [f"{name}.pooled" for name in LAYERS]
CATS = range(281, 286)  # ImageNet's tabby, tiger cat, Persian, Siamese, Egyptian cat


def random_net(architecture: str, seed: int = 0) -> Any:
    """With statistics in its batch norms that are not trivial: timm begins the last of a block at zero."""
    torch.manual_seed(seed)
    net = create(architecture)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return net


def as_on_the_hub(net: Any, folder: Path, size: int = 64, **changes: Any) -> Path:
    """A folder as timm's hub repositories are."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    preprocessing = {"input_size": [3, size, size], "crop_pct": 0.9, "interpolation": "bicubic", "license": "mit", **changes}
    config = {"architecture": net.pretrained_cfg["architecture"], "num_classes": 1000, "pretrained_cfg": preprocessing}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def spec_of(folder: Path) -> EncoderSpec:
    spec = resnet.adopt_source("small", Source.parse(f"file:{folder}"))
    assert spec is not None
    return spec


class Exported:
    def __init__(self, spec: EncoderSpec, assets: Path, folder: Path) -> None:
        folder.mkdir()
        self.manifest: Manifest = export_encoder(spec, assets, folder)
        self.taps = {info.tap.name: info.tap for info in self.manifest.taps}
        self.encoder = ResNetEncoder(spec, folder)
        self.session = Session(folder / "model.onnx", threads=1)

    def pictures(self) -> Array:
        samples = [s for p in examples.pictures() for s in self.encoder.preprocess(p, NoOptions())]
        return self.encoder.collate(samples)["pictures"]

    def __call__(self, pictures: Array) -> dict[str, Array]:
        return dict(zip(self.taps, self.session.run(list(self.taps), {"pictures": pictures}), strict=True))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Exported]:
    """timm's own small ResNet for tests, exported, and the net in torch."""
    place = tmp_path_factory.mktemp("small")
    net = random_net("test_resnet")
    folder = as_on_the_hub(net, place / "hub")
    return net, Exported(spec_of(folder), folder, place / "artifact")


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


def test_a_net_without_stages_has_pooled_alone() -> None:
    net: Any = create("vit_tiny_patch16_224", img_size=32)
    tapped = TappedTimm(net)
    assert [tap.name for tap in tapped.taps((32, 32))] == ["pooled"]
    pictures = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(tapped(pictures)[0], net.forward_head(net.forward_features(pictures), pre_logits=True))


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
    assert config.license.lower() == SPECS[name].licence.lower()
    assert config.input_size == (3, 224, 224)


def test_the_moderation_net_says_so() -> None:
    assert "content moderation" in SPECS["resnet50-thin"].trained_on


def test_sources_that_are_adopted(tmp_path: Path) -> None:
    def adopt(uri: str, family: str = "") -> EncoderSpec | None:
        return resnet.adopt_source("mine", Source.parse(uri, family))

    folder = as_on_the_hub(random_net("test_resnet"), tmp_path / "net")
    adopted = adopt(f"file:{folder}")
    assert adopted is not None
    assert (adopted.name, adopted.source, adopted.licence) == ("mine", f"file:{folder}", "mit")
    assert adopt("timm:resnet34.a1_in1k") is not None
    assert adopt("hf:timm/resnet34.a1_in1k") is not None
    assert adopt("hf:someone/their-resnet", "resnet") is not None
    assert adopt("hf:bert-base-uncased") is None
    assert adopt("timm:resnet34.a1_in1k", "bert") is None
    assert adopt(f"file:{tmp_path}") is None
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert adopt(f"file:{tmp_path}") is None


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.remedy
    return caught.value.message


def test_folders_that_hold_no_net_are_refused(tmp_path: Path) -> None:
    folder = as_on_the_hub(random_net("test_resnet"), tmp_path)
    config, weights = folder / "config.json", folder / "model.safetensors"
    written = config.read_text()
    config.write_text(written.replace("test_resnet", "resnet_of_nobody"))
    assert "resnet_of_nobody" in refusal(lambda: load_timm(folder))
    for other in ("test_vit", "resnet10t"):
        config.write_text(written.replace("test_resnet", other))
        assert "another net" in refusal(lambda: load_timm(folder))
    config.write_text(written.replace("1000", "10"))
    assert "torch.Size([1000]" in refusal(lambda: load_timm(folder))
    config.write_text(written)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be read" in refusal(lambda: load_timm(folder))
    weights.unlink()
    assert "holds none of" in refusal(lambda: load_timm(folder))
    config.write_text("{}")
    assert "names no architecture" in refusal(lambda: load_timm(folder))
    config.unlink()
    assert "config.json" in refusal(lambda: load_timm(folder))


def test_plain_state_dicts_load_and_pickles_never_run(tmp_path: Path) -> None:
    net = random_net("test_resnet")
    folder = as_on_the_hub(net, tmp_path / "net")
    (folder / "model.safetensors").unlink()
    torch.save(net.state_dict(), folder / "pytorch_model.bin")
    loaded, _ = load_timm(folder)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(str(tmp_path / "ran")), protocol=2))
    assert "state dict" in refusal(lambda: load_timm(folder))
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], folder / "pytorch_model.bin")
    assert "named tensors" in refusal(lambda: load_timm(folder))


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_tensors_map_in_order_or_not_at_all(tmp_path: Path) -> None:
    net = random_net("test_resnet")
    theirs = {f"their.{i}": t for i, t in enumerate(net.state_dict().values()) if t.ndim}
    torch.save(theirs, tmp_path / "net.pth")
    loaded = load_in_order("test_resnet", tmp_path / "net.pth")
    pictures = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures), net(pictures))
    first, *_, last = theirs
    torch.save({**theirs, first: theirs[first][:1]}, tmp_path / "shape.pth")
    assert f"{first} of shape.pth is (1, " in refusal(lambda: load_in_order("test_resnet", tmp_path / "shape.pth"))
    del theirs[last]
    torch.save(theirs, tmp_path / "count.pth")
    assert f"has {len(theirs)} tensors" in refusal(lambda: load_in_order("test_resnet", tmp_path / "count.pth"))


def test_a_state_dict_without_its_architecture_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    spec = resnet.adopt_source("mine", Source.parse(f"file:{tmp_path}/net.pth", "resnet"))
    assert spec is not None
    assert "which net" in refusal(lambda: ResNetEncoder.export(spec, tmp_path / "net.pth", tmp_path))


def published(net: ThinResNet, path: Path, drop: int = 0) -> dict[str, Array]:
    """A graph as Keras leaves it: each convolution, then + bias, - mean, * scale, + shift in NHWC. Returns its constants."""
    import onnx
    from onnx import helper, numpy_helper

    random, constants, nodes = np.random.default_rng(0), {}, []
    for i, (conv, _) in enumerate(list(convolutions_of(net))[drop:]):
        constants[f"kernel{i}"] = random.normal(size=tuple(conv.weight.shape)).astype(np.float32)
        nodes += [helper.make_node("Conv", [f"x{i}", f"kernel{i}"], [f"conv{i}"])]
        nodes += [helper.make_node("Transpose", [f"conv{i}"], [f"nhwc{i}"], perm=[0, 2, 3, 1])]
        value = f"nhwc{i}"
        for operation, name in (("Add", "bias"), ("Sub", "mean"), ("Mul", "scale"), ("Add", "shift")):
            constants[f"{name}{i}"] = random.uniform(0.5, 1.5, size=(1, 1, 1, conv.out_channels)).astype(np.float32)
            nodes += [helper.make_node(operation, [value, f"{name}{i}"], [f"{name}ed{i}"])]
            value = f"{name}ed{i}"
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "published", [], [], tensors)), path)
    return constants


def test_thin_weights_come_out_of_the_published_operations(tmp_path: Path) -> None:
    constants = published(ThinResNet(), tmp_path / "net.onnx")
    net = load_resnet_thin(tmp_path / "net.onnx")
    for i, (conv, norm) in enumerate(convolutions_of(net)):
        maps = torch.randn(1, conv.in_channels, 9, 9)
        kernel, *rest = (torch.from_numpy(constants[f"{name}{i}"]) for name in ("kernel", "bias", "mean", "scale", "shift"))
        bias, mean, scale, shift = (value.reshape(-1, 1, 1) for value in rest)
        # Only the first convolution reads colours: the published one in BGR, ours in RGB.
        turned = maps.flip(1) if i == 0 else maps
        expected = torch.nn.functional.conv2d(turned, kernel, stride=conv.stride, padding=conv.padding)
        with torch.no_grad():
            torch.testing.assert_close(norm(conv(maps)), (expected + bias - mean) * scale + shift, rtol=1e-4, atol=1e-3)


def test_other_graphs_are_not_taken_for_thin(tmp_path: Path) -> None:
    published(ThinResNet(), tmp_path / "short.onnx", drop=1)
    assert "52 convolutions" in refusal(lambda: load_resnet_thin(tmp_path / "short.onnx"))
    wide = ThinResNet()
    wide.layer1[0].conv1 = torch.nn.Conv2d(64, 33, 1)
    published(wide, tmp_path / "wide.onnx")
    assert "(33, 64, 1, 1)" in refusal(lambda: load_resnet_thin(tmp_path / "wide.onnx"))
    (tmp_path / "noise.onnx").write_bytes(b"\x00\x01 not a graph")
    assert "noise.onnx" in refusal(lambda: load_resnet_thin(tmp_path / "noise.onnx"))


def cosine(a: Array, b: Array) -> Array:
    a, b = a.astype(np.float64), b.astype(np.float64)
    found: Array = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return found


@pytest.mark.weights
def test_thin_reproduces_the_published_graph(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    """Torch and the graph that we serve against the feature tensor inside of the published file, on real pictures."""
    import onnx
    import onnxruntime

    spec = SPECS["resnet50-thin"]
    graph = onnx.load(assets(spec))
    graph.graph.output.append(onnx.ValueInfoProto(name="/ReduceMean_output_0"))
    reference = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    exported = Exported(spec, assets(spec), tmp_path / "artifact")
    assert tuple(exported.taps.values()) == spec.taps
    assert exported.manifest.parameters == spec.parameters
    pictures = exported.pictures()
    bgr = np.ascontiguousarray(pictures[:, ::-1].transpose(0, 2, 3, 1))
    expected = reference.run(["/ReduceMean_output_0"], {"input_0": bgr})[0]
    with torch.no_grad():
        ours = load_resnet_thin(assets(spec))(torch.from_numpy(pictures)).mean((2, 3)).numpy()
    assert np.ptp(expected) > 1
    for found in (ours, exported(pictures)["pooled"]):
        assert np.abs(found - expected).max() < 1e-3
        assert cosine(found, expected).min() > 0.99999


@pytest.mark.weights
def test_thin_prepares_pictures_as_published(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    """Squashed to 256 x 256, the middle 224 x 224, BGR minus (104, 117, 123): ours is the same in RGB."""
    spec = SPECS["resnet50-thin"]
    ResNetEncoder.export(spec, assets(spec), tmp_path)
    image = Image.open(examples.FOLDER / "coffee.jpg")
    (sample,) = ResNetEncoder(spec, tmp_path).preprocess(np.asarray(image), NoOptions())
    resized = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR), np.float32)[16:240, 16:240]
    bgr = resized[:, :, ::-1] - np.array([104, 117, 123], np.float32)
    np.testing.assert_array_equal(sample.inputs["pictures"][::-1].transpose(1, 2, 0), bgr)
    assert sample.box == (16 * 480 / 256, 16 * 320 / 256, 240 * 480 / 256, 240 * 320 / 256)


@pytest.mark.weights
def test_efficientnet_knows_a_cat(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    """`pooled` as served, read by the net's own classifier."""
    from skimage import data

    spec = SPECS["efficientnet-lite0"]
    exported = Exported(spec, assets(spec), tmp_path / "artifact")
    assert tuple(exported.taps.values()) == spec.taps
    assert exported.manifest.parameters == spec.parameters
    samples = list(exported.encoder.preprocess(data.chelsea(), NoOptions()))
    pooled = torch.from_numpy(exported(exported.encoder.collate(samples)["pictures"])["pooled"])
    net: Any = load_in_order("tf_efficientnet_lite0", assets(spec))
    with torch.no_grad():
        best = net.classifier(pooled)[0].topk(3).indices.tolist()
    assert set(best) <= set(CATS)
