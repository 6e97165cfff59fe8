"""The served graph says what the trainer says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from topwork_server.errors import TopworkError
from topwork_server.heads.serving.head_cache import CHUNK_ROWS, run_head
from topwork_server.heads.training.frozen import max_score_difference
from topwork_server.models.head_graph import served_graph
from topwork_server.plugin_api.trainer import FittedHead, Target, head_graph, linear_graph
from topwork_server.runtime.session import Session

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 4)).astype(np.float32)
BIAS = RNG.normal(size=3).astype(np.float32)
ROWS = RNG.normal(size=(10, 4)).astype(np.float32)
SCORES = ROWS @ WEIGHT.T + BIAS


class Linear(FittedHead):
    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    def scores(self, rows):
        return rows @ WEIGHT.T + BIAS + self.off

    def graph(self):
        return linear_graph(WEIGHT, BIAS)


def computed(tmp_path, target, temperature, rows=ROWS):
    (tmp_path / "head.onnx").write_bytes(served_graph(Linear().graph(), target, temperature))
    return run_head(Session(tmp_path / "head.onnx", 1), rows)


def softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum(1, keepdims=True)


EXPECTED = {
    Target.CLASSES: softmax(SCORES / 2.5),
    Target.LABELS: 1 / (1 + np.exp(-SCORES / 2.5)),
    Target.NUMBERS: SCORES,
    Target.SPAN: SCORES / 2.5,
}


@pytest.mark.parametrize("target", list(EXPECTED))
def test_scores_stay_and_probabilities_follow_the_target(tmp_path, target):
    scores, probabilities = computed(tmp_path, target, 2.5)
    np.testing.assert_allclose(scores, SCORES, rtol=1e-5)
    np.testing.assert_allclose(probabilities, EXPECTED[target], rtol=1e-5)


def test_of_boxes_the_distances_stay(tmp_path):
    weight = np.concatenate([WEIGHT, WEIGHT[:2], WEIGHT[:1]])  # two classes and four distances
    graph = linear_graph(weight, np.zeros(len(weight), np.float32))
    (tmp_path / "head.onnx").write_bytes(served_graph(graph, Target.BOXES, 2.0))
    scores, probabilities = run_head(Session(tmp_path / "head.onnx", 1), ROWS)
    np.testing.assert_allclose(probabilities[:, :2], 1 / (1 + np.exp(-scores[:, :2] / 2)), rtol=1e-5)
    np.testing.assert_array_equal(probabilities[:, 2:], scores[:, 2:])


def test_rows_of_a_picture_are_computed_together(tmp_path):
    """The graph subtracts the mean of each three rows; parts of a size that three does not divide would mix pictures."""
    nodes = [
        helper.make_node("Reshape", ["rows", "picture"], ["pictures"]),
        helper.make_node("ReduceMean", ["pictures", "middle"], ["mean"]),
        helper.make_node("Sub", ["pictures", "mean"], ["apart"]),
        helper.make_node("Reshape", ["apart", "flat"], ["scores"]),
    ]
    constants = {"picture": np.array([-1, 3, 4]), "middle": np.array([1]), "flat": np.array([-1, 4])}
    (tmp_path / "head.onnx").write_bytes(served_graph(head_graph(nodes, constants, 4, 4), Target.NUMBERS, 1.0))
    rows = np.random.default_rng(0).normal(size=(CHUNK_ROWS + 2, 4)).astype(np.float32)
    rows = rows[: len(rows) // 3 * 3]
    assert len(rows) > CHUNK_ROWS - CHUNK_ROWS % 3
    found, _ = run_head(Session(tmp_path / "head.onnx", 1), rows, 3)
    pictures = rows.reshape(-1, 3, 4)
    np.testing.assert_allclose(found, (pictures - pictures.mean(axis=1, keepdims=True)).reshape(-1, 4), atol=1e-5)


def test_many_rows_go_in_parts_and_none_is_fine(tmp_path):
    rows = np.tile(ROWS, (CHUNK_ROWS // 5, 1))
    assert len(rows) > CHUNK_ROWS
    np.testing.assert_allclose(computed(tmp_path, Target.CLASSES, 1.0, rows)[0], np.tile(SCORES, (CHUNK_ROWS // 5, 1)), rtol=1e-5)
    assert [part.shape for part in computed(tmp_path, Target.CLASSES, 1.0, ROWS[:0])] == [(0, 3), (0, 3)]


def test_the_trainers_graph_is_left_alone():
    graph = Linear().graph()
    before = graph.SerializeToString()
    served = onnx.load_from_string(served_graph(graph, Target.CLASSES, 1.0))
    assert graph.SerializeToString() == before
    assert served.opset_import[0].version == 20


def test_agreement_is_the_largest_difference():
    graph = served_graph(Linear().graph(), Target.CLASSES, 3.0)
    assert max_score_difference(Linear(), graph, ROWS) < 1e-5
    assert max_score_difference(Linear(0.25), graph, ROWS) == pytest.approx(0.25, rel=1e-3)
    assert max_score_difference(Linear(), graph, ROWS[:0]) == 0.0


def test_a_graph_of_other_names_is_refused():
    wrong = head_graph([helper.make_node("Identity", ["rows"], ["scores"])], {}, 4, 4)
    wrong.graph.output[0].name = "logits"
    with pytest.raises(TopworkError, match=r"outputs \['logits'\]"):
        served_graph(wrong, Target.CLASSES, 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(TopworkError, match="temperature"):
        served_graph(Linear().graph(), Target.CLASSES, temperature)
