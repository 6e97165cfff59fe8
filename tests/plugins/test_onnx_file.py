"""Any ONNX file: tiny graphs made here, read as pictures, texts and arrays; inner tensors as taps; what is refused; open_nsfw."""

from __future__ import annotations

import io
import json
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from topwork_plugins.onnx_file import plugin as onnx_file
from topwork_plugins.onnx_file.description import Description
from topwork_plugins.onnx_file.plugin import OnnxImage, OnnxTensor, OnnxText
from topwork_plugins.onnx_file.reads import TensorReader
from topwork_server import (
    Encoder,
    EncoderSpec,
    Granularity,
    ImageItem,
    InvalidInput,
    Item,
    Modality,
    SourceUri,
    TextItem,
    VideoItem,
)
from topwork_server.features import rows_of
from topwork_server.models.artifacts import Manifest
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session
from topwork_server.types import Array

RANDOM = np.random.default_rng(3)
TABLE = RANDOM.normal(size=(12, 5)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(3, 2)).astype(np.float32)
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "a", "red", "owl", "sat", "of", "and", "bird"]
PIXELS = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    opset: int = 17,
    **how: Any,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path), **how)
    return path


def picture_net(path: Path, batch: Any = "N", opset: int = 17, layout: str = "NCHW", **how: Any) -> Path:
    """map = 2 * picture, pool = its mean, scores = pool . WEIGHT; the last node's output alone is the graph's."""
    shape = [batch, 3, 8, 8] if layout == "NCHW" else [batch, 8, 8, 3]
    nodes = [helper.make_node("Mul", ["x", "two"], ["map"])]
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["map"], ["chw"], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["map" if layout == "NCHW" else "chw"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    constants = {"two": f32(2).reshape(1, 1, 1, 1), "weight": WEIGHT}
    return save(path, nodes, {"x": (TensorProto.FLOAT, shape)}, ["scores"], constants, opset, **how)


def text_net(path: Path, ids: str = "input_ids", mask: str = "attention_mask", kind: int = TensorProto.INT64) -> Path:
    """states = TABLE[ids] * mask, as the last hidden states of a BERT are exported."""
    nodes = [
        helper.make_node("Gather", ["table", ids], ["rows"]),
        helper.make_node("Cast", [mask], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["weights3"]),
        helper.make_node("Mul", ["rows", "weights3"], ["states"]),
    ]
    constants = {"table": TABLE, "last": np.array([2])}
    return save(path, nodes, {ids: (kind, ["b", "t"]), mask: (kind, ["b", "t"])}, ["states"], constants)


def sum_net(path: Path, batch: Any = "N", shape: Sequence[int] = (-1, 4), kind: int = TensorProto.FLOAT) -> Path:
    """total = sum over time, through a Reshape to `shape`, where files fix their batch axis."""
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sums"], keepdims=0),
        helper.make_node("Reshape", ["sums", "shape"], ["total"]),
    ]
    constants = {"axis": np.array([1]), "shape": np.array(shape)}
    return save(path, nodes, {"x": (kind, [batch, "time", 4])}, ["total"], constants)


def tokenizer(path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 1), ("[SEP]", 2)])
    made.enable_padding(length=64)
    made.enable_truncation(3)
    made.save(str(path))
    return path


IMAGE: dict[str, Any] = {
    "modality": "image",
    "image": {"size": 8, "mean": [0.5, 0.25, 0.125], "std": [1, 2, 4]},
    "taps": {"pooled": {"output": "pool"}, "cells": {"output": "map", "granularity": "cell"}},
}
TEXT: dict[str, Any] = {
    "modality": "text",
    "text": {"max_tokens": 200},
    "taps": {
        "mean": {"output": "states", "pool": "mean"},
        "first": {"output": "states", "pool": "first"},
        "states": {"output": "states", "granularity": "token"},
    },
}
TENSOR: dict[str, Any] = {"modality": "tensor", "taps": {"total": {"output": "total"}}}


def spec_of(record: Mapping[str, Any]) -> EncoderSpec:
    modality = Modality(record["modality"])
    return EncoderSpec("tiny", onnx_file.ENCODERS[modality], "onnx:/tiny.onnx", modality, settings={"description": record})


