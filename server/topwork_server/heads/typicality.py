"""Typicality of an item: the share of training items that lie at least as far from the others as it does.

The distance is that to the nearest of up to 1,000 training items, by cosine from their mean (Sun et al. 2022,
"Out-of-distribution detection with deep nearest neighbors"; one neighbor, as told stamps from other pictures best, where
Mahalanobis distances were behind: docs/heads.md). That of a training item leaves out its own group, so that copies do not make
new items look strange. The share is a conformal p-value (Bates et al. 2023, "Testing for outliers with conformal p-values"): of
new items like the training ones, 5% have a typicality of 0.05 or less. It is a graph of its own beside the head's, since a
runtime computes all outputs of a graph.
"""

from __future__ import annotations

import numpy as np

from topwork_server.models.head_graph import ROWS, TYPICALITY
from topwork_server.plugin_api.trainer import IR_VERSION, OPSET
from topwork_server.types import Array

#: Training items that others are compared with, and whose own distances a new one's is compared with.
MOST_REFERENCES, MOST_COMPARED = 1000, 1000
#: Fewer distances tell no share.
FEWEST_COMPARED = 9
TINY = 1e-12


def typicality_graph(rows: Array, groups: Array, seed: int) -> bytes:
    """Make the ONNX graph from `rows` (n, dim) float32 to `typicality` (n,) float32, of the rows (items, dim) and groups (items,)
    of training items. It is empty where they are too few, or of one number, which has no direction."""
    if rows.shape[1] < 2 or len(np.unique(groups)) <= FEWEST_COMPARED:
        return b""
    random = np.random.default_rng(seed)
    chosen, compared = (np.sort(random.permutation(len(rows))[:most]) for most in (MOST_REFERENCES, MOST_COMPARED))
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    references = unit(rows[chosen], center).astype(np.float16)
    similar = unit(rows[compared], center) @ references.astype(np.float32).T
    similar[groups[compared][:, None] == groups[chosen]] = -np.inf
    nearness = similar.max(axis=1)
    return _graph(center, references, np.sort(nearness[np.isfinite(nearness)]))


def unit(rows: Array, center: Array) -> Array:
    """Return directions (n, dim) float32 from the center; zeros where a row has none. The largest number of a row is brought to 1
    first: squares of 1e20 are infinite."""
    off = rows - center
    off /= np.maximum(np.abs(off).max(axis=1, keepdims=True), np.float32(TINY))
    return np.asarray(off / np.maximum(np.linalg.norm(off, axis=1, keepdims=True), 1), np.float32)


def _graph(center: Array, references: Array, nearness: Array) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "center": center,
        "references": references,
        "nearness": nearness.astype(np.float32),
        "columns": np.array([1]),
        "tiny": np.array([TINY], np.float32),
        "one": np.array([1], np.float32),
        "many": np.array([len(nearness) + 1], np.float32),
    }
    nodes = [
        helper.make_node("Sub", [ROWS, "center"], ["off"]),
        helper.make_node("Abs", ["off"], ["magnitudes"]),
        helper.make_node("ReduceMax", ["magnitudes", "columns"], ["largest"], keepdims=1),
        helper.make_node("Max", ["largest", "tiny"], ["scale"]),
        helper.make_node("Div", ["off", "scale"], ["scaled"]),
        helper.make_node("ReduceL2", ["scaled", "columns"], ["norm"]),
        helper.make_node("Max", ["norm", "one"], ["length"]),
        helper.make_node("Div", ["scaled", "length"], ["unit"]),
        helper.make_node("Cast", ["references"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["unit", "wide"], ["similar"], transB=1),
        helper.make_node("ReduceMax", ["similar", "columns"], ["near"], keepdims=1),
        helper.make_node("LessOrEqual", ["nearness", "near"], ["further"]),
        helper.make_node("Cast", ["further"], ["counted"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["counted", "columns"], ["count"], keepdims=0),
        helper.make_node("Add", ["count", "one"], ["ranked"]),
        helper.make_node("Div", ["ranked", "many"], [TYPICALITY]),
    ]
    rows = helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, ["n", len(center)])
    found = helper.make_tensor_value_info(TYPICALITY, TensorProto.FLOAT, ["n"])
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "typicality", [rows], [found], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made
