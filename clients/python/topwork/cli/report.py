"""`topwork report`: how good a head is and where it fails, on the terminal or as a page."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import click

from topwork._display.number_text import counted
from topwork._files import save_features
from topwork.cli import output
from topwork.cli.connection import connected, connection
from topwork.cli.output import cut
from topwork.cli.verb import PATH, verb
from topwork.errors import InvalidInput
from topwork.heads import DESCRIBED, MetricValue, beside
from topwork.probes import settings_text
from topwork.report import AbstentionCost, ClassMetrics, LearningCurvePoint, Misclassified, Report

#: Classes of a confusion matrix that fits on a screen; pairs, classes and items that are shown of more; letters.
MATRIX, PAIRS, WORST, WRONG = 12, 8, 10, 8
NAME, TEXT, BESIDE_TEXT, BAR = 14, 60, 40, 30
#: What a confusion matrix of very many classes joins the rest under.
OTHERS = "others"
EXAMPLES = """\
Every metric is of items that its head has not learned from, with its 95% interval.

examples:
  topwork report birds-label
  topwork report birds-label --page birds.html --open
"""


@verb(EXAMPLES)
@click.argument("head", metavar="HEAD")
@click.option("--page", type=PATH, metavar="FILE", help="write it with plots, as one HTML file")
@click.option("--open", is_flag=True, help="open the page in a browser")
@connection
def report(arguments: SimpleNamespace) -> int:
    if arguments.page and not arguments.page.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {arguments.page.absolute().parent}", remedy="create it, or write elsewhere")
    paged = arguments.page or arguments.open
    with connected(arguments) as client:
        found = client.report(arguments.head)
        page = client.report_page(arguments.head) if paged else ""
    written = _written(page, arguments) if paged else None
    if arguments.json:
        output.as_json({**found.json, **({"page": str(written)} if written else {})})
    elif written:
        print(f"the report of {found.head} -> {written}")
    else:
        show(found)
    return 0


def _written(page: str, arguments: SimpleNamespace) -> Path:
    path = arguments.page or Path(tempfile.mkdtemp(prefix="topwork-"), f"{arguments.head.replace('/', '-')}.html")
    with save_features.whole(path) as file:
        file.write(page.encode())
    if arguments.open:
        webbrowser.open(path.absolute().as_uri())
    return Path(path)


def show(report: Report) -> None:
    """Print all of the report that a terminal can show."""
    console = output.console()
    head = f"{report.head}: {report.task} of {report.target or DESCRIBED} in {report.set}, version {report.version}"
    console.print(head, style="bold", markup=False)
    output.facts(_facts(report))
    _metrics(report)
    _help(report)
    _curve(report.learning_curve, report.learning_curve_estimate)
    _abstaining(report.abstaining)
    _confusion(report)
    _classes(report.classes)
    _wrong(report)
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow")


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    yield "learned by", f"{report.kind} on {report.encoder or 'ready vectors'}/{report.tap} ({report.pooling})"
    yield "judged by", report.estimate
    yield "items", f"learned from {report.labeled:,} with a label, judged by {report.items:,}; {report.unlabeled:,} have no label"
    if report.weight:
        yield "weighed by", report.weight
    if report.chosen:
        yield "chosen", settings_text(report.chosen)
    if report.temperature != 1.0:
        yield "calibrated", f"scores over {report.temperature:.3g}, a temperature that was fitted on held-out items"
    if report.interval:
        yield "90% band", f"prediction +- {report.interval:.4g}"


def _metrics(report: Report) -> None:
    if not report.metrics:
        return
    _title("metrics on held-out items")
    table = output.table("metric", "value", "95% interval", "baseline", right=("value", "baseline"))
    output.rows(table, (_metric_line(*pair) for pair in beside(report.metrics, report.baseline)))


def _metric_line(metric: MetricValue, baseline: MetricValue | None) -> Iterable[str]:
    return (
        metric.name,
        metric.text(),
        metric.interval_text,
        metric.text(baseline.value) if baseline else "",
    )


def _help(report: Report) -> None:
    if not (used := report.semi_supervised):
        return
    if not used.items:
        _title(f"no unlabeled item was used ({used.method})")
        return
    _title(f"what {counted(used.items, 'unlabeled item')} did ({used.method})")
    gain = f"{used.gain.value:+.3f} ({used.gain.low:+.3f} to {used.gain.high:+.3f})"
    print(f"{used.without.name} {used.without.value:.3f} without, {used.with_them.value:.3f} with them: {gain}")


def _curve(points: Iterable[LearningCurvePoint], estimate: str) -> None:
    """Draw a bar a size, from the worst interval's end to the best one's, so that growth can be seen."""
    found = list(points)
    if not found:
        return
    evaluated = f" (evaluated on {estimate})" if estimate else ""
    _title(f"learning curve: {found[0].metric.name} by items learned from{evaluated}")
    low, high = min(p.metric.low for p in found), max(p.metric.high for p in found)
    width = max(len(f"{p.items:,}") for p in found)
    for p in found:
        length = round(BAR * (p.metric.value - low) / (high - low)) if high > low else BAR
        interval = f"({p.metric.low:.3f} to {p.metric.high:.3f})"
        print(f"{p.items:>{width},}  {'#' * length:{BAR}}  {p.metric.value:z.3f} {interval}")


def _abstaining(costs: Iterable[AbstentionCost]) -> None:
    """Print a line a cost of no answer: how many items have an answer then, and how good it is."""
    found = list(costs)
    if not found:
        return
    _title("with --abstain: what no answer costs where a wrong one costs 1")
    numbers = ("abstain", "answered", "accuracy", "cost an item")
    output.rows(output.table(*numbers, "95% interval", right=numbers), map(_cost_line, found))


def _cost_line(one: AbstentionCost) -> Iterable[str]:
    right = one.accuracy.text() if one.accuracy else ""
    return f"{one.cost:g}", one.answered.text(), right, one.expected.text(), one.expected.interval_text


def _confusion(report: Report) -> None:
    found = report.confusion
    if not found or not found.names:
        return
    if len(found.names) > MATRIX:
        _title("confused most often")
        table = output.table("items", "truth", "predicted", right=("items",))
        pairs = [pair for pair in found.pairs() if OTHERS not in pair[1:]]
        output.rows(table, ((f"{count:,}", cut(truth, TEXT), cut(predicted, TEXT)) for count, truth, predicted in pairs[:PAIRS]))
        return
    _title("confusion: truth down, predicted across")
    names = _distinct([cut(name, NAME) for name in found.names])
    lines = ((name, *(f"{count:,}" if count else "." for count in row)) for name, row in zip(names, found.counts, strict=True))
    output.rows(output.table("", *names, right=names), lines)


def _distinct(names: list[str]) -> list[str]:
    """Number the titles of columns that are cut alike: a table knows columns by title."""
    return [name if names.count(name) == 1 else f"{name} {position}" for position, name in enumerate(names, 1)]


def _classes(classes: Iterable[ClassMetrics]) -> None:
    every = list(classes)
    found = sorted((one for one in every if one.support), key=lambda one: one.f1)
    if not found:
        return
    without_items = f", {len(every) - len(found)} never evaluated" if len(every) > len(found) else ""
    _title("classes, worst first" + (f", {WORST} of {len(found)}" if len(found) > WORST else "") + without_items)
    numbers = ("items", "precision", "recall", "F1")
    output.rows(output.table("class", *numbers, right=numbers), map(_class_line, found[:WORST]))


def _class_line(one: ClassMetrics) -> Iterable[str]:
    return cut(one.name, TEXT), f"{one.support:,}", *(f"{part:.3f}" for part in (one.precision, one.recall, one.f1))


def _wrong(report: Report) -> None:
    if not report.misclassified:
        return
    _title("most confidently wrong")
    sure = "error" if report.task == "regression" else "confidence"
    texts = any(one.text for one in report.misclassified[:WRONG])
    table = output.table("id", "truth", "predicted", sure, *(["text"] if texts else []), right=(sure,))
    output.rows(table, (_wrong_line(one, texts) for one in report.misclassified[:WRONG]))


def _wrong_line(one: Misclassified, texts: bool) -> Iterable[str]:
    width = BESIDE_TEXT if texts else TEXT
    cells = (cut(one.id, TEXT), cut(one.truth, width), cut(one.predicted, width), f"{one.confidence:.3f}")
    return *cells, *([cut(one.text, TEXT)] if texts else [])


def _title(text: str) -> None:
    console = output.console()
    console.print()
    console.print(text, style="bold", markup=False)