def exported(net: Path, record: Mapping[str, Any]) -> tuple[Encoder, Manifest, Path]:
    folder = Path(tempfile.mkdtemp(dir=net.parent))
    spec = spec_of(json.loads(json.dumps(record)))
    manifest = export_encoder(spec, net, folder)
    return spec.encoder(spec, folder), manifest, folder


def rows(made: tuple[Encoder, Manifest, Path], items: Sequence[Item], tap: str) -> list[Array]:
    """Each item's rows of a tap, as the engine would get them."""
    encoder, manifest, folder = made
    info = manifest.tap(tap)
    assert info is not None
    samples = [next(iter(encoder.preprocess(item, encoder.options()))) for item in items]
    (output,) = Session(folder / "model.onnx").run([tap], encoder.collate(samples))
    return [rows_of(info.tap, values, sample) for values, sample in zip(output, samples, strict=True)]


def png(pixels: Array) -> ImageItem:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return ImageItem(data.getvalue())


def prepared(pixels: Array) -> Array:
    """(8, 8, 3) as IMAGE says."""
    return np.asarray((pixels / np.float32(255) - [0.5, 0.25, 0.125]) / [1, 2, 4], np.float32)


@pytest.mark.parametrize("opset", [11, 17, 18, 20])
def test_inner_tensors_of_a_picture_net_are_taps(tmp_path: Path, opset: int) -> None:
    record = {**IMAGE, "taps": {**IMAGE["taps"], "mean": {"output": "map", "pool": "mean"}}}
    made = exported(picture_net(tmp_path / "net.onnx", opset=opset), record)
    assert [(i.tap.name, i.tap.dim, i.tap.granularity, i.tap.grid) for i in made[1].taps] == [
        ("pooled", 3, Granularity.ITEM, None),
        ("cells", 3, Granularity.CELL, (8, 8)),
        ("mean", 3, Granularity.ITEM, None),
    ]
    other = PIXELS[::-1].copy()
    for pixels, cells, pooled, mean in zip(
        (PIXELS, other), *(rows(made, [png(PIXELS), other], tap) for tap in ("cells", "pooled", "mean")), strict=True
    ):
        expected = 2 * prepared(pixels).reshape(64, 3)
        np.testing.assert_allclose(cells, expected, atol=1e-5)
        np.testing.assert_allclose(pooled, expected.mean(0)[None], atol=1e-5)
        np.testing.assert_allclose(mean, expected.mean(0)[None], atol=1e-5)
    assert made[1].numerics.parity > 0.99999


def test_what_no_tap_needs_is_cut_away(tmp_path: Path) -> None:
    _, manifest, folder = exported(picture_net(tmp_path / "net.onnx"), IMAGE)
    graph = onnx.load(str(folder / "model.onnx")).graph
    assert [value.name for value in graph.output] == ["pooled", "cells"]
    assert "weight" not in {tensor.name for tensor in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "MatMul"]
    assert manifest.files.keys() >= {"model.onnx", "reads.json", "recipe.json"}


def test_channels_and_layout(tmp_path: Path) -> None:
    """A net in BGR and NHWC sees the same picture, its mean and std given in its own order."""
    image = {"size": [8, 8], "mean": [0.125, 0.25, 0.5], "std": [4, 2, 1], "channels": "BGR", "layout": "NHWC", "input": "x"}
    record = {**IMAGE, "image": image, "taps": {"cells": {"output": "map", "granularity": "cell", "layout": "NHWC"}}}
    made = exported(picture_net(tmp_path / "net.onnx", layout="NHWC"), record)
    np.testing.assert_allclose(rows(made, [PIXELS], "cells")[0], 2 * prepared(PIXELS).reshape(64, 3)[:, ::-1], atol=1e-5)


