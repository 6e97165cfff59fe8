"""fp16 graphs on the CPU provider: which parts stay fp32, that the file opens, and what it does to features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from topwork_server.errors import StartError
from topwork_server.models.artifacts import MODEL, PARITY_INPUTS
from topwork_server.runtime.gpu.fp16 import fp32_nodes, round_to_fp16, tensor_ranges, to_fp16
from topwork_server.runtime.gpu.fusion import attention_shape
from topwork_server.runtime.gpu.graph_optimization import float_tensors, plain_session, simplify
from topwork_server.runtime.gpu.optimized_graph import optimize, optimized_graph, spatial_axes
from topwork_server.runtime.parity import difference, saved_inputs
from topwork_server.runtime.providers import Device
from topwork_server.types import Array


def graph(nodes: list[Any], outputs: dict[str, int], **constants: Array) -> Any:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    ins = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", dim]) for name, dim in outputs.items()]
    made = helper.make_graph(nodes, "test", ins, outs, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(kind: str, given: str, made: str, **attributes: Any) -> Any:
    return helper.make_node(kind, given.split(), made.split(), name=made, **attributes)


X = np.array([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.25, 8.0]], np.float32)


def test_work_is_in_fp16_and_what_goes_in_and_comes_out_is_not() -> None:
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    model = to_fp16(graph([node("MatMul", "x w", "y"), node("Relu", "y", "z")], {"z": 3, "y": 3}, w=weights))
    session = plain_session(model)
    assert [one.type for one in (*session.get_inputs(), *session.get_outputs())] == ["tensor(float)"] * 3
    assert [t.data_type for t in model.graph.initializer if t.name == "w:half"] == [TensorProto.FLOAT16]
    (z, y) = session.run(["z", "y"], {"x": X})
    assert np.allclose(z, np.maximum(X @ weights, 0), atol=2e-3)
    assert np.allclose(y, X @ weights, atol=2e-3)


def test_one_tensor_that_several_islands_read_is_cast_once() -> None:
    """onnxruntime.transformers' converter writes a cast for each reader, all of one name: such a file does not load."""
    nodes = [node("Relu", "x", "y"), node("ReduceSum", "y", "a", keepdims=1), node("ReduceMean", "y", "b", keepdims=1)]
    model = to_fp16(graph(nodes, {"a": 1, "b": 1}))
    (a, b) = plain_session(model).run(["a", "b"], {"x": X})
    assert (a.item(), b.item()) == (18.75, 18.75 / 8)
    assert sum(one.op_type == "Cast" for one in model.graph.node) == 2  # x to fp16, y to fp32


def test_a_tensor_beyond_the_range_of_fp16_is_made_and_read_in_fp32() -> None:
    nodes = [node("Mul", "x big", "y"), node("Mul", "y small", "z"), node("Relu", "z", "r")]
    constants = {"big": np.float32([1e5]), "small": np.float32([1e-5])}
    model = graph(nodes, {"r": 4}, **constants)
    measured = to_fp16(model, [{"x": X}])
    blind = to_fp16(model)
    wanted = np.maximum(X, 0)
    assert np.allclose(plain_session(measured).run(None, {"x": X})[0], wanted, rtol=2e-3)
    assert not np.allclose(plain_session(blind).run(None, {"x": X})[0], wanted, rtol=2e-3)


def test_ranges_see_through_a_mask_of_minus_infinity() -> None:
    lowest = np.float32([np.finfo(np.float32).min])
    nodes = [node("Greater", "x zero", "m"), node("Where", "m x low", "y"), node("Softmax", "y", "z")]
    model = graph(nodes, {"z": 4}, zero=np.float32([0]), low=lowest)
    floats = float_tensors(model)
    found = tensor_ranges(model, floats, [{"x": X}])
    assert found["y"] == 0.0
    assert not fp32_nodes(model, floats, [{"x": X}])
    (z,) = plain_session(to_fp16(model, [{"x": X}])).run(None, {"x": X})
    assert np.allclose(z.sum(1), 1, atol=2e-3)
    assert z[1, 0] == 0


