"""Targets and rows of any offset and scale: a head learns them as it learns those near 1, and gives back what came."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_plugins.few_shot.plugin import KnnTrainer
from topwork_plugins.linear.plugin import LinearTrainer
from topwork_plugins.mlp.plugin import MlpTrainer
from topwork_server import Examples, FeatureView, Target
from topwork_server.heads.evaluation.evaluate import evaluate_predictions
from topwork_server.heads.evaluation.evaluation_data import HeldOutPredictions
from topwork_server.heads.head_types import Task
from topwork_server.heads.serving.head_cache import run_head
from topwork_server.heads.training.scaling import Scaling, row_scale
from topwork_server.models.head_graph import served_graph
from topwork_server.runtime.session import Session

COUNT, DIM = 120, 6
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(COUNT, DIM))
NUMBERS = ROWS @ np.arange(1.0, DIM + 1) + 0.1 * RANDOM.normal(size=COUNT)


def examples(rows, values, target=Target.NUMBERS, names=()):
    items = np.arange(COUNT)
    return Examples((FeatureView("t", "row", rows.astype(np.float32)),), target, names, values, items, items)


def learned(given, trainer=LinearTrainer, **options):
    scaling = Scaling.of(given)
    learn, held = np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)
    [fitted] = trainer.fit(scaling.examples, [learn], trainer.options(**options), 0, 1, lambda fraction, message: None)
    return scaling.unscaled(fitted), held


def evaluated(given, head, held):
    task = Task.REGRESSION if given.target is Target.NUMBERS else Task.CLASSIFICATION
    rows = given.views[0].rows[held]
    found = evaluate_predictions(
        given, task, HeldOutPredictions(held, head.scores(rows), held % 4 // 2), [str(i) for i in range(COUNT)], None, 0
    )
    return {figure.name: figure.value for figure in found.metrics}


def served(given, head, path):
    path.write_bytes(served_graph(head.graph(), given.target, 1.0))
    return run_head(Session(path, 1), given.views[0].rows)[1]


PLAIN = evaluated(examples(ROWS, NUMBERS[:, None]), *learned(examples(ROWS, NUMBERS[:, None])))


@pytest.mark.parametrize(
    ("center", "unit"), [(1e9, 1), (-1e12, 1e3), (0, 1e-9), (0, 1e30), (0, 1e-40), (0, 1e140), (1_700_000_000, 86_400)]
)
def test_targets_of_any_offset_and_scale_are_learned_alike(center, unit, tmp_path):
    values = (center + unit * NUMBERS)[:, None]
    given = examples(ROWS, values)
    head, held = learned(given)
    found = evaluated(given, head, held)
    assert found["R2"] == pytest.approx(PLAIN["R2"], abs=1e-4)
    assert found["MAE"] == pytest.approx(unit * PLAIN["MAE"], rel=1e-2)
    assert found["RMSE"] == pytest.approx(unit * PLAIN["RMSE"], rel=1e-2)
    numbers = served(given, head, tmp_path / "head.onnx")
    assert numbers.dtype == np.float64
    np.testing.assert_allclose((numbers - values) / unit, 0, atol=0.6)


@pytest.mark.parametrize(
    ("trainer", "options", "least"), [(KnnTrainer, {}, 0.6), (MlpTrainer, {"members": 1, "epochs": 40, "width": 32}, 0.6)]
)
def test_every_kind_learns_numbers_of_a_large_offset(trainer, options, least, tmp_path):
    given = examples(ROWS, (1e9 + NUMBERS)[:, None])
    head, held = learned(given, trainer, **options)
    assert evaluated(given, head, held)["R2"] > least
    own = head.scores(given.views[0].rows)
    np.testing.assert_allclose(served(given, head, tmp_path / "head.onnx"), own, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 1e5,
        lambda x: 1e6 + 10 * x,
        lambda x: x * 1e-20,
        lambda x: x * 1e25,
        lambda x: x * np.array([1e9, 1, 1, 1, 1e-9, 1]),
        lambda x: x + np.array([0, 2e5, 0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("trainer", [LinearTrainer, KnnTrainer])
def test_rows_of_any_offset_and_scale_are_learned_alike(change, trainer, tmp_path):
    given = examples(change(ROWS), NUMBERS[:, None])
    head, held = learned(given, trainer)
    usual = PLAIN["R2"] if trainer is LinearTrainer else 0.6
    assert evaluated(given, head, held)["R2"] > usual - 2e-3
    own = head.scores(given.views[0].rows)
    np.testing.assert_allclose(served(given, head, tmp_path / "head.onnx"), own, rtol=0, atol=1e-3)


def test_classes_are_learned_from_rows_of_a_large_offset(tmp_path):
    given = examples(ROWS + 1e5, (NUMBERS > 0).astype(np.int64), Target.CLASSES, ("low", "high"))
    head, held = learned(given)
    assert evaluated(given, head, held)["accuracy"] > 0.9
    assert served(given, head, tmp_path / "head.onnx").dtype == np.float32


def test_usual_rows_stay_as_they_are():
    embeddings = np.maximum(RANDOM.normal(size=(300, 40)), 0)
    embeddings[:, 0] += 8  # columns that stand out, as those of BERT do
    embeddings[:, 1] = 0
    assert row_scale(embeddings.astype(np.float32)) is None
    assert row_scale(np.ones((9, 3), np.float32)) is None
    assert row_scale(np.ones((0, 3), np.float32)) is None
