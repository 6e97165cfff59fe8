from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from topwork_server.runtime.parity import difference
from topwork_server.runtime.providers import Device, cpu_flags, has_openvino
from topwork_server.runtime.session import Session
from topwork_server.runtime.session_factory import open_session

pytestmark = pytest.mark.skipif(not has_openvino(), reason="OpenVINO's plugin computes nothing on this machine")

DIM = 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x -> Gelu(x W) -> rows, and their mean over the batch's second axis; any shape."""
    weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((DIM, DIM)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Tanh", ["product"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens"], ["mean"], axes=[1], keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", DIM])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("mean", "tokens")]
    graph = helper.make_graph(nodes, "toy", [x], outputs, [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


def rows(batch: int, tokens: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch * tokens).standard_normal((batch, tokens, DIM)).astype(np.float32)}


def test_fp32_is_fp32_even_where_there_is_amx(model: Path) -> None:
    plain, session = Session(model, 1), open_session(model, Device("openvino"), 1)
    assert (str(session.device), session.workers) == ("openvino fp32", 1)
    assert (session.inputs, session.outputs) == (plain.inputs, plain.outputs)
    for shape in ((1, 3), (4, 7), (2, 50)):
        for a, b in zip(plain.run(["tokens", "mean"], rows(*shape)), session.run(["tokens", "mean"], rows(*shape)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.skipif("amx_bf16" not in cpu_flags(), reason="no bf16 in this processor")
def test_bf16_is_near_and_not_the_same(model: Path) -> None:
    plain, session = Session(model, 1), open_session(model, Device("openvino", "bf16"), 1)
    (a,), (b,) = (one.run(["tokens"], rows(4, 20)) for one in (plain, session))
    error, cosine = difference(a.reshape(-1, DIM), b.reshape(-1, DIM))
    assert cosine > 0.999
    assert error > 1e-4, "it computed in fp32"


def test_sessions_close_and_others_go_on(model: Path) -> None:
    one, other = (open_session(model, Device("openvino"), 1) for _ in range(2))
    one.close()
    assert other.run(["mean"], rows(2, 2))[0].shape == (2, DIM)
