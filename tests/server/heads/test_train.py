"""A training from end to end, in this process: what is read, learned, evaluated and published; and a probe of several sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heads_harness import Trainers
from sample_batches import DIM, POOLED, names
from topwork.heads import MetricValue
from topwork_plugins.few_shot.plugin import ZeroShotTrainer
from topwork_server import FittedHead, Granularity, Tap, TrainerSpec
from topwork_server.errors import InvalidInput, NotFound, TopworkError
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Column, ColumnType, ItemBatch, SetDefinition
from topwork_server.features import TapRows
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import HeadDefinition, Pooling, Task, UnlabeledUse
from topwork_server.heads.training.layer_probe import ProbeLine, advice, depth_of, probe_table
from topwork_server.heads.training.training_job import TrainingJob, run_training
from topwork_server.runtime.session import Session
from topwork_server.types import FingerprintedTap, Modality, TextItem
from toys_trainers import NearestMean

NOISE = FingerprintedTap(Tap("noise", DIM, Granularity.ITEM), "e" * 64)
CLASSES = ("emu", "owl", "wren")
COUNT = 120
Sets = FeatureSets


@pytest.fixture
def sets(tmp_path: Path) -> Iterator[Sets]:
    opened = FeatureSets(tmp_path / "sets")
    yield opened
    opened.close()


def written(sets: Sets, name: str = "birds", spread: float = 0.6, seed: int = 0, missing: int = 0, auks: int = 0) -> FeatureSet:
    """Rows of POOLED around a center for each class, and rows of NOISE that know nothing; the last `missing` have no label,
    and the first `auks` that of another class."""
    rng, ids = np.random.default_rng(seed), names(0, COUNT)
    classes = np.arange(COUNT) % len(CLASSES)
    centers = np.random.default_rng(7).normal(size=(len(CLASSES), DIM))
    rows = (centers[classes] + spread * rng.normal(size=(COUNT, DIM))).astype(np.float32)
    noise = rng.normal(size=(COUNT, DIM)).astype(np.float32)
    counts = np.ones(COUNT, np.int64)
    labels = [CLASSES[i] if p < COUNT - missing else None for p, i in enumerate(classes)]
    labels[:auks] = ["auk"] * auks
    columns = (
        Column("label", ColumnType.STRING, labels),
        Column("split", ColumnType.STRING, ["test" if i % 4 == 0 else "train" for i in range(COUNT)]),
    )
    keeps = SetDefinition(name, (POOLED, NOISE), encoder="letters", modalities=(Modality.TEXT,), keep_inputs=True)
    feature_set = sets.create(keeps)
    inputs = [TextItem(f"the text of {id}") for id in ids]
    feature_set.write(
        ItemBatch(ids, (TapRows(POOLED, rows, counts), TapRows(NOISE, noise, counts)), columns, (), inputs)
    ).result()
    return feature_set


def definition(feature_set: FeatureSet, **more: Any) -> HeadDefinition:
    plain = HeadDefinition(
        name="birds-label",
        set=feature_set.definition.name,
        version=feature_set.version,
        path=str(feature_set.path),
        target="label",
        kind="linear",
        task=Task.CLASSIFICATION,
        encoder="letters",
        encoder_options={},
        modality=Modality.TEXT,
        views=((POOLED, Pooling.ROW),),
    )
    return replace(plain, **more)


def trained(home: Path, wanted: HeadDefinition, trainers: Any = None) -> Any:
    return run_training(TrainingJob(home, wanted, 1), trainers or Trainers(), quiet)  # type: ignore[arg-type]


def quiet(fraction: float, message: str) -> None:
    assert 0 <= fraction <= 1
    assert message


def test_a_head_is_evaluated_by_folds_and_learns_from_all(sets: Sets, tmp_path: Path) -> None:
    head = trained(tmp_path, definition(written(sets)))
    store = HeadStore(tmp_path / "heads")
    assert store.get("birds-label") == head
    assert head.estimate == f"5-fold cross-validation over {COUNT} items"
    assert (head.labeled, head.unlabeled, head.names) == (COUNT, 0, CLASSES)
    main, base = head.metrics[0], head.baseline[0]
    assert main.name == base.name == "accuracy"
    assert base.value < 0.4 < 0.8 < main.low <= main.value <= main.high < 1
    assert head.max_abs_error < 1e-4


def test_the_report_tells_it_all(sets: Sets, tmp_path: Path) -> None:
    trained(tmp_path, definition(written(sets)))
    report = HeadStore(tmp_path / "heads").report("birds-label")
    sizes = [point.items for point in report.learning_curve]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == COUNT * 4 // 5
    assert report.learning_curve[-1].metric == report.metrics[0]
    assert sum(map(sum, report.confusion.counts)) == COUNT
    wrong = report.misclassified
    assert wrong
    assert all(one.shown == f"the text of {one.id}" and one.truth != one.predicted for one in wrong)
    assert len(wrong) == min(20, round(COUNT * (1 - report.metrics[0].value)))
    assert report.trials[0]["settings"] == {"shrinkage": 0.0}


def test_the_served_graph_is_the_head(sets: Sets, tmp_path: Path) -> None:
    birds = written(sets)
    head = trained(tmp_path, definition(birds))
    session = Session(HeadStore(tmp_path / "heads").graph("birds-label"), 1)
    rows = np.zeros((2, DIM), np.float32)
    scores, probabilities = session.run(["scores", "probabilities"], {"rows": rows})
    warm = np.exp(scores / head.temperature - (scores / head.temperature).max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, warm / warm.sum(1, keepdims=True), atol=1e-6)


def test_what_knows_nothing_is_seen_to_know_nothing(sets: Sets, tmp_path: Path) -> None:
    """The training score of such a head is well above chance; an honest one is not."""
    head = trained(tmp_path, definition(written(sets), views=((NOISE, Pooling.ROW),)))
    assert head.metrics[0].low < 1 / 3 + 0.05


def test_items_that_test_are_never_trained_on(sets: Sets, tmp_path: Path) -> None:
    head = trained(tmp_path, definition(written(sets), test_where="split = 'test'"))
    assert head.estimate == f"{COUNT // 4} items that match split = 'test'"
    assert head.labeled == COUNT * 3 // 4
    report = HeadStore(tmp_path / "heads").report("birds-label")
    assert (report.labeled, report.items, report.unlabeled) == (COUNT * 3 // 4, COUNT // 4, 0)
    assert {one.id for one in report.misclassified} <= set(names(0, COUNT)[::4])


def test_the_same_seed_gives_the_same_head(sets: Sets, tmp_path: Path) -> None:
    birds = written(sets)
    heads = [trained(tmp_path / str(i), definition(birds, seed=seed)) for i, seed in enumerate((3, 3, 4))]
    graphs = [HeadStore(tmp_path / str(i) / "heads").graph("birds-label").read_bytes() for i in range(3)]
    assert graphs[0] == graphs[1]
    assert heads[0].metrics == heads[1].metrics != heads[2].metrics


def test_unlabeled_items_are_compared_with_doing_without(sets: Sets, tmp_path: Path) -> None:
    birds = written(sets, missing=60)
    head = trained(tmp_path, definition(birds, unlabeled=UnlabeledUse.SELF_TRAINING))
    assert (head.labeled, head.unlabeled) == (60, 60)
    helped = HeadStore(tmp_path / "heads").report("birds-label").semi_supervised
    assert helped.method == "self-training"
    assert 0 < helped.items <= 60
    difference = helped.with_them.value - helped.without.value
    assert helped.gain.value == pytest.approx(difference)


class Liar(FittedHead):
    """Its graph is another head's."""

    def __init__(self, true: FittedHead) -> None:
        self._true, self.chosen = true, true.chosen

    def scores(self, rows: Any) -> Any:
        return self._true.scores(rows) + 1

    def graph(self) -> Any:
        return self._true.graph()