def test_pixels_from_0_to_255_in_another_dtype(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMax", ["floats"], ["most"], axes=[2, 3]),
    ]
    net = save(tmp_path / "net.onnx", nodes, {"x": (TensorProto.UINT8, [1, 3, 8, 8])}, ["most"], {})
    record = {**IMAGE, "image": {"size": 8, "white": 255}, "taps": {"most": {"output": "most"}}}
    np.testing.assert_array_equal(rows(exported(net, record), [PIXELS], "most")[0], [PIXELS.max((0, 1))])


def test_boxes_are_of_the_picture_that_was_sent(tmp_path: Path) -> None:
    record = {**IMAGE, "image": {**IMAGE["image"], "resize": 16}}
    encoder, _, _ = exported(picture_net(tmp_path / "net.onnx"), record)
    (sample,) = encoder.preprocess(np.zeros((32, 64, 3), np.uint8), encoder.options())
    assert sample.box == (24, 8, 40, 24)


def test_a_fixed_batch_axis_is_freed_where_the_nodes_allow_it(tmp_path: Path) -> None:
    made = exported(picture_net(tmp_path / "net.onnx", batch=1), IMAGE)
    assert len(rows(made, [PIXELS] * 3, "pooled")) == 3
    shape = onnx.load(str(made[2] / "model.onnx")).graph.input[0].type.tensor_type.shape
    assert [axis.dim_param or axis.dim_value for axis in shape.dim] == ["batch", 3, 8, 8]

    flat = exported(sum_net(tmp_path / "flat.onnx", 1, (1, -1)), TENSOR)  # (2, 4) becomes (1, 8), and is taken apart again
    items = [RANDOM.normal(size=(5, 4)) for _ in range(3)]
    np.testing.assert_allclose(np.concatenate(rows(flat, items, "total")), [i.sum(0) for i in items], atol=1e-5)


def test_a_batch_axis_fixed_inside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"net\.onnx: the batch axis is fixed in the graph: it fails on x \[2,") as caught:
        exported(sum_net(tmp_path / "net.onnx", 1, (1, 4)), TENSOR)
    assert "dynamic batch axis" in caught.value.remedy


def test_a_batch_that_becomes_one_row_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("ReduceMax", ["x"], ["total"], axes=[0], keepdims=1)
    net = save(tmp_path / "net.onnx", [node], {"x": (TensorProto.FLOAT, [1, 4])}, ["total"], {})
    with pytest.raises(InvalidInput, match=r"the batch axis of tap total is fixed in the graph: it is 1 for two items"):
        exported(net, TENSOR)


def test_a_batch_of_eight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"net\.toml: the graph does not run on x \[1, 16, 4\]") as caught:
        exported(sum_net(tmp_path / "net.onnx", 8, (8, 4)), TENSOR)
    assert "dynamic batch axis" in caught.value.remedy


def test_a_graph_that_mixes_its_batch_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["center"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "center"], ["apart"]),
        helper.make_node("Add", ["apart", "one"], ["total"]),
    ]
    net = save(tmp_path / "net.onnx", nodes, {"x": (TensorProto.FLOAT, ["N", 4])}, ["total"], {"one": np.ones(4, np.float32)})
    with pytest.raises(InvalidInput, match="an item's total depends on the items beside it"):
        exported(net, TENSOR)


def test_arrays_of_several_lengths(tmp_path: Path) -> None:
    made = exported(sum_net(tmp_path / "net.onnx"), TENSOR)
    items = [RANDOM.normal(size=(n, 4)) for n in (1, 7, 7)]
    np.testing.assert_allclose(rows(made, items[:1], "total")[0], [items[0].sum(0)], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(rows(made, items[1:], "total")), [i.sum(0) for i in items[1:]], atol=1e-5)
    assert {batch.split("]")[0] for batch in made[1].batches} >= {"x[1, 16, 4", "x[1, 24, 4", "x[2, 16, 4"}


