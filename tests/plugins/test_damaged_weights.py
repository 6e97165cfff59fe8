"""Weights that are NaN or infinite are refused by the name of their tensor, whatever family reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import tiny_berts
import tiny_clips
import tiny_pictures
from onnx import TensorProto, helper, numpy_helper
from topwork_server import InvalidInput, SourceUri
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.export import export_encoder
from topwork_server.types import Array

#: Of each kind of folder a part of a tensor's name in its file, and of what it is called in the message.
DAMAGED = {
    "bert": ("layer.1", "layer.1"),
    "mlm": ("predictions.bias", "the head mlm"),
    "gpt2": ("h.1.", "h.1."),
    "vision": ("encoder.layer.1", "1."),
    "clip": ("text_projection", "projection.weight"),
    "open_clip": ("text_projection", "text_projection"),
    "timm": ("blocks.1.", "blocks.1."),
}


def write_timm(folder: Path) -> Path:
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    net = timm.create_model("test_vit", pretrained=False)
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 1000}))
    save_file(net.state_dict(), folder / "model.safetensors")
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "bert": lambda folder: tiny_berts.write(folder, "bert"),
    "mlm": lambda folder: tiny_berts.write(folder, "bert", kind="AutoModelForMaskedLM"),
    "gpt2": lambda folder: tiny_berts.write(folder, "gpt2", kind="AutoModelForCausalLM"),
    "vision": lambda folder: tiny_pictures.write(tiny_pictures.random_model("vit"), folder),
    "clip": lambda folder: tiny_clips.write("clip", folder),
    "open_clip": tiny_clips.write_open_clip,
    "timm": write_timm,
}


def damage(folder: Path, part: str, value: float) -> None:
    """Put `value` once into the first tensor of a folder whose name has `part` in it."""
    [path] = folder.glob("*.safetensors")
    tensors = safetensors.numpy.load_file(path)
    name = next(name for name in tensors if part in name)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = value
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def pull(source: str, out: Path) -> None:
    """Export the towers of a source, in the order in which a server does."""
    found = PluginRegistry.load().resolve_source("mine", SourceUri.parse(source))
    assert found is not None
    spec = found.spec
    for tower in spec.towers:
        place = out / str(tower.modality)
        place.mkdir(parents=True, exist_ok=True)
        export_encoder(tower, Path(source.partition(":")[2]), place)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_tensor_with_nan_is_named(kind: str, tmp_path: Path) -> None:
    folder, (part, named) = MAKERS[kind](tmp_path / kind), DAMAGED[kind]
    damage(folder, part, np.inf if kind == "timm" else np.nan)
    with pytest.raises(InvalidInput, match="1 infinite" if kind == "timm" else "1 NaN") as caught:
        pull(f"file:{folder}", tmp_path)
    assert named in str(caught.value)
    assert "damaged" in caught.value.remedy


def write_onnx(path: Path, weight: Array, bound: Array) -> None:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["product"]), helper.make_node("Max", ["product", "bound"], ["pooled"])]
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", dim]) for name, dim in (("x", 4), ("pooled", 3))]
    constants = [numpy_helper.from_array(values, name) for name, values in (("weight", weight), ("bound", bound))]
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "net", io[:1], io[1:], constants), ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
        ),
        path,
    )
    path.with_suffix(".toml").write_text('modality = "tensor"\n[taps.pooled]\noutput = "pooled"\n')


def test_constants_of_a_graph_may_be_infinite_and_its_weights_may_not(tmp_path: Path) -> None:
    weight, bound = np.ones((4, 3), np.float32), np.full(3, -np.inf, np.float32)
    write_onnx(tmp_path / "net.onnx", weight, bound)
    pull(f"onnx:{tmp_path / 'net.onnx'}", tmp_path)
    for bad in (np.inf, np.nan):
        weight[2, 1] = bad
        write_onnx(tmp_path / "net.onnx", weight, bound)
        with pytest.raises(InvalidInput, match="weight has 1"):
            pull(f"onnx:{tmp_path / 'net.onnx'}", tmp_path / "nothing")
