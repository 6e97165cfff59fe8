"""Warnings of a report: short, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from topwork.heads import MetricValue
from topwork.report import ClassMetrics

from topwork_server.heads.evaluation.evaluation_data import EvaluationData, HeldOutPredictions
from topwork_server.heads.head_types import Task
from topwork_server.plugin_api import splits
from topwork_server.plugin_api.trainer import Examples, Target

FEW = 10  # evaluated examples of a class
WIDE = 0.2  # width of an interval of a share
NAMED = 5


def warnings(
    judged: EvaluationData,
    examples: Examples,
    answers: HeldOutPredictions,
    learnt: Examples | None,
    main: MetricValue,
    gain: MetricValue,
    classes: Sequence[ClassMetrics],
) -> tuple[str, ...]:
    """Collect all warnings; `gain` is that of the main metric over the baseline's."""
    found = [_interval(judged, main), _gain(main, gain), _classes(judged, examples, learnt, classes)]
    return tuple(text for text in (*found, _lost(judged, examples, answers, learnt)) if text)


def _interval(judged: EvaluationData, main: MetricValue) -> str:
    if judged.units < 2:
        return "one item was judged: its figures say nothing of others; label more"
    if judged.task is Task.REGRESSION or main.high - main.low <= WIDE:
        return ""
    what = "groups" if judged.units < len(np.unique(judged.items)) else "items"
    return f"{judged.units} {what} leave {main.name} between {main.low:.2f} and {main.high:.2f}: label more for a surer figure"


def _gain(main: MetricValue, gain: MetricValue) -> str:
    if gain.low > 0:
        return ""
    return f"{main.name} is not clearly better than the baseline, which knows nothing of the items ({gain.value:+.2f})"


def _classes(judged: EvaluationData, examples: Examples, learnt: Examples | None, classes: Sequence[ClassMetrics]) -> str:
    """Name classes that were trained on and never evaluated, or on few examples."""
    never = [of.name for of in classes if not of.support and _known(learnt or examples, of.name)]
    few = [f"{of.name} ({of.support})" for of in classes if 0 < of.support < FEW]
    kind = "entities" if judged.task is Task.TAGGING else "examples"
    texts = [f"learnt from, but never judged: {_some(never)}"] if never else []
    texts += [f"judged on fewer than {FEW} {kind}, so little is known of: {_some(few)}"] if few else []
    return "; ".join(texts)


def _known(examples: Examples, name: str) -> bool:
    """Tell whether any row has that class, label or kind of entity."""
    at = [place for place, of in enumerate(examples.names) if of in (name, f"B-{name}", f"I-{name}")]
    if examples.target is Target.CLASSES:
        return bool(np.isin(examples.values, at).any())
    return bool((examples.values[:, at] > 0).any())


def _lost(judged: EvaluationData, examples: Examples, answers: HeldOutPredictions, learnt: Examples | None) -> str:
    """Name classes that some head had to predict without having seen them."""
    if judged.target is not Target.CLASSES:
        return ""
    lost: set[int] = set()
    for fold in np.unique(answers.folds):
        asked = answers.rows[answers.folds == fold]
        known = learnt.values if learnt else examples.values[splits.rest(examples.count, asked)]
        lost |= {int(value) for value in np.setdiff1d(examples.values[asked], known)}
    names = [examples.names[value] for value in sorted(lost)]
    return f"judged, but all examples were in one fold, so the head there could not know: {_some(names)}" if names else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
