"""ResNet-50-thin against the operations of the published graph, and against the graph itself with its real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_nets import SPECS, Exported, refusal
from topwork_plugins.resnet.plugin import ResNetEncoder
from topwork_plugins.resnet.thin import ThinResNet, convolutions_of, load_resnet_thin
from topwork_server import EncoderSpec, NoOptions
from topwork_server.plugin_api import example_inputs
from topwork_server.types import Array


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
        # Only the first convolution reads colors: the published one in BGR, ours in RGB.
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
def test_thin_reproduces_the_published_graph(
    assets: Callable[[EncoderSpec], Path], artifact: Callable[[EncoderSpec], Path]
) -> None:
    """Torch and the graph that we serve against the feature tensor inside of the published file, on real pictures."""
    import onnx
    import onnxruntime

    spec = SPECS["resnet50-thin"]
    graph = onnx.load(assets(spec))
    graph.graph.output.append(onnx.ValueInfoProto(name="/ReduceMean_output_0"))
    reference = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    exported = Exported(spec, artifact(spec))
    assert tuple(exported.taps.values()) == spec.taps
    assert exported.manifest.parameters == spec.parameters
    pictures = exported.pictures()[:3]
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
    image = Image.open(example_inputs.FOLDER / "coffee.jpg")
    (sample,) = ResNetEncoder(spec, tmp_path).preprocess(np.asarray(image), NoOptions())
    resized = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR), np.float32)[16:240, 16:240]
    bgr = resized[:, :, ::-1] - np.array([104, 117, 123], np.float32)
    np.testing.assert_array_equal(sample.inputs["pictures"][::-1].transpose(1, 2, 0), bgr)
    assert sample.box == (16 * 480 / 256, 16 * 320 / 256, 240 * 480 / 256, 240 * 320 / 256)
