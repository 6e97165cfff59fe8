"""Heads, reports and predictions in a notebook: short, and all that a user wrote is text."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
from cli_stub_heads import head_info
from PIL import Image
from topwork.errors import InvalidInput
from topwork.fills import FilledGap, FilledText, Fills, FillWord
from topwork.heads import MetricValue
from topwork.predictions import SHOWN, Predictions
from topwork.report import Misclassified, Report

EVIL = "<script>alert(1)</script>"


def report(**others: object) -> Report:
    known = Report(
        head=EVIL, task="classification", kind="linear", set="birds", version=1, target="label", encoder="letters", tap="mean",
        pooling="row", fingerprint="f", names=("owl", EVIL), estimate="5-fold cross-validation over 60 items", items=60,
        labeled=60, unlabeled=0, metrics=(MetricValue("accuracy", 0.9, 0.8, 0.95), MetricValue("RMSE", 4e-11, 3e-11, 5e-11)),
        baseline=(MetricValue("accuracy", 0.5, 0.4, 0.6),), warnings=(EVIL,),
    )  # fmt: skip
    return replace(known, **others)  # type: ignore[arg-type]


def jpeg() -> str:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def test_a_head_tells_what_it_is_and_how_good() -> None:
    head = head_info(
        name=EVIL, metrics=(MetricValue("accuracy", 0.9, 0.8, 0.95),), baseline=(MetricValue("accuracy", 0.5, 0.4, 0.6),)
    )
    html = head._repr_html_()
    assert EVIL not in html
    assert "0.900 (0.800 to 0.950), baseline 0.500" in html
    many = replace(head, names=tuple(f"class {i}" for i in range(1000)), encoder="", warnings=("x" * 9999,) * 9)._repr_html_()
    assert len(many) < 4000
    assert "992 more" in many
    assert "ready vectors" in many


def test_a_report_shows_its_figures_and_what_went_wrong() -> None:
    wrong = (
        Misclassified("folder/a.png", EVIL, "wren", 0.98, jpeg()),
        Misclassified("b", "owl", "wren", 0.97, f"a text {EVIL}"),
        Misclassified("c", "owl", "wren", 0.96, 'data:image/jpeg;base64,AA" onerror="alert(1)'),
        Misclassified("d", "owl", "wren", 0.95, "data:audio/mpeg;base64,AA=="),
        Misclassified("e", "owl", "wren", 0.94, 'data:audio/mpeg;base64,AA" onerror="alert(1)'),
    )
    html = report(misclassified=wrong)._repr_html_()
    assert EVIL not in html
    assert "onerror" not in html
    assert (len(re.findall("<img", html)), len(re.findall("<audio", html))) == (1, 1)
    assert "0.800 to 0.950" in html
    assert "3e-11 to 5e-11" in html
    assert "5-fold cross-validation" in html
    assert len(report()._repr_html_()) < 2000


def test_predictions_are_a_short_table() -> None:
    rows = np.tile(np.array([[0.1, 0.9]], np.float32), (500, 1))
    html = Predictions("h", "classification", ("owl", EVIL), 500, probabilities=rows)._repr_html_()
    assert EVIL not in html
    assert f"and {500 - SHOWN} more" in html
    assert len(html) < 6000


def test_a_long_label_does_not_fill_the_screen() -> None:
    found = Predictions("h", "classification", ("y" * 100_000, "x"), 1, probabilities=np.array([[0.9, 0.1]], np.float32))
    assert len(repr(found)) < 300
    assert len(repr(found[0])) < 200


def test_a_number_has_the_digits_that_its_band_leaves() -> None:
    found = Predictions("h", "regression", (), 1, values=np.array([1e9 + 0.71]), interval=0.25)
    assert str(found[0]).startswith("1000000000.71 (1000000000.46 to")


def test_fills_show_texts_and_words() -> None:
    words = (FillWord(EVIL, 0.75, 7), FillWord("owl", 0.125, 8))
    filled = FilledText(f"a [MASK] {EVIL}", (FilledGap(2, 8, 0, words),))
    failed = FilledText(("a", "b"), error=InvalidInput("the text has no gap", item=1))
    fills = Fills("bert", "mlm", (filled, failed) * 9)
    html = fills._repr_html_()
    assert EVIL not in html
    assert "owl 0.125" in html
    assert "the text has no gap" in html
    assert "and 13 more" in html
    assert filled.filled == f"a {EVIL} {EVIL}"
    assert "18 texts" in repr(fills)
