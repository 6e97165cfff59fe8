"""Picture models of transformers as they are served, against what their own modules give, on small random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pictures as tiny
import torch
from topwork_plugins.vision.layout import PROCESSORS, read_layout
from topwork_plugins.vision.plugin import VisionEncoder
from topwork_plugins.vision.taps import LAYERS
from topwork_plugins.vision.transformers_nets import open_model
from topwork_server import EncoderSpec, Modality, NoOptions
from topwork_server.models.artifacts import Manifest
from topwork_server.plugin_api import example_inputs
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session

#: The modules whose outputs are the maps; of the others the model's own `hidden_states` are.
BLOCKS = {
    **dict.fromkeys(("beit", "deit", "ijepa", "vit", "vit_mae", "vit_msn"), "layers"),
    **dict.fromkeys(("data2vec-vision", "dinov2", "dinov2_with_registers"), "encoder.layer"),
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), "encoder.layers"),
    "dinov3_vit": "model.layer",
}
STAGES = {
    **{key: [f"encoder.stages.{n}" for n in range(4)] for key in ("convnext", "convnextv2", "regnet", "resnet")},
    **{key: [f"encoder.layers.{n}.blocks.{last}" for n, last in enumerate((0, 0, 1, 0))] for key in ("swin", "swinv2")},
    "dinov3_convnext": [f"model.stages.{n}" for n in range(4)],
    "focalnet": [f"encoder.stages.{n}.layers.0" for n in range(4)],
    "mobilenet_v1": [f"layer.{n}" for n in (5, 9, 21, 25)],
}
WITHOUT_CLASS_TOKEN = ("ijepa", "siglip_vision_model")


def own_maps(model: Any, kind: str, run: Any) -> list[torch.Tensor]:
    """The maps as the modules give them: tokens (batch, cells, dim), row by row."""
    names = [f"{BLOCKS[kind]}.{n}" for n in range(2)] if kind in BLOCKS else STAGES[kind]
    kept: list[torch.Tensor] = []
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    run()
    return [m.flatten(2).transpose(1, 2) if m.ndim == 4 else m for m in kept]


def own_outputs(model: Any, kind: str, pictures: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
    arguments: dict[str, Any] = {"output_hidden_states": True}
    if kind == "vit_mae":
        model.config.mask_ratio = 0.0
        arguments["noise"] = torch.arange(16.0).expand(len(pictures), -1)
    found: list[Any] = []
    with torch.no_grad():
        if kind in BLOCKS or kind in STAGES:
            maps = own_maps(model, kind, lambda: found.append(model(pixel_values=pictures, **arguments)))
        else:
            found.append(model(pixel_values=pictures, **arguments))
            maps = list(found[0].get("reshaped_hidden_states") or found[0].hidden_states)
    return found[0], maps


def spec_of(folder: Path, **settings: Any) -> EncoderSpec:
    return EncoderSpec("tiny", VisionEncoder, f"file:{folder}", Modality.IMAGE, settings=settings)


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_exported_taps_are_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    model = tiny.random_model(kind)
    folder = tiny.write(model, tmp_path / "model")
    spec, artifact = spec_of(folder), tmp_path / "artifact"
    artifact.mkdir()
    export_encoder(spec, folder, artifact)
    encoder, session = VisionEncoder(spec, artifact), Session(artifact / "model.onnx", threads=1)
    taps = {info.tap.name: info.tap for info in Manifest.read(artifact).taps}
    pictures = encoder.collate([s for p in example_inputs.pictures()[:3] for s in encoder.preprocess(p, NoOptions())])["pictures"]
    found = dict(zip(taps, session.run(list(taps), {"pictures": pictures}), strict=True))
    alone = dict(zip(taps, session.run(list(taps), {"pictures": pictures[1:2]}), strict=True))
    expected = expected_taps(model, kind, torch.from_numpy(pictures))
    assert set(expected) == {name for name in taps if "." not in name or not name.endswith(".pooled")}
    for name, rows in expected.items():
        scale = float(rows.abs().max())
        np.testing.assert_allclose(found[name], rows, atol=2e-4 * scale, err_msg=name)
        np.testing.assert_allclose(alone[name], rows[1:2], atol=2e-4 * scale, err_msg=name)
        if taps[name].grid:
            np.testing.assert_allclose(found[f"{name}.pooled"], rows.mean(1), atol=2e-4 * scale)


def expected_taps(model: Any, kind: str, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every tap but the means over maps, as transformers gives them."""
    found, maps = own_outputs(model, kind, pictures)
    last = found.last_hidden_state
    pooler = found.get("pooler_output")
    if kind in BLOCKS:
        rows = {} if kind in WITHOUT_CLASS_TOKEN else {"cls": last[:, 0]}
        mean = last.mean(1)
        maps = [m[:, -16:] for m in [*maps, last]]
        names = ["block.1", "block.2", "patches"]
    else:
        rows, mean = {}, last.mean((2, 3)) if last.ndim == 4 else last.mean(1)
        maps = staged(kind, maps)
        names = [f"stage.{n + 1}" for n in range(len(maps))] if kind == "levit" else list(LAYERS)
    pooled = pooler.flatten(1) if pooler is not None else last[:, 0] if kind == "pvt" else rows.get("cls", mean)
    return {"pooled": pooled, **rows, **dict(zip(names, maps, strict=True))}


