"""The page shows what the report has, whole and escaped, and is one file that loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from topwork.heads import MetricValue
from topwork.report import (
    AbstentionCost,
    ClassMetrics,
    ConfusionMatrix,
    LearningCurvePoint,
    Misclassified,
    ReliabilityBin,
    Report,
    SemiSupervisedGain,
)
from topwork_server.heads.evaluation.report_page import render_page
from topwork_server.heads.evaluation.report_plots import ticks

VOID = {"meta", "br", "img"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open; keeps what is still open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        """Nothing is left open by <line/>."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def figure(name: str, value: float) -> MetricValue:
    return MetricValue(name, value, value - 0.05, value + 0.05)


def report() -> Report:
    return Report(
        head="birds-label",
        task="classification",
        kind="linear",
        set="birds",
        version=7,
        target="label",
        encoder="letters",
        tap="mean",
        pooling="row",
        fingerprint="f" * 64,
        names=("owl", "<script>alert(1)</script>"),
        estimate="5-fold cross-validation over 482 items",
        items=482,
        labeled=482,
        unlabeled=9,
        metrics=(figure("accuracy", 0.9), figure("log loss", 0.31)),
        baseline=(figure("accuracy", 0.5),),
        calibration_before=(ReliabilityBin(0.9, 0.7, 100), ReliabilityBin(0.5, 0.5, 0)),
        calibration_after=(ReliabilityBin(0.72, 0.7, 100),),
        temperature=1.7,
        classes=(ClassMetrics("<script>alert(1)</script>", 200, 0.9, 0.8, 0.85),),
        confusion=ConfusionMatrix(("owl", "<script>alert(1)</script>"), ((200, 41), (7, 234))),
        learning_curve=(LearningCurvePoint(40, figure("accuracy", 0.7)), LearningCurvePoint(385, figure("accuracy", 0.9))),
        misclassified=(
            Misclassified("id & 1", "owl", "<script>alert(1)</script>", 0.98, 'said "<b>so</b>"'),
            Misclassified("2", "owl", "wren", 0.97, "data:image/jpeg;base64,AAAA"),
            Misclassified("3", "owl", "wren", 0.96, "data:audio/mpeg;base64,AAAA"),
        ),
        semi_supervised=SemiSupervisedGain(
            "self-training", 9, figure("accuracy", 0.88), figure("accuracy", 0.9), MetricValue("accuracy", 0.02, -0.01, 0.05)
        ),
        chosen={"l2": 0.1},
        measure="mean log likelihood",
        trials=tuple({"tap": "mean", "pooling": "row", "settings": {"l2": i / 10}, "score": -i / 7} for i in range(20)),
        history=({"epoch": 1, "loss": 0.5123},),
        options={},
        warnings=("a class has 5 items & no more",),
    )


def test_all_sections_are_there_and_every_tag_is_closed() -> None:
    made = render_page(report())
    parser = Balanced()
    parser.feed(made)
    assert not parser.open
    titles = re.findall(r"<h2>(.*?)</h2>", made)
    assert titles == [
        "Metrics",
        "With more labels",
        "Is it as sure as it should be?",
        "Unlabeled items",
        "Each class",
        "What is taken for what",
        "Most confidently wrong",
        "What was tried",
        "Epoch by epoch",
        "How it was made",
    ]
    for fragment in (
        "0.900",
        "0.850 to 0.950",
        "the majority class has 0.500",
        "The best 12 of 20",
        "made no difference",
        "98% sure",
        '<img src="data:image/jpeg;base64,AAAA"',
        '<audio controls preload="none" src="data:audio/mpeg;base64,AAAA">',
    ):
        assert fragment in made


def test_items_that_trained_and_items_that_were_held_out_are_told_apart() -> None:
    made = render_page(replace(report(), labeled=50, items=10, unlabeled=3, estimate="10 items held out; 50 trained it"))
    assert "trained on 50 labeled items" in made
    assert "trained on 50 with a label, evaluated on 10; 3 have none" in made


def test_the_cost_of_abstaining_is_drawn_and_told() -> None:
    known = MetricValue("accuracy", 0.97, 0.95, 0.98)
    costs = (
        AbstentionCost(0.05, 0.95, MetricValue("answered", 0.0, 0.0, 0.02), None, MetricValue("cost", 0.05, 0.05, 0.05)),
        AbstentionCost(0.2, 0.8, MetricValue("answered", 0.7, 0.65, 0.74), known, MetricValue("cost", 0.081, 0.07, 0.095)),
    )
    made = render_page(replace(report(), abstaining=costs))
    assert "share of items with an answer" in made
    assert re.search(r"<td>0.2</td><td>0.70\d?</td><td>0.970 \(0.950 to 0.980\)</td><td>0.081", made)


def test_what_users_wrote_is_never_markup() -> None:
    made = render_page(report())
    assert "<script" not in made
    assert "<b>so</b>" not in made
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made
    assert "id &amp; 1" in made