def test_whole_numbers_and_own_examples(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", RANDOM.integers(0, 9, (3, 6, 4)))
    record = {**TENSOR, "tensor": {"input": "x", "shape": ["3*time", 4], "examples": "some.npy"}}
    made = exported(sum_net(tmp_path / "net.onnx", kind=TensorProto.INT64), record)
    assert made[1].batches[0] == "x[1, 6, 4]"
    item = RANDOM.integers(0, 9, (3, 4), dtype=np.int8)
    np.testing.assert_array_equal(rows(made, [item], "total")[0], [item.sum(0)])


@pytest.mark.parametrize("names", [("input_ids", "attention_mask"), ("ids:0", "mask:0")])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_texts(tmp_path: Path, names: tuple[str, str], kind: int) -> None:
    tokenizer(tmp_path / "tokenizer.json")
    inputs = dict(zip(("input_ids", "attention_mask"), names, strict=True))
    record = {**TEXT, "text": {"max_tokens": 200, "inputs": inputs}}
    made = exported(text_net(tmp_path / "net.onnx", *names, kind), record)
    items = [TextItem("the red owl"), TextItem("a bird sat", "and the owl")]
    ids = [[1, 4, 6, 7, 2], [1, 5, 11, 8, 2, 10, 4, 7, 2]]
    for found, expected in zip(rows(made, items, "mean"), ids, strict=True):
        np.testing.assert_allclose(found, [TABLE[expected].mean(0)], atol=1e-6)
    for found in rows(made, items, "first"):
        np.testing.assert_allclose(found, TABLE[[1]])
    first, second = rows(made, items, "states")
    np.testing.assert_allclose(first, TABLE[[4, 6, 7]])
    np.testing.assert_allclose(second, TABLE[[5, 11, 8, 10, 4, 7]])
    encoder = made[0]
    assert encoder.pads
    (sample,) = encoder.preprocess(items[0], encoder.options())
    assert sample.tokens is not None
    np.testing.assert_array_equal(sample.tokens.chars, [[0, 3], [4, 7], [8, 11]])


def test_a_text_over_its_limit(tmp_path: Path) -> None:
    tokenizer(tmp_path / "tokenizer.json")
    encoder, _, _ = exported(text_net(tmp_path / "net.onnx"), {**TEXT, "text": {"max_tokens": 8}})
    text = TextItem("the red owl sat and sat and sat")
    with pytest.raises(InvalidInput, match=r"the text has 10 tokens .*; the limit is 8"):
        list(encoder.preprocess(text, encoder.options()))
    (sample,) = encoder.preprocess(text, encoder.options(truncate=True))
    assert sample.inputs["input_ids"].tolist() == [1, 4, 6, 7, 8, 10, 8, 2]


def test_patches_of_a_vision_transformer(tmp_path: Path) -> None:
    """(batch, 1 + cells, dim): the class token is skipped, or it is the item."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["patches"]),
        helper.make_node("Transpose", ["patches"], ["cells"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["cells"], ["class"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["class", "cells"], ["states"], axis=1),
    ]
    shape: dict[str, Any] = {"x": (TensorProto.FLOAT, ["N", 3, 8, 8])}
    net = save(tmp_path / "net.onnx", nodes, shape, ["states"], {"rows": np.array([0, 3, 64])})
    taps = {
        "cells": {"output": "states", "granularity": "cell", "layout": "NLC", "skip": 1, "grid": 8},
        "class": {"output": "states", "layout": "NLC", "pool": "first"},
        "mean": {"output": "states", "layout": "NLC", "pool": "mean", "skip": 1},
    }
    made = exported(net, {**IMAGE, "taps": taps})
    expected = prepared(PIXELS).reshape(64, 3)
    np.testing.assert_allclose(rows(made, [PIXELS], "cells")[0], expected, atol=1e-6)
    np.testing.assert_allclose(rows(made, [PIXELS], "class")[0], [expected.max(0)], atol=1e-6)
    np.testing.assert_allclose(rows(made, [PIXELS], "mean")[0], [expected.mean(0)], atol=1e-6)


def test_taps_may_have_the_names_of_other_tensors(tmp_path: Path) -> None:
    """`pool` and `map` change places; `flat` keeps its own."""
    cells = {"output": "map", "granularity": "cell"}
    record = {**IMAGE, "taps": {"map": {"output": "pool"}, "pool": cells, "flat": {"output": "flat"}}}
    made = exported(picture_net(tmp_path / "net.onnx"), record)
    expected = 2 * prepared(PIXELS).reshape(64, 3)
    np.testing.assert_allclose(rows(made, [PIXELS], "pool")[0], expected, atol=1e-5)
    for name in ("map", "flat"):
        np.testing.assert_allclose(rows(made, [PIXELS], name)[0], [expected.mean(0)], atol=1e-5)


def test_what_a_branch_reads_is_kept(tmp_path: Path) -> None:
    """An If whose branches read tensors from outside, one of which must make way for a tap's name."""

    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["doubled", "shift"], [f"{name}_out"])], name, [], [out])

    nodes = [
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch("then", "Add"), else_branch=branch("else", "Sub")),
    ]
    constants: dict[str, Array] = {"two": f32(2), "shift": f32(1, 2, 3, 4), "yes": np.array(True)}
    net = save(tmp_path / "net.onnx", nodes, {"x": (TensorProto.FLOAT, ["N", 4])}, ["chosen"], constants)
    made = exported(net, {**TENSOR, "taps": {"doubled": {"output": "chosen"}}})
    item = f32(1, 2, 3, 4)
    np.testing.assert_allclose(rows(made, [item], "doubled")[0], [item * 2 + [1, 2, 3, 4]])