def staged(kind: str, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Cells row by row of the maps of a net in stages."""
    if kind == "hiera":
        maps = [m.permute(0, 3, 1, 2) for m in maps[1:]]
    if kind == "swiftformer":  # each stage and what makes it smaller
        maps = maps[1::2]
    if kind == "pvt":  # the last stage before and after its norm, with a class token
        maps = [*maps[:3], maps[4][:, 1:]]
    return [m.flatten(2).transpose(1, 2) if m.ndim == 4 else m for m in maps]


def test_every_known_architecture_is_compared() -> None:
    assert set(PROCESSORS) == set(tiny.CONFIGS)


CLASSIFIERS = {
    "beit": "BeitForImageClassification",
    "convnextv2": "ConvNextV2ForImageClassification",
    "deit": "DeiTForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "ijepa": "IJepaForImageClassification",
    "resnet": "ResNetForImageClassification",
    "swinv2": "Swinv2ForImageClassification",
    "vit": "ViTForImageClassification",
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_is_a_head_on_what_it_reads(kind: str, tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "cat"}
    model = tiny.random_model(kind, CLASSIFIERS[kind], id2label=names)
    opened = open_model(read_layout(tiny.write(model, tmp_path)), (tiny.SIZE, tiny.SIZE))
    [head] = opened.heads
    assert (head.name, head.tap, head.names) == ("classes", "pooled", ("cat (0)", "dog", "cat (2)"))
    assert opened.unused == ()
    pictures = torch.randn(2, 3, tiny.SIZE, tiny.SIZE)
    with torch.no_grad():
        scores, pooled = model(pixel_values=pictures).logits.numpy(), opened.tapped(pictures)[0].numpy()
    np.testing.assert_allclose(pooled @ head.weight.T + head.bias, scores, atol=1e-4 * np.abs(scores).max())


def test_classifiers_that_are_no_head_are_named(tmp_path: Path) -> None:
    nameless = tiny.write(tiny.random_model("vit", "ViTForImageClassification"), tmp_path / "nameless")
    opened = open_model(read_layout(nameless), (tiny.SIZE, tiny.SIZE))
    assert (opened.heads, opened.unused) == ((), ("classifier.bias", "classifier.weight"))
    teacher = tiny.random_model("deit", "DeiTForImageClassificationWithTeacher", id2label={0: "cat", 1: "dog"})
    opened = open_model(read_layout(tiny.write(teacher, tmp_path / "teacher")), (tiny.SIZE, tiny.SIZE))
    assert opened.heads == ()
    assert "distillation_classifier.weight" in opened.unused


@pytest.mark.parametrize("names", [None, ["tench, Tinca tinca", *map(str, range(1, 1000))]])
def test_the_classes_of_imagenet(names: list[str] | None, tmp_path: Path) -> None:
    id2label = dict(enumerate(names)) if names else {n: f"LABEL_{n}" for n in range(1000)}
    model = tiny.random_model("convnext", "ConvNextForImageClassification", id2label=id2label)
    [head] = open_model(read_layout(tiny.write(model, tmp_path)), (tiny.SIZE, tiny.SIZE)).heads
    assert (head.name, head.names[0]) == ("imagenet", "tench, Tinca tinca")


def test_a_pooler_that_was_never_trained_is_not_used(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.write(tiny.random_model("vit"), tmp_path)
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    opened = open_model(read_layout(folder), (tiny.SIZE, tiny.SIZE))
    assert opened.tapped.pooling == "cls"
    assert not [name for name, _ in opened.tapped.named_parameters() if "pooler" in name]


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin", "convnext"])
def test_another_size_is_read(kind: str, tmp_path: Path) -> None:
    model = tiny.random_model(kind)
    folder = tiny.write(model, tmp_path / "model")
    trunk = VisionEncoder.export(spec_of(folder, size=96), folder, tmp_path)
    assert trunk.inputs == {"pictures": ("batch", 3, 96, 96)}
    assert trunk.module is not None
    pictures = torch.randn(1, 3, 96, 96)
    arguments = {"interpolate_pos_encoding": True} if kind in ("vit", "swin") else {}
    with torch.no_grad():
        torch.testing.assert_close(trunk.module(pictures)[0], model(pixel_values=pictures, **arguments).pooler_output)


def test_the_fingerprint_follows_config_weights_and_preprocessing(tmp_path: Path) -> None:
    def meaning(name: str, crop: int = 64, **config: Any) -> tuple[str, str]:
        folder = tiny.write(tiny.random_model("convnext"), tmp_path / name, size={"height": crop, "width": crop})
        said = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(said))
        trunk = VisionEncoder.export(spec_of(folder), folder, folder)
        return json.dumps(trunk.definition, sort_keys=True), json.dumps(trunk.preprocessing, sort_keys=True)

    first = meaning("first")
    assert meaning("elsewhere", transformers_version="9", id2label={"0": "cat"}, label2id={"cat": 0}) == first
    assert meaning("otherwise", layer_norm_eps=1e-3)[0] != first[0]
    assert meaning("larger", crop=96)[1] != first[1]
