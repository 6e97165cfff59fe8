"""Trunk and head in one file say what engine and head say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import sample_heads
from onnx import TensorProto, helper, numpy_helper
from topwork_server.atomic_store import file_sha256
from topwork_server.errors import NotReady, TopworkError
from topwork_server.features import Spans, TapRows
from topwork_server.heads import pooling
from topwork_server.heads.export.merge import METADATA, merge_onnx
from topwork_server.heads.head_store import StoredHead
from topwork_server.heads.head_types import LEARNED, Pooling, Task
from topwork_server.heads.serving.head_cache import HeadCache
from topwork_server.heads.serving.head_decoding import decode_output
from topwork_server.heads.span_decoding import bio_names
from topwork_server.heads.typicality import typicality_graph
from topwork_server.models.artifacts import Manifest
from topwork_server.types import FingerprintedTap, Granularity, Numerics, Tap

DIM = 6
RNG = np.random.default_rng(0)
GRID = (2, 3)


def trunk(folder: Path, opset: int = 20, inner: str = "hidden", inputs: str = "x", size: int = 4000) -> Path:
    """x (batch, rows, DIM) or (batch, DIM) -> `tap` = relu(2 x + 1); beside it a branch with weights that are not asked for."""
    folder.mkdir(exist_ok=True)
    nodes = [
        helper.make_node("Mul", [inputs, "two"], [inner], name=inner),
        helper.make_node("Add", [inner, "ones"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["tap"]),
        helper.make_node("MatMul", [inputs, "large"], ["other"]),
    ]
    constants = {
        "two": np.float32(2),
        "ones": np.ones(DIM, np.float32),
        "large": RNG.normal(size=(DIM, size)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "trunk",
        [helper.make_tensor_value_info(inputs, TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("other", "tap")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    manifest(folder)
    return folder / "model.onnx"


def manifest(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"size": [224, 224]}')
    files = {"model.onnx": "0" * 64, "recipe.json": "1" * 64, "tokenizer.json": "2" * 64, "head-x.json": "3" * 64}
    (folder / "tokenizer.json").write_text('"' + "x" * (65 << 10) + '"')
    numerics = Numerics("cpu", "fp32", 1.0, 0.0)
    Manifest("toy", (), 1, numerics, "torch", {}, (), files, {"onnx": "1"}, "", 1).write(folder)


def head(granularity=Granularity.ITEM, how=Pooling.ROW, task=Task.CLASSIFICATION, names=("a", "b", "c"), **fields):
    grid = GRID if granularity is Granularity.CELL else None
    tap = FingerprintedTap(Tap("tap", DIM, granularity, grid), "a" * 64)
    return sample_heads.head(task=task, tap=tap, pooling=how, dim=pooling.dim_after(how, DIM), names=names, **fields)


def joined(folder, made, model=None):
    """The merged file, opened by plain onnxruntime, and its description."""
    (folder / "head.onnx").write_bytes(sample_heads.graph(made))
    data, description = merge_onnx(model or trunk(folder), folder / "head.onnx", made)
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]), description


def alone(folder, made):
    """The head alone, as it is served."""
    return HeadCache().open(lambda: StoredHead(made, folder / "head.onnx", (), file_sha256(folder / "head.onnx"))).predict


def features(x):
    return np.maximum(2 * x + 1, 0).astype(np.float32)


def some(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.MULTI_LABEL, Task.REGRESSION])
@pytest.mark.parametrize("opset", [13, 18, 20])
def test_one_row_an_item(tmp_path, task, opset):
    made = head(task=task, temperature=2.5)
    session, description = joined(tmp_path, made, trunk(tmp_path, opset))
    x = some(4, DIM)
    check(session.run(["scores", "probabilities"], {"x": x}), alone(tmp_path, made)(features(x)))
    assert [value["name"] for value in description["inputs"]] == ["x"]
    assert [value["name"] for value in description["outputs"]] == ["scores", "probabilities"]


def test_the_typicality_of_the_training_items_comes_along(tmp_path):
    made, rows = head(Granularity.CELL, Pooling.MEAN), features(some(60, DIM))
    (tmp_path / "typicality.onnx").write_bytes(typicality_graph(rows, np.arange(60), 0))
    (tmp_path / "head.onnx").write_bytes(sample_heads.graph(made))
    data, description = merge_onnx(trunk(tmp_path), tmp_path / "head.onnx", made, tmp_path / "typicality.onnx")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    digests = (file_sha256(tmp_path / name) for name in ("head.onnx", "typicality.onnx"))
    stored = StoredHead(made, tmp_path / "head.onnx", (), next(digests), typicality=next(digests))
    served = HeadCache().open(lambda: stored)
    x = some(5, 6, DIM)
    pooled = features(x).mean(axis=1)
    check(session.run(["probabilities", "typicality"], {"x": x}), [served.predict(pooled)[1], served.typicality(pooled)])
    assert description["outputs"][2]["name"] == "typicality"


def test_several_taps_side_by_side(tmp_path):
    """The cells' mean, and the same cells' maximum of a second tap."""
    model = onnx.load(str(trunk(tmp_path)))
    model.graph.node.append(helper.make_node("Neg", ["tap"], ["less"]))
    model.graph.output.append(helper.make_tensor_value_info("less", TensorProto.FLOAT, None))
    onnx.save(model, str(tmp_path / "model.onnx"))
    taps = [FingerprintedTap(Tap(name, DIM, Granularity.CELL, GRID), name * 16) for name in ("tap", "less")]
    parts = tuple(zip(taps, (Pooling.MEAN, Pooling.MAX), strict=True))
    made = replace(head(), tap=pooling.combined_tap(parts), pooling=Pooling.ROW, dim=2 * DIM, parts=parts)
    session, description = joined(tmp_path, made, tmp_path / "model.onnx")
    x = some(4, 6, DIM)
    rows = [TapRows(tap, of.reshape(-1, DIM), np.full(4, 6)) for tap, of in zip(taps, (features(x), -features(x)), strict=True)]
    beside = pooling.combine_rows(made.task, parts, rows)
    check(session.run(["probabilities"], {"x": x}), [decode_output(made, beside, alone(tmp_path, made)).probabilities])
    assert [value["shape"] for value in description["outputs"]] == [["batch", 3]] * 2


COUNTS = np.array([3, 1, 4])


def token_rows(x, mask, parts=None):
    """What the engine would give: rows where the mask is 1."""
    flat = features(x)[mask > 0]
    kinds = np.zeros(len(flat), np.int32) if parts is None else parts[mask > 0]
    spans = Spans("chars", np.zeros((len(flat), 2), np.float32), kinds)
    return flat, mask.sum(1), spans


@pytest.mark.parametrize("how", [Pooling.MEAN, Pooling.MAX, Pooling.MEAN_STD])
def test_pooled_tokens(tmp_path, how):
    made = head(Granularity.TOKEN, how)
    session, description = joined(tmp_path, made)
    x = some(3, 5, DIM)
    mask = (np.arange(5) < COUNTS[:, None]).astype(np.int64)
    mask[2] = [0, 1, 1, 0, 1]
    x[mask == 0] = np.nan
    rows, counts, spans = token_rows(x, mask)
    expected = decode_output(made, TapRows(made.tap, rows, counts, spans), alone(tmp_path, made)).probabilities
    check(session.run(["probabilities"], {"x": x, "row_mask": mask}), [expected])
    assert [value["name"] for value in description["inputs"]] == ["x", "row_mask"]
    assert "special tokens" in description["inputs"][1]["description"]


def test_pairs_of_texts(tmp_path):
    made = head(Granularity.TOKEN, Pooling.PAIR)
    session, description = joined(tmp_path, made)
    x = some(2, 6, DIM)
    parts = np.array([[-1, 0, 0, 1, 1, 1], [-1, 0, 1, 1, -1, -1]])
    rows, counts, spans = token_rows(x, (parts >= 0).astype(np.int64), parts)
    expected = decode_output(made, TapRows(made.tap, rows, counts, spans), alone(tmp_path, made)).probabilities
    masks = {"text_mask": (parts == 0).astype(np.int64), "pair_mask": (parts == 1).astype(np.int64)}
    check(session.run(["probabilities"], {"x": x, **masks}), [expected])
    assert [value["name"] for value in description["inputs"]] == ["x", "text_mask", "pair_mask"]


@pytest.mark.parametrize("how", [Pooling.MEAN, Pooling.MAX, Pooling.MEAN_STD])
def test_pooled_cells(tmp_path, how):
    made = head(Granularity.CELL, how)
    session, description = joined(tmp_path, made)
    x = some(2, 6, DIM)
    rows = TapRows(made.tap, features(x).reshape(-1, DIM), np.array([6, 6]))
    check(session.run(["probabilities"], {"x": x}), [decode_output(made, rows, alone(tmp_path, made)).probabilities])
    assert description["grid"] == list(GRID)


@pytest.mark.parametrize("how", [Pooling.MEAN, Pooling.MAX, Pooling.MEAN_STD])
def test_the_windows_of_one_clip(tmp_path, how):
    made = head(Granularity.WINDOW, how)
    session, description = joined(tmp_path, made)
    x = some(4, DIM)
    rows = TapRows(made.tap, features(x), np.array([4]))
    check(session.run(["probabilities"], {"x": x}), [decode_output(made, rows, alone(tmp_path, made)).probabilities])
    assert description["one_clip_at_a_time"]
    assert "windows of one clip" in description["inputs"][0]["description"]


@pytest.mark.parametrize(
    ("task", "granularity", "names", "outputs"),
    [
        (Task.TAGGING, Granularity.TOKEN, bio_names(("X",)), 3),
        (Task.QUESTION_ANSWERING, Granularity.TOKEN, (), 2),
        (Task.SEGMENTATION, Granularity.CELL, ("a", "b"), 2),
    ],
)
def test_every_row(tmp_path, task, granularity, names, outputs):
    made = head(granularity, Pooling.ROWS, task, names)
    session, description = joined(tmp_path, made)
    x = some(2, 6, DIM)
    expected = [one.reshape(2, 6, outputs) for one in alone(tmp_path, made)(features(x).reshape(-1, DIM))]
    check(session.run(["scores", "probabilities"], {"x": x}), expected)
    shape = description["outputs"][0]["shape"]
    assert (len(shape), shape[2]) == (3, outputs)


def test_only_the_way_to_the_tap_is_kept(tmp_path):
    made = head()
    (tmp_path / "head.onnx").write_bytes(sample_heads.graph(made))
    path = trunk(tmp_path, size=100_000)
    assert path.stat().st_size > 2_000_000
    assert len(merge_onnx(path, tmp_path / "head.onnx", made)[0]) < 20_000


@pytest.mark.parametrize("inner", ["scores", "probabilities", "topwork.head/scores", "topwork.head/ends/node_0"])
def test_names_of_the_trunk_give_way(tmp_path, inner):
    made = head()
    session, _ = joined(tmp_path, made, trunk(tmp_path, inner=inner))
    x = some(2, DIM)
    check(session.run(["scores", "probabilities"], {"x": x}), alone(tmp_path, made)(features(x)))


def test_an_input_of_the_trunk_that_has_the_name_of_an_output(tmp_path):
    with pytest.raises(NotReady, match="an input named 'scores'"):
        joined(tmp_path, head(), trunk(tmp_path, inputs="scores"))


def test_a_tap_that_the_trunk_has_not(tmp_path):
    made = head()
    missing = replace(made, tap=replace(made.tap, tap=replace(made.tap.tap, name="gone")))
    with pytest.raises(TopworkError, match="computes no 'gone'"):
        joined(tmp_path, missing)


def test_a_branch_within_the_trunk_keeps_what_it_reads(tmp_path):
    """An If whose branches read values of the graph around them."""
    path = trunk(tmp_path)
    model = onnx.load(str(path))
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["sum", "ones"], [out])],
            kind,
            [],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        )
        for kind, out in (("Add", "scores"), ("Sub", "less"))
    ]
    model.graph.node[2].CopyFrom(helper.make_node("If", ["yes"], ["tap"], then_branch=branches[0], else_branch=branches[1]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    onnx.save(model, str(path))
    made = head()
    session, _ = joined(tmp_path, made, path)
    x = some(2, DIM)
    check(session.run(["scores", "probabilities"], {"x": x}), alone(tmp_path, made)(2 * x + 2))


def test_the_description(tmp_path):
    made = head(temperature=2.0)
    session, description = joined(tmp_path, made)
    assert json.loads(json.dumps(description)) == description
    assert json.loads(session.get_modelmeta().custom_metadata_map[METADATA]) == description
    assert description["fingerprint"] == "a" * 64
    assert description["temperature"] == 2.0
    assert description["names"] == ["a", "b", "c"]
    assert description["outputs"][1]["shape"] == ["batch", 3]
    assert description["preprocessing"]["settings"] == {"recipe.json": {"size": [224, 224]}}
    assert sorted(description["preprocessing"]["files"]) == ["recipe.json", "tokenizer.json"]


def test_every_task_says_how_it_is_read():
    from topwork_server.heads.export.model_card import READ

    assert set(READ) == set(LEARNED)
