"""Trunk.blocks of every family: each parameter in one block, bottom to top as data flows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_berts
import tiny_pictures
import torch
from small_nets import as_on_the_hub, random_net, spec_of
from topwork_plugins.bert.architectures import CHECKED
from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.i3d.inception import MIXED, InceptionI3d
from topwork_plugins.i3d.inflate import InflatedResNet
from topwork_plugins.parameter_blocks import by_prefix
from topwork_plugins.resnet.feature_taps import TappedThin, TappedTimm
from topwork_plugins.resnet.plugin import ResNetEncoder
from topwork_plugins.resnet.thin import ThinResNet
from topwork_plugins.resnet.timm_nets import create
from topwork_plugins.vision.transformers_nets import TappedTransformers
from topwork_server import EncoderSpec, Modality

Blocks = Sequence[Sequence[str]]


def named(module: Any, blocks: Blocks) -> list[list[str]]:
    """The parameters of each block, all of them; what none names is in the last."""
    found: list[list[str]] = [[] for _ in blocks]
    for name, _ in module.named_parameters():
        homes = [i for i, block in enumerate(blocks) if name.startswith(tuple(block))]
        assert len(homes) <= 1, name
        found[homes[0] if homes else -1].append(name)
    assert all(found)
    return found


def check_order(module: Any, blocks: Blocks, inputs: tuple[torch.Tensor, ...]) -> None:
    """What a block reads was computed by blocks below it: modules first run in the order of their blocks."""
    order: list[int] = []
    names = dict(module.named_parameters())
    homes = {id(names[name]): i for i, block in enumerate(named(module, blocks)) for name in block}
    for part in module.modules():
        own = [homes[id(parameter)] for parameter in part.parameters(recurse=False)]
        if own:
            part.register_forward_pre_hook(lambda *_, block=own[0]: order.append(block))
    with torch.no_grad():
        module.eval()(*inputs)
    first = list(dict.fromkeys(order))
    assert first == sorted(first) == list(range(len(blocks)))


@pytest.mark.parametrize("architecture", CHECKED)
def test_models_of_texts_have_embeddings_and_layers(architecture: str, tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", architecture)
    spec = EncoderSpec("tiny", BertEncoder, f"file:{source}", Modality.TEXT)
    (tmp_path / "out").mkdir()
    trunk = BertEncoder.export(spec, source, tmp_path / "out")
    shared = architecture == "albert"
    assert len(trunk.blocks) == 1 + (1 if shared else tiny_berts.LAYERS)
    blocks = named(trunk.module, trunk.blocks)
    assert any(re.search("embed|wte|shared", name) for name in blocks[0])
    assert not any(re.search(r"\.\d\.|final|ln_f|encoder\.norm|^encoder.layers", name) for name in blocks[0])
    ids = torch.full((1, 8), 7)
    given = [torch.ones_like(ids) if "mask" in name else ids * (name == "input_ids") for name in trunk.inputs]
    if not architecture.startswith("deberta"):  # it looks its relative positions up, and normalizes them, before its layers
        check_order(trunk.module, trunk.blocks, tuple(given))


@pytest.mark.parametrize(
    ("architecture", "count"),
    [("resnet18", 5), ("tf_efficientnet_lite0", 8), ("vit_tiny_patch16_224", 13), ("convnext_atto", 6), ("test_resnet", 5)],
)
def test_timm_nets_have_a_stem_and_stages(architecture: str, count: int) -> None:
    net: Any = create(architecture)
    net.reset_classifier(0)
    tapped = TappedTimm(net)
    blocks = tapped.blocks()
    assert len(blocks) == count
    check_order(tapped, blocks, (torch.zeros(1, 3, 224, 224),))


@pytest.mark.parametrize("kind", tiny_pictures.CONFIGS)
def test_picture_models_of_transformers_have_their_layers_or_stages(kind: str) -> None:
    tapped = TappedTransformers(tiny_pictures.random_model(kind), (tiny_pictures.SIZE, tiny_pictures.SIZE))
    blocks = tapped.blocks()
    counts = {"dinov3_convnext": 4, "levit": 4, "mobilenet_v1": 27, "pvt": 4, "pvt_v2": 4, "swiftformer": 8}
    assert len(blocks) == counts.get(kind, 3 if any(tap.name == "block.1" for tap in tapped.taps(tapped.size)) else 5)
    check_order(tapped, blocks, (torch.zeros(1, 3, *tapped.size),))


def test_thin_and_its_video_net_have_five() -> None:
    flat = TappedThin(ThinResNet())
    assert flat.blocks() == (("net.stem.",), ("net.layer1.",), ("net.layer2.",), ("net.layer3.",), ("net.layer4.",))
    check_order(flat, flat.blocks(), (torch.zeros(1, 3, 64, 64),))
    net = InflatedResNet(TappedThin(ThinResNet()))
    assert net.blocks()[-1] == ("tapped.net.layer4.",)
    check_order(net, net.blocks(), (torch.zeros(1, 3, 4, 64, 64),))


def test_inception_has_its_blocks_and_the_classifier_with_the_last() -> None:
    net = InceptionI3d(classes=5)
    blocks = named(net, net.blocks())
    assert len(blocks) == 3 + len(MIXED)
    assert {"logits.conv3d.weight", "logits.conv3d.bias"} < set(blocks[-1])
    check_order(net, net.blocks(), (torch.zeros(1, 3, 16, 32, 32),))


def test_a_trunk_says_its_blocks(tmp_path: Path) -> None:
    folder = as_on_the_hub(random_net("test_resnet"), tmp_path / "net")
    trunk = ResNetEncoder.export(spec_of(folder), folder, tmp_path)
    assert trunk.blocks == (("net.conv1.", "net.bn1."), *((f"net.layer{n}.",) for n in range(1, 5)))


def test_prefixes_are_as_short_as_they_may_be() -> None:
    groups = [["token", "stem.a.weight"], ["stem.b.weight", "stem.b.bias", "layer.0.x.weight"], ["layer.1.x.weight", "layer.1.s"]]
    assert by_prefix(groups) == (("token", "stem.a."), ("stem.b.", "layer.0."), ("layer.1.",))