def test_it_loads_nothing_and_shows_only_pictures_of_its_own() -> None:
    shown = replace(report(), misclassified=(Misclassified("1", "owl", "wren", 0.9, "https://example.com/spy.jpg"),))
    made = render_page(shown)
    assert "<img" not in made
    assert not re.search(r'(src|href)="(?!data:)', made)


def test_numbers_have_a_scatter_and_errors_a_scale_of_their_own() -> None:
    numbers = replace(
        report(),
        task="regression",
        metrics=(figure("R2", 0.6), figure("MAE", 40.0)),
        baseline=(figure("R2", 0.0), figure("MAE", 60.0)),
        scatter=((1.0, 1.2), (3.0, 2.5)),
        interval=0.8,
        confusion=None,
        classes=(),
        calibration_before=(),
        calibration_after=(),
    )
    made = render_page(numbers)
    assert "Truth and prediction" in made
    assert "Largest errors" in made
    assert "the mean has 0.000" in made


def test_long_names_do_not_stretch_the_page_and_counts_do_not_touch() -> None:
    long = "<i>" + "a name that goes on " * 20
    odd = replace(report(), names=(long, "owl"), confusion=ConfusionMatrix((long, "owl"), ((12000, 0), (1, 2))))
    made = render_page(odd)
    cells = re.findall(r"<th[^>]*>(.*?)</th>", made[made.index("What is taken for what") :])
    assert max(map(len, cells)) < 60
    assert ">12,000</td>" in made
    assert 'title="&lt;i&gt;a name' in made
    assert "<i>" not in made


def test_a_class_that_none_evaluated_and_unlabeled_items_that_none_used_say_so() -> None:
    unused = SemiSupervisedGain(
        "label-propagation", 0, figure("accuracy", 0.9), figure("accuracy", 0.9), MetricValue("accuracy", 0.0, 0.0, 0.0)
    )
    made = render_page(replace(report(), classes=(ClassMetrics("emu", 0, 0.0, 0.0, 0.0),), semi_supervised=unused))
    assert "<td>emu</td><td>0</td><td>-</td><td>-</td><td>-</td>" in made
    assert "None of them was used by label-propagation" in made
    assert "made no difference" not in made


def test_the_baseline_is_named_as_what_it_is() -> None:
    assert "an answer of the first tokens has 0.500" in render_page(replace(report(), task="question-answering"))


def test_what_was_not_evaluated_says_so() -> None:
    bare = replace(
        report(),
        metrics=(),
        baseline=(),
        learning_curve=(),
        estimate="no item had a label: nothing was evaluated",
        misclassified=(),
    )
    made = render_page(replace(bare, target=""))
    assert "classification of classes by their descriptions, linear head" in made
    assert "nothing was evaluated" in made
    assert 'class="big"' not in made


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [((0.0, 1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), ((-3.7, 12.0), [0.0, 5.0, 10.0]), ((2.0, 2.0), [2.0]), ((0.91, 0.95), None)],
)
def test_ticks_are_round_and_within(ends: tuple[float, float], wanted: list[float] | None) -> None:
    found = ticks(*ends)
    assert wanted is None or found == wanted
    assert all(ends[0] - 1e-9 <= tick <= ends[1] + 1e-9 for tick in found)


def test_scales_and_counts_are_told() -> None:
    made = render_page(replace(report(), metrics=(figure("accuracy", 0.9), figure("log loss", 0.31))))
    assert ">0.7</text>" in made  # where the scale of the log loss ends
    assert "<title>100 predictions, 72% sure, 70% right</title>" in made
    assert ">100</text>" in made


def test_a_curve_of_one_fold_says_why_it_does_not_end_at_the_headline() -> None:
    curve = (LearningCurvePoint(40, figure("accuracy", 0.7)), LearningCurvePoint(385, figure("accuracy", 0.85)))
    made = render_page(replace(report(), learning_curve=curve, learning_curve_estimate="the first of 5 folds alone, 97 items"))
    assert "the first of 5 folds alone, 97 items" in made
    assert "ends at 0.850" in made
    assert "together give 0.900" in made


def test_ready_vectors_have_no_empty_names() -> None:
    made = render_page(replace(report(), encoder="", tap="vectors", fingerprint=""))
    assert "linear head on ready vectors of the set birds" in made
    assert "of  " not in made
    assert "of <" not in made


def test_numbers_of_any_scale_can_be_read() -> None:
    points = tuple((1e9 + i, 1e9 + i + 0.5) for i in range(4))
    large = replace(
        report(), task="regression", scatter=points, metrics=(figure("R2", 0.9), MetricValue("RMSE", 4e-11, 3e-11, 5e-11))
    )
    made = render_page(large)
    assert "3e-11 to 5e-11" in made
    assert "truth, less 1000000000<" in made
