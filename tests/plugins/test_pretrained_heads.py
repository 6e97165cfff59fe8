"""Heads that pretrained nets bring: the net's own scores out of its pooled features; no part of a fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_nets import SPECS, as_on_the_hub, random_net, refusal, spec_of
from topwork_plugins.i3d.inception import LABELS, InceptionI3d, kinetics_head
from topwork_plugins.i3d.plugin import InceptionEncoder
from topwork_plugins.resnet.plugin import ResNetEncoder
from topwork_plugins.resnet.timm_nets import create
from topwork_plugins.vision.pretrained_head import classifier_of, imagenet_names
from topwork_server import EncoderSpec, Modality, NoOptions, Target, prepare_torchvision
from topwork_server.types import Array


def scores(head: Any, rows: Array) -> Array:
    found: Array = rows @ head.weight.T + head.bias
    return found


def test_imagenet_s_names_are_a_thousand_and_distinct() -> None:
    prepare_torchvision()  # as an export does before it imports timm
    names = imagenet_names()
    assert len(set(names)) == 1000
    assert (names[0], names[281], names[134], names[517]) == (
        "tench, Tinca tinca",
        "tabby, tabby cat",
        "crane (n02012849)",
        "crane (n03126707)",
    )


def test_a_timm_net_brings_its_classifier(tmp_path: Path) -> None:
    net = random_net("test_resnet")
    folder = as_on_the_hub(net, tmp_path / "net")
    trunk = ResNetEncoder.export(spec_of(folder), folder, tmp_path)
    [head] = trunk.heads
    assert (head.name, head.tap, head.target) == ("imagenet", "pooled", Target.CLASSES)
    assert (head.names, head.weight.dtype, head.bias.dtype) == (imagenet_names(), np.float32, np.float32)
    pictures = torch.randn(2, 3, 64, 64)
    assert trunk.module is not None
    with torch.no_grad():
        pooled, expected = trunk.module(pictures)[0].numpy(), net(pictures).numpy()
    np.testing.assert_allclose(scores(head, pooled), expected, rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in trunk.module.named_parameters() if "fc" in name]  # as before: no part of a fingerprint


def test_classes_without_names_make_no_head_and_listed_names_do() -> None:
    net: Any = create("test_resnet", num_classes=3)
    assert classifier_of(net, net.pretrained_cfg, (64, 64)) == ()
    [head] = classifier_of(net, {"label_names": ["a", "b", "a"]}, (64, 64))
    assert (head.name, head.names) == ("classes", ("a (0)", "b", "a (2)"))
    assert classifier_of(create("test_resnet", num_classes=0), {}, (64, 64)) == ()


def test_a_classifier_that_reads_something_else_is_left() -> None:
    class Doubled(torch.nn.Module):
        fc = torch.nn.Linear(4, 1000)

        def get_classifier(self) -> Any:
            return self.fc

        def forward_features(self, pictures: Any) -> Any:
            return pictures.mean((2, 3)).repeat(1, 2)[:, :4]

        def forward_head(self, rows: Any, pre_logits: bool = False) -> Any:
            return rows if pre_logits else self.fc(2 * rows)

    assert classifier_of(Doubled(), {}, (8, 8)) == ()


def test_inception_brings_its_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = InceptionI3d(classes=4).eval()
    path = tmp_path / "weights.pt"
    torch.save(net.state_dict(), path)
    trunk = InceptionEncoder.export(EncoderSpec("video", InceptionEncoder, f"file:{path}", Modality.VIDEO), path, tmp_path)
    [head] = trunk.heads
    assert (head.name, head.tap, head.names) == ("kinetics", "pooled", ("class 0", "class 1", "class 2", "class 3"))
    with torch.no_grad():
        *_, pooled, _, logits = net(torch.randn(2, 3, 32, 64, 64))
    np.testing.assert_allclose(scores(head, pooled.numpy()), logits.numpy(), rtol=1e-4, atol=1e-5)


def test_labels_beside_the_checkpoint_name_the_classes(tmp_path: Path) -> None:
    net, path = InceptionI3d(classes=2), tmp_path / "weights.pt"
    (tmp_path / LABELS).write_text("abseiling\nair drumming\n")
    assert kinetics_head(net, path).names == ("abseiling", "air drumming")
    (tmp_path / LABELS).write_text("abseiling\n")
    assert "names 1 classes on 1 lines; the checkpoint has 2" in refusal(lambda: kinetics_head(net, path))


@pytest.mark.weights
def test_the_moderation_net_s_classifier_is_the_published_one(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    import onnxruntime

    spec = SPECS["resnet50-thin"]
    trunk = ResNetEncoder.export(spec, assets(spec), tmp_path)
    [head] = trunk.heads
    assert (head.tap, head.names, head.weight.shape) == ("pooled", ("sfw", "nsfw"), (2, 1024))
    encoder = ResNetEncoder(spec, tmp_path)
    pictures = encoder.collate([s for p in spec.encoder.examples(spec) for s in encoder.preprocess(p, NoOptions())])["pictures"]
    assert trunk.module is not None
    with torch.no_grad():
        pooled = trunk.module(torch.from_numpy(pictures))[0].numpy()
    reference = onnxruntime.InferenceSession(assets(spec), providers=["CPUExecutionProvider"])
    expected = reference.run(None, {"input_0": np.ascontiguousarray(pictures[:, ::-1].transpose(0, 2, 3, 1))})[0]
    found = torch.from_numpy(scores(head, pooled)).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected[:, 0] > 0.5).all()  # the examples are safe for work


@pytest.mark.weights
def test_efficientnet_s_head_knows_a_cat(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    from skimage import data

    spec = SPECS["efficientnet-lite0"]
    trunk = ResNetEncoder.export(spec, assets(spec), tmp_path)
    [head] = trunk.heads
    [sample] = ResNetEncoder(spec, tmp_path).preprocess(data.chelsea(), NoOptions())
    assert trunk.module is not None
    with torch.no_grad():
        pooled = trunk.module(torch.from_numpy(sample.inputs["pictures"][None]))[0].numpy()
    best = [head.names[i] for i in scores(head, pooled)[0].argsort()[::-1][:3]]
    assert all("cat" in name for name in best), best