class Lies(NearestMean):
    @classmethod
    def fit(cls, *arguments: Any) -> list[FittedHead]:
        return [Liar(head) for head in super().fit(*arguments)]


def test_a_graph_that_is_not_the_head_is_never_served(sets: Sets, tmp_path: Path) -> None:
    liars = Trainers([TrainerSpec("linear", Lies)])
    with pytest.raises(TopworkError, match="the head's graph is not the head: their scores differ by 1"):
        trained(tmp_path, definition(written(sets)), liars)
    with pytest.raises(NotFound):
        HeadStore(tmp_path / "heads").get("birds-label")


def test_one_example_a_class_trains_a_head_that_nothing_evaluates(sets: Sets, tmp_path: Path) -> None:
    few = definition(written(sets), where="id < 'item-00003'")
    head = trained(tmp_path, few)
    assert (head.labeled, head.metrics, head.names) == (3, (), CLASSES)
    assert head.estimate
    assert HeadStore(tmp_path / "heads").report("birds-label").learning_curve == ()
    with pytest.raises(InvalidInput, match="birds cannot be probed"):
        probed([few])


def test_a_test_evaluates_where_folds_cannot(sets: Sets, tmp_path: Path) -> None:
    head = trained(tmp_path, definition(written(sets), where="id < 'item-00003' OR split = 'test'", test_where="split = 'test'"))
    assert head.estimate.endswith("items that match split = 'test'")
    assert head.metrics[0].name == "accuracy"