def test_the_lowest_number_stays_a_number() -> None:
    found = round_to_fp16(np.float32([np.finfo(np.float32).min, 1e9, -np.inf, 1.5]))
    assert found.tolist() == [-65504.0, 65504.0, -np.inf, 1.5]


def test_branches_and_quantized_graphs_are_refused() -> None:
    zero, scale = np.array(0, np.uint8), np.array(0.1, np.float32)
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    with pytest.raises(StartError, match="is quantized"):
        to_fp16(graph(nodes, {"y": 4}, s=scale, z=zero))


def test_a_convolution_says_what_it_runs_over() -> None:
    weights = {"w": np.zeros((1, 1, 3, 3), np.float32)}
    assert spatial_axes(graph([node("Conv", "x w", "y")], {"y": 4}, **weights)) == 2
    assert spatial_axes(graph([node("Relu", "x", "y")], {"y": 4})) == 0


PACKAGED = ["all-minilm-l6-v2", "resnet50-thin", "efficientnet-lite0", "i3d-resnet50-thin", "glove-6b-50d"]


@pytest.mark.weights
@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_encoders_keep_their_parity_in_fp16(weights_home: Path, tmp_path: Path, name: str) -> None:
    """Weights are rounded, and what passes fp16 kernels; docs/gpu.md has the figures with every tensor rounded."""
    import shutil

    from topwork_server.models.catalog import Catalog
    from topwork_server.plugin_api.plugin_registry import PluginRegistry
    from topwork_server.runtime.gpu.gpu_session import GpuSession
    from topwork_server.runtime.session import Session

    folder = Catalog(PluginRegistry.load(), weights_home).entry(name).folder
    assert folder is not None, f"export {name} first"
    shutil.copy(folder / MODEL, tmp_path)
    kept = {}
    for i, feeds in enumerate(saved_inputs(folder / PARITY_INPUTS)):  # a clip of 4 frames costs a quarter of one of 16
        kept |= {f"{i}/{key}": array[:, :, :4] if key == "clips" else array for key, array in feeds.items()}
    np.savez(tmp_path / PARITY_INPUTS, **kept)  # type: ignore[arg-type]
    whole, session = Session(tmp_path / MODEL), GpuSession(tmp_path / MODEL, Device("cpu", "fp16"))
    for feeds in saved_inputs(tmp_path / PARITY_INPUTS):
        for a, b in zip(whole.run(whole.outputs, feeds), session.run(whole.outputs, feeds), strict=True):
            assert difference(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))[1] >= 0.9995
    session.close()


@pytest.mark.weights
def test_attention_of_the_packaged_text_encoder_is_fused(weights_home: Path) -> None:
    from topwork_server.models.catalog import Catalog
    from topwork_server.plugin_api.plugin_registry import PluginRegistry

    folder = Catalog(PluginRegistry.load(), weights_home).entry("all-minilm-l6-v2").folder
    assert folder is not None
    assert attention_shape(simplify(folder / MODEL)) == (12, 384)
    found = [one.op_type for one in optimize(folder / MODEL, Device("cuda")).graph.node]
    assert (found.count("Attention"), found.count("BiasGelu")) == (6, 6)
    assert "Attention" not in [one.op_type for one in optimize(folder / MODEL, Device("tensorrt")).graph.node]


def test_the_file_for_a_device_is_made_once_and_again_after_an_export(tmp_path: Path) -> None:
    import os

    import onnx

    model = tmp_path / MODEL
    onnx.save(graph([node("Relu", "x", "y")], {"y": 4}), str(model))
    made = optimized_graph(model, Device("cuda", "fp16"))
    first = made.stat().st_mtime_ns
    assert optimized_graph(model, Device("cuda", "fp16")).stat().st_mtime_ns == first
    assert optimized_graph(model, Device("cuda")) != made
    os.utime(model, ns=(first + 1, first + 1))
    assert optimized_graph(model, Device("cuda", "fp16")).stat().st_mtime_ns != first
    assert not list(tmp_path.glob("*.part"))
