"""Renders a report as one HTML page without scripts, to be opened, sent and printed; `report.html.j2` is its template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.heads import MetricValue, beside
from topwork.report import JPEG, MP3, AbstentionCost, ClassMetrics, DrawnPicture, Report

from topwork_server.heads.evaluation import report_plots

if TYPE_CHECKING:
    from jinja2 import Template

#: Metrics that are errors, or sizes: lower is better, and each group has a scale of its own.
ERRORS = (("calibration error",), ("log loss",), ("mae", "rmse"), ("size of",))
#: The least end of their scales, so that a small error looks small.
LEAST = {"calibration error": 0.2, "log loss": 0.7}
#: The baseline, where it is not the majority class.
BASELINES = {
    "regression": "the mean",
    "question-answering": "an answer of the first tokens",
    "detection": "the mean box of the most frequent class",
}
#: Trials that are listed.
MOST_TRIALS = 12


def render_page(report: Report) -> str:
    """Render a report. Everything that came from a user is escaped."""
    return _template().render(
        report=report,
        reads=_reads(report),
        baseline=next((base for _, base in beside(report.metrics[:1], report.baseline)), None),
        baseline_name=BASELINES.get(report.task, "the majority class"),
        facts=_facts(report),
    )


@lru_cache(1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: most servers never render a page

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "grouped": "{:,}".format,
        "class_cells": _class_cells,
        "cost_cells": _cost_cells,
        "trial_cells": _trial_cells,
        "history_cells": _history_cells,
    }
    pages.globals |= {
        "answered": _answered,
        "bar": _bar,
        "beside": beside,
        "curve": _curve,
        "reliability": _reliability,
        "scatter": _scatter,
        "drawn": _drawn,
        "jpeg": JPEG,
        "mp3": MP3,
        "most_trials": MOST_TRIALS,
        "zip": zip,
    }
    return pages.get_template("report.html.j2")


def _reads(report: Report) -> str:
    """Name what the head reads: "pooled of resnet50-thin"."""
    if not report.encoder:
        return f"ready vectors of the set {report.set}"
    pooling = f" ({report.pooling})" if report.pooling not in ("row", "rows") else ""
    return f"{report.tap}{pooling} of {report.encoder}"


def _scale_end(report: Report, name: str) -> float:
    """Find the end of the scale of an error, the same for those of one unit; 0 for shares, which end at 1."""
    kin = next((names for names in ERRORS if name.lower().startswith(names)), ())
    if not kin:
        return 0.0
    ends = [metric.high for metric in report.metrics if metric.name.lower().startswith(kin)]
    ends += [metric.value for metric in report.baseline if metric.name.lower().startswith(kin)]
    return max(ends) and max(LEAST.get(kin[0], 0.0), *ends)


def _bar(report: Report, metric: MetricValue, base: MetricValue | None) -> str:
    """Draw the interval of a metric on its scale."""
    end, baseline = _scale_end(report, metric.name), base.value if base else None
    scale = (0.0, end) if end else (_scale_start(min(metric.low, baseline or 0.0)), 1.0)
    return report_plots.interval(metric.value, metric.low, metric.high, scale, baseline)


def _scale_start(lowest: float) -> float:
    """Find the start of the scale of a share: 0, or a round number below."""
    return max(-1.0, math.floor(lowest * 10) / 10) if lowest < -0.02 else 0.0


def _curve(report: Report, baseline: MetricValue | None) -> str:
    figures = [(point.metric.value, point.metric.low, point.metric.high) for point in report.learning_curve]
    name, known = report.metrics[0].name, baseline.value if baseline else None
    return report_plots.curve([point.items for point in report.learning_curve], figures, name, known)


def _reliability(report: Report) -> str:
    before, after = (
        [(one.confidence, one.accuracy, one.count) for one in bins]
        for bins in (report.calibration_before, report.calibration_after)
    )
    return report_plots.reliability(before, after)


def _answered(report: Report) -> str:
    """Plot accuracy over the share of items that have an answer, from the cheapest abstention to all items."""
    points = [(one.answered.value, one.accuracy) for one in report.abstaining] + [(1.0, report.metrics[0])]
    return report_plots.answered([(share, of.value, of.low, of.high) for share, of in points if of])


def _cost_cells(one: AbstentionCost) -> tuple[str, ...]:
    right = f"{one.accuracy.text()} ({one.accuracy.interval_text})" if one.accuracy else "-"
    return f"{one.cost:g}", one.answered.text(), right, f"{one.expected.text()} ({one.expected.interval_text})"


def _scatter(report: Report) -> str:
    return report_plots.scatter(report.scatter, report.interval)


def _drawn(picture: DrawnPicture) -> str:
    truth, predicted = (
        [(one.box, f"{one.label} {one.score:.2f}" if predicted else one.label) for one in found]
        for found, predicted in ((picture.truth, False), (picture.predicted, True))
    )
    shown = picture.shown if picture.shown.startswith(JPEG) else ""
    return report_plots.boxes(picture.width, picture.height, truth, predicted, shown)


def _class_cells(one: ClassMetrics) -> tuple[str, ...]:
    """Format a class; one that was never evaluated has dashes."""
    parts = (f"{part:.3f}" if one.support else "-" for part in (one.precision, one.recall, one.f1))
    return (one.name, f"{one.support:,}", *parts)


def _trial_cells(trial: Mapping[str, Any]) -> tuple[str, ...]:
    return trial["tap"], trial["pooling"], _settings(trial["settings"]), f"{trial['score']:.4f}"


def _history_cells(entry: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{entry[name]:.4g}" if isinstance(entry[name], float) else str(entry[name]) for name in names)


def _facts(report: Report) -> tuple[tuple[str, str], ...]:
    """List how the head was made: (name, text)."""
    return (
        ("trained on", f"version {report.version} of {report.set}, column {report.target}"),
        *([("weighed by", f"column {report.weight}")] if report.weight else []),
        ("items", f"trained on {report.labeled:,} with a label, evaluated on {report.items:,}; {report.unlabeled:,} have none"),
        ("reads", _reads(report) + (f", fingerprint {report.fingerprint}" if report.fingerprint else "")),
        ("chosen", _settings(report.chosen)),
        ("options", _settings(report.options) or "as they come"),
        ("seed", str(report.seed)),
        ("trained", f"in {report.training_seconds:.1f} s by Topwork {report.server_version}"),
    )


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items())