@pytest.mark.parametrize("target", ["", "label"])
def test_described_classes_need_no_label_nor_even_a_column(sets: Sets, tmp_path: Path, target: str) -> None:
    birds = written(sets, missing=COUNT)
    centers = np.random.default_rng(7).normal(size=(len(CLASSES), DIM))
    descriptions = {"descriptions": dict.fromkeys(CLASSES, "a bird"), "described": (tuple(map(tuple, centers.tolist())),)}
    trainers = Trainers([TrainerSpec("zero-shot", ZeroShotTrainer, min_per_class=0, needs_descriptions=True)])
    head = trained(tmp_path, definition(birds, kind="zero-shot", target=target, **descriptions), trainers)
    assert (head.labeled, head.metrics, head.estimate) == (0, (), "no item had a label: nothing was evaluated")
    scores = Session(HeadStore(tmp_path / "heads").graph("birds-label"), 1).run(["scores"], {"rows": centers.astype(np.float32)})
    assert scores[0].argmax(1).tolist() == [0, 1, 2]


def test_nothing_to_learn_from_is_refused(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="label"):
        trained(tmp_path, definition(written(sets, missing=COUNT)))


def probed(definitions: list[HeadDefinition]) -> dict[str, Any]:
    return probe_table(definitions, Trainers().trainer("linear"), 1, quiet)


def test_a_probe_ranks_sets_and_taps_on_the_same_folds(sets: Sets) -> None:
    views = ((NOISE, Pooling.ROW), (POOLED, Pooling.ROW))
    near, far = written(sets, "near", 0.3), written(sets, "far", 1.0, seed=1)
    found = probed([definition(far, views=views), definition(near, views=views)])
    rows = [(row["set"], row["tap"]) for row in found["rows"]]
    assert rows[:2] == [("near", "pooled"), ("far", "pooled")]
    assert found["rows"][0]["difference"] is None
    second = found["rows"][1]
    assert second["difference"]["value"] == pytest.approx(second["metric"]["value"] - found["rows"][0]["metric"]["value"])
    assert second["difference"]["high"] < 0
    assert found["measure"] == found["baseline"]["name"] == "accuracy"
    assert found["items"] == COUNT
    assert found["advice"].startswith("pooled of near is best")


def test_a_probe_of_one_view_says_what_a_training_says(sets: Sets, tmp_path: Path) -> None:
    birds = written(sets)
    row = probed([definition(birds)])["rows"][0]
    head = trained(tmp_path, definition(birds))
    assert row["metric"]["value"] == pytest.approx(head.metrics[0].value)


def test_a_probe_compares_no_sets_whose_labels_differ(sets: Sets) -> None:
    """One more class moves the numbers of the others: the scores of one set mean nothing under the labels of the other."""
    found = probed([definition(written(sets)), definition(written(sets, "more", auks=6))])
    assert [row["difference"] for row in found["rows"]] == [None, None]


def row(tap: str, value: float, difference: MetricValue | None = None) -> ProbeLine:
    return ProbeLine(
        "birds", "bert", tap, "row", 4, MetricValue("accuracy", value, value - 0.02, value + 0.02), {}, 0.1, difference
    )


def test_advice_names_the_lowest_depth_that_is_as_good() -> None:
    same, worse = MetricValue("accuracy", -0.005, -0.02, 0.01), MetricValue("accuracy", -0.1, -0.15, -0.05)
    text = advice([row("hidden.6", 0.9), row("hidden.4", 0.895, same), row("hidden.1", 0.8, worse)])
    assert "not measurably before hidden.4 of birds" in text
    assert "frozen_blocks=5" in text
    assert "freeze" not in advice([row("pooled", 0.9), row("mean", 0.8, worse)])
    assert "freeze" not in advice([row("hidden.6", 0.9), row("hidden.1", 0.8, worse)])
    of_pictures = advice([row("layer4.pooled", 0.9), row("layer3.pooled", 0.895, same)])
    assert of_pictures.endswith("may freeze the layers up to it.")  # how timm groups them is not known here


def test_advice_tells_poolings_apart_and_is_silent_where_nothing_is_compared() -> None:
    assert advice([row("tokens", 0.9)]) == ""
    twice = [row("tokens", 0.9), replace(row("tokens", 0.8, MetricValue("accuracy", -0.1, -0.2, 0.0)), pooling="mean")]
    assert advice(twice) == "tokens (row) of birds is best, not measurably before tokens (mean) of birds."


@pytest.mark.parametrize(
    ("tap", "depth"), [("hidden.6", 6), ("layer3.pooled", 3), ("pooled", None), ("pooled.mean_std", None), ("tokens", None)]
)
def test_depth_is_read_from_the_name(tap: str, depth: int | None) -> None:
    assert depth_of(tap) == depth
