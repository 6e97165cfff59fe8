from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from topwork_server.models.artifacts import DEFAULT, MODEL, graph_for
from topwork_server.models.onnx_graph import extract_subgraph
from topwork_server.runtime.session import Session


def write(path: Path, outputs: Sequence[str]) -> Path:
    """x -> relu -> a (times two); relu -> b (plus a branch that reads `shift` from outside of it)."""
    shift = numpy_helper.from_array(np.array([5.0], np.float32), "shift")
    two = numpy_helper.from_array(np.array([2.0], np.float32), "two")
    yes = numpy_helper.from_array(np.array(True), "yes")
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None])
    branch = helper.make_graph([helper.make_node("Add", ["relu", "shift"], ["inner"])], "branch", [], [out])
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Mul", ["relu", "two"], ["a"]),
        helper.make_node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch),
    ]
    x, *taps = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("x", *outputs))
    graph = helper.make_graph(nodes, "toy", [x], taps, [shift, two, yes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_it_keeps_what_the_tap_needs_and_nothing_else(tmp_path: Path) -> None:
    model = write(tmp_path / MODEL, ["a", "b"])
    x = np.array([-1.0, 3.0], np.float32)
    for tap, nodes, constants, wanted in (("a", 2, {"two"}, [0.0, 6.0]), ("b", 2, {"shift", "yes"}, [5.0, 8.0])):
        assert extract_subgraph(model, tap, tmp_path / DEFAULT)
        graph = onnx.load(str(tmp_path / DEFAULT)).graph
        assert (len(graph.node), {tensor.name for tensor in graph.initializer}) == (nodes, constants)
        session = Session(tmp_path / DEFAULT, 1)
        assert session.outputs == (tap,)
        np.testing.assert_array_equal(session.run([tap], {"x": x})[0], wanted)


def test_a_graph_that_is_all_needed_is_not_written_twice(tmp_path: Path) -> None:
    model = write(tmp_path / MODEL, ["a"])
    assert extract_subgraph(model, "a", tmp_path / "first.onnx")
    assert not extract_subgraph(tmp_path / "first.onnx", "a", tmp_path / DEFAULT)
    assert not (tmp_path / DEFAULT).exists()


def test_the_default_tap_alone_has_its_own_graph(tmp_path: Path) -> None:
    model = write(tmp_path / MODEL, ["a", "b"])
    assert graph_for(tmp_path, ["a"], "a") == model, "there is none yet"
    extract_subgraph(model, "a", tmp_path / DEFAULT)
    assert graph_for(tmp_path, ["a"], "a") == tmp_path / DEFAULT
    assert graph_for(tmp_path, ["b"], "a") == graph_for(tmp_path, ["a", "b"], "a") == model