def test_local_functions_and_half_precision(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        agraph (float16[N, 4] x) => (float16[N, 4] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { inner = Add(a, a)  b = Identity(inner) }"""
    onnx.save(onnx.parser.parse_model(text), str(tmp_path / "net.onnx"))
    made = exported(tmp_path / "net.onnx", {**TENSOR, "taps": {"total": {"output": "y"}}})
    (found,) = rows(made, [f32(1, 2, 3, 4)], "total")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[2, 4, 6, 8]])


def test_external_data_is_taken_in(tmp_path: Path) -> None:
    how: dict[str, Any] = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["total"])]
    shape: dict[str, Any] = {"x": (TensorProto.FLOAT, ["N", 3])}
    net = save(tmp_path / "net.onnx", nodes, shape, ["total"], {"weight": WEIGHT}, **how)
    assert (tmp_path / "net.data").stat().st_size >= WEIGHT.nbytes
    made = exported(net, TENSOR)
    (tmp_path / "net.data").unlink()
    item = f32(1, 2, 3)
    np.testing.assert_allclose(rows(made, [item], "total")[0], [item @ WEIGHT], rtol=1e-6)
    with pytest.raises(InvalidInput, match=r"net\.onnx keeps its weight weight in net\.data, which is no file beside it"):
        exported(net, TENSOR)


def test_constants_listed_as_inputs_are_not_fed(tmp_path: Path) -> None:
    """As files before IR version 4 have them."""
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["total"])]
    listed: dict[str, Any] = {"x": (TensorProto.FLOAT, ["N", 3]), "weight": (TensorProto.FLOAT, [3, 2])}
    made = exported(save(tmp_path / "net.onnx", nodes, listed, ["total"], {"weight": WEIGHT}), TENSOR)
    np.testing.assert_allclose(rows(made, [np.ones(3)], "total")[0], [WEIGHT.sum(0)], rtol=1e-6)


def test_the_fingerprint_follows_weights_taps_and_preprocessing(tmp_path: Path) -> None:
    def fingerprint(record: Mapping[str, Any], **net: Any) -> str:
        return exported(picture_net(tmp_path / "net.onnx", **net), record)[1].taps[0].fingerprint

    first = fingerprint(IMAGE)
    assert fingerprint({**IMAGE, "license": "MIT", "description": "words"}) == first
    assert fingerprint(IMAGE, batch=1) == first
    cells = {"pooled": {"output": "map", "pool": "mean"}, "cells": IMAGE["taps"]["cells"]}
    others = {
        fingerprint({**IMAGE, "image": {**IMAGE["image"], "channels": "BGR"}}),
        fingerprint({**IMAGE, "image": {**IMAGE["image"], "fit": "squash"}}),
        fingerprint({**IMAGE, "taps": cells}),
    }
    assert len(others | {first}) == 4


def changed(record: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which the field at a dotted path has another value, or is gone (None)."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    *parents, last = path.split(".")
    table = copy
    for name in parents:
        table = table.setdefault(name, {})
    table[last] = value
    if value is None:
        del table[last]
    return copy


BAD_DESCRIPTIONS: list[tuple[dict[str, Any], str]] = [
    (changed(IMAGE, "modality", None), "modality is missing"),
    (changed(IMAGE, "modality", "video"), "modality is 'video'"),
    (changed(IMAGE, "modality", 3), "modality is 3"),
    (changed(IMAGE, "licens", "MIT"), "unknown field licens"),
    (changed(IMAGE, "license", 4), "license is 4"),
    (changed(IMAGE, "text", {"max_tokens": 4}), "unknown field text"),
    (changed(IMAGE, "image", "8x8"), "image is '8x8'"),
    (changed(IMAGE, "image.size", None), r"image\.size is missing"),
    (changed(IMAGE, "image.size", [8, 0]), r"image\.size is \[8, 0\]"),
    (changed(IMAGE, "image.size", True), r"image\.size is True"),
    (changed(IMAGE, "image.resize", 4), r"image\.resize is \[4, 4\]"),
    (changed(IMAGE, "image.mean", [1, 2]), r"image\.mean is \[1, 2\]"),
    (changed(IMAGE, "image.mean", ["1", 2, 3]), r"image\.mean is"),
    (changed(IMAGE, "image.std", [1, 0, 1]), r"image\.std is \[1\.0, 0\.0, 1\.0\]"),
    (changed(IMAGE, "image.white", -1), r"image\.white is -1\.0"),
    (changed(IMAGE, "image.channels", "GRB"), r"image\.channels is 'GRB'"),
    (changed(IMAGE, "image.layout", "NLC"), r"image\.layout is 'NLC'"),
    (changed(IMAGE, "image.color", 1), r"unknown field image\.color"),
    (changed(IMAGE, "taps", {}), "taps is {}"),
    (changed(IMAGE, "taps", None), "taps is {}"),
    (changed(IMAGE, "taps.pooled", {}), r"taps\.pooled\.output is missing"),
    (changed(IMAGE, "taps.pooled.output", ""), r"taps\.pooled\.output is ''"),
    (changed(IMAGE, "taps.a b", {"output": "pool"}), r"taps\.a b"),
    (changed(IMAGE, "taps.pooled.granularity", "token"), r"taps\.pooled\.granularity is 'token'"),
    (changed(IMAGE, "taps.pooled.grid", [1, 1]), r"taps\.pooled\.grid is \[1, 1\]"),
    (changed(IMAGE, "taps.pooled.skip", -1), r"taps\.pooled\.skip is -1"),
    (changed(IMAGE, "taps.cells.pool", "mean"), r"taps\.cells\.pool is 'mean'"),
    (changed(IMAGE, "taps.pooled.pool", "max"), r"taps\.pooled\.pool is 'max'"),
    (changed(IMAGE, "default_tap", "poled"), "default_tap is 'poled'"),
    (changed(TEXT, "text", None), r"text\.max_tokens is missing"),
    (changed(TEXT, "text.max_tokens", 1), r"text\.max_tokens is 1"),
    (changed(TEXT, "text.tokenizer", "../t.json"), r"text\.tokenizer is '../t\.json'"),
    (changed(TEXT, "text.inputs", {"ids": "x"}), r"unknown field text\.inputs\.ids"),
    (changed(TENSOR, "tensor.shape", ["time", 0]), r"tensor\.shape is \['time', 0\]"),
    (changed(TENSOR, "tensor.shape", ["0*t"]), r"tensor\.shape is"),
    (changed(TENSOR, "tensor.examples", "/etc/x.npy"), r"tensor\.examples is '/etc/x\.npy'"),
]


@pytest.mark.parametrize(("record", "message"), BAD_DESCRIPTIONS, ids=[m for _, m in BAD_DESCRIPTIONS])
def test_bad_descriptions_are_refused_by_field_and_file(record: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=r"net\.toml: " + message) as caught:
        Description.parse(record, "net.toml")
    assert caught.value.remedy


MISFITS: list[tuple[dict[str, Any], str]] = [
    (changed(IMAGE, "image.size", 16), r"image\.size and image\.layout make pictures \[3, 16, 16\]"),
    (changed(IMAGE, "image.layout", "NHWC"), r"image\.size and image\.layout make pictures \[8, 8, 3\]"),
    (changed(IMAGE, "image.input", "y"), r"image\.input is 'y'; the taps read 'x'"),
    (changed(IMAGE, "taps.pooled.output", "pol"), r"the graph computes no tensor 'pol'"),
    (changed(IMAGE, "taps.pooled.output", "map"), r"taps\.pooled\.output is \(1, 3, 8, 8\), which is more than one row"),
    (changed(IMAGE, "taps.cells.output", "flat"), r"taps\.cells\.output is \(1, 3\), not NCHW"),
    (changed(IMAGE, "taps.cells.grid", [4, 4]), r"taps\.cells\.grid is \[4, 4\]; the tensor's is \[8, 8\]"),
    (changed(IMAGE, "taps.cells.layout", "NLC"), r"taps\.cells\.output is \(1, 3, 8, 8\), not NLC"),
    (changed(IMAGE, "taps.cells.skip", 1), r"taps\.cells\.skip is 1, of a tensor \(1, 3, 8, 8\)"),
    (changed(IMAGE, "taps.flat", {"output": "flat", "pool": "mean"}), r"taps\.flat\.output is \(1, 3\), not NCHW"),
    (changed(IMAGE, "taps.x", {"output": "pool"}), r"taps\.x has the name of an input"),
    ({**TENSOR, "tensor": {"shape": [3, 8]}, "taps": {"p": {"output": "pool"}}}, r"tensor\.shape is \[3, 8\]"),
    ({**TENSOR, "tensor": {"examples": "no.npy"}, "taps": {"p": {"output": "pool"}}}, r"tensor\.examples, no\.npy"),
    ({**TEXT, "taps": {"p": {"output": "pool"}}}, r"text\.inputs does not match the graph, whose taps read x"),
]


@pytest.mark.parametrize(("record", "message"), MISFITS, ids=[m for _, m in MISFITS])
def test_descriptions_that_do_not_fit_the_graph_are_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        exported(picture_net(tmp_path / "net.onnx"), record)
    assert caught.value.remedy


def test_a_text_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"net\.toml: text\.tokenizer, tokenizer\.json, cannot be read"):
        exported(text_net(tmp_path / "net.onnx"), TEXT)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x08\x08"])
def test_files_that_are_no_onnx_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"net\.onnx is not an ONNX file that can be read"):
        exported(tmp_path / "net.onnx", TENSOR)


BAD_ARRAYS: list[tuple[Any, str]] = [
    (TextItem("the owl"), "this encoder reads arrays, not a text"),
    (VideoItem(b""), "reads arrays, not a video"),
    (np.zeros((16, 5)), r"an array \(16, 5\) of float64"),
    (np.zeros((0, 4)), r"an array \(0, 4\) of float64"),
    (np.zeros((12, 4)), r"an array \(12, 4\)"),
    (np.zeros(4), r"an array \(4,\)"),
    (np.array(1.0), r"an array \(\) of float64"),
    (np.full((8, 4), np.nan), "not finite"),
    (np.full((8, 4), 1e300), "not finite as float32"),
    (np.zeros((8, 4), np.complex64), "an array of complex64 is not safely float32"),
    (np.zeros((8, 4), "U3"), "an array of <U3 is not safely float32"),
]


@pytest.mark.parametrize(("item", "message"), BAD_ARRAYS, ids=[m for _, m in BAD_ARRAYS])
def test_bad_arrays_are_refused(item: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        TensorReader("x", "float32", ("8*time", 4)).sample(item)
    assert caught.value.remedy


def test_floats_are_not_taken_for_whole_numbers() -> None:
    with pytest.raises(InvalidInput, match="an array of float64 is not safely int64"):
        TensorReader("x", "int64", (2,)).sample(np.zeros(2))


TOML = """
modality = "image"
license = "MIT"
trained_on = "noise"
description = "a tiny net"
default_tap = "cells"
[image]
size = 8
[taps.pooled]
output = "pool"
[taps.cells]
output = "map"
granularity = "cell"
"""


def test_a_file_is_adopted_with_its_description(tmp_path: Path) -> None:
    path = picture_net(tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text(TOML)
    spec = onnx_file.resolve_source("mine", SourceUri.parse(f"onnx:{path}"))
    assert spec is not None
    assert (spec.name, spec.encoder, spec.modality, spec.default_tap) == ("mine", OnnxImage, Modality.IMAGE, "cells")
    assert (spec.license, spec.trained_on, spec.description) == ("MIT", "noise", "a tiny net")
    json.dumps(dict(spec.settings))  # part of the artifact's key
    (tmp_path / "out").mkdir()
    assert export_encoder(spec, path, tmp_path / "out").tap("cells") is not None
    assert onnx_file.resolve_source("mine", SourceUri.parse(f"file:{path}", family="onnx")) is not None
    assert onnx_file.resolve_source("mine", SourceUri.parse(f"file:{path}")) is None
    assert onnx_file.resolve_source("mine", SourceUri.parse(f"onnx:{path}", family="bert")) is None


def test_each_modality_has_its_encoder(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    for text, expected in ((TOML, OnnxImage), ('modality = "tensor"\n[taps.a]\noutput = "b"', OnnxTensor)):
        (tmp_path / "net.toml").write_text(text)
        spec = onnx_file.resolve_source("x", SourceUri.parse(f"onnx:{tmp_path}/net.onnx"))
        assert spec is not None
        assert spec.encoder is expected
    assert onnx_file.ENCODERS[Modality.TEXT] is OnnxText


def test_what_cannot_be_adopted_is_named(tmp_path: Path) -> None:
    source = SourceUri.parse(f"onnx:{tmp_path}/net.onnx")
    with pytest.raises(InvalidInput, match=r"net\.onnx is not there"):
        onnx_file.resolve_source("x", source)
    (tmp_path / "net.onnx").touch()
    with pytest.raises(InvalidInput, match=r"net\.onnx has no description beside it"):
        onnx_file.resolve_source("x", source)
    (tmp_path / "net.toml").write_text("modality = image")
    with pytest.raises(InvalidInput, match=r"net\.toml is not TOML: .*line 1"):
        onnx_file.resolve_source("x", source)


def test_the_example_of_the_documentation_is_a_description() -> None:
    page = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text("utf-8")
    blocks = [block.split("```")[0] for block in page.split("```toml\n")[1:]]
    assert len(blocks) >= 3
    for block in blocks:
        Description.parse(tomllib.loads(block), "onnx.md")


@pytest.mark.weights
def test_an_inner_tensor_of_open_nsfw(assets: Callable[[EncoderSpec], Path], tmp_path: Path) -> None:
    from topwork_plugins.resnet import plugin as resnet
    from topwork_server.plugin_api.example_inputs import pictures

    (packaged,) = (spec for spec in resnet.register_encoders() if spec.name == "resnet50-thin")
    net = assets(packaged)
    record = {
        "modality": "image",
        "image": {
            "size": 224,
            "resize": 256,
            "fit": "squash",
            "white": 255,
            "mean": [104, 117, 123],
            "channels": "BGR",
            "layout": "NHWC",
        },
        "taps": {"pooled": {"output": "/ReduceMean_output_0"}, "scores": {"output": "4195"}},
    }
    folder = tmp_path / "out"
    folder.mkdir()
    spec = spec_of(record)
    manifest = export_encoder(spec, net, folder)
    assert [(info.tap.name, info.tap.dim) for info in manifest.taps] == [("pooled", 1024), ("scores", 2)]
    encoder = spec.encoder(spec, folder)
    sample = next(iter(encoder.preprocess(pictures()[0], encoder.options())))
    feeds = encoder.collate([sample])
    (scores,) = Session(folder / "model.onnx").run(["scores"], feeds)
    (published,) = Session(net).run(["4195"], {"input_0": feeds["input_0"]})
    np.testing.assert_allclose(scores, published, atol=1e-6)
