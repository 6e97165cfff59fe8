"""Checks of what a plugin returns, at the place where it comes in.

A fault is then reported as the plugin's, with what was expected and what was found, and not as an error somewhere behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.errors import InvalidInput, PluginFault
from topwork_server.plugin_api.boxes import EDGES
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.trainer import Examples, FittedHead, Target, Trainer
from topwork_server.plugin_api.vector_index import VectorIndex
from topwork_server.types import Array, Sample


def search_index(
    index: VectorIndex, queries: Array, k: int, *, effort: int, threads: int, mask: Array | None = None
) -> tuple[Array, Array]:
    """Call `index.search`, whose scores (q, k) float32 and positions (q, k) int64 below its count are checked. PluginFault."""
    found = index.search(queries, k, effort=effort, threads=threads, mask=mask)
    if not isinstance(found, tuple) or len(found) != 2:
        raise _fault(index, "search returned", "a tuple of scores and positions", type(found).__name__)
    scores, positions = found
    for name, array, dtype in (("scores", scores, np.float32), ("positions", positions, np.int64)):
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (len(queries), k):
            expected = f"{np.dtype(dtype)} {[len(queries), k]}"
            raise _fault(index, f"search returned {name} of", expected, _described(array))
    if positions.size and not (positions.min() >= -1 and positions.max() < index.count):
        range_ = f"{positions.min()} to {positions.max()}"
        raise _fault(index, "search returned positions of", f"-1 (none), or 0 to {index.count - 1}", range_)
    return scores, positions


def fit_heads(
    trainer: type[Trainer], examples: Examples, subsets: Sequence[Array], options: Any, seed: int, threads: int, report: Report
) -> list[FittedHead]:
    """Call `trainer.fit`, whose heads are checked: one for each subset, on a view that there is, with scores as the target has
    them. PluginFault; InvalidInput for a target that the trainer does not learn."""
    if examples.target not in trainer.targets:
        raise InvalidInput(f"{trainer.__name__} does not learn {examples.target.value}", remedy="choose another kind of training")
    heads = trainer.fit(examples, subsets, options, seed, threads, report)
    if not isinstance(heads, Sequence) or len(heads) != len(subsets):
        found = f"{len(heads)} heads" if isinstance(heads, Sequence) else type(heads).__name__
        raise _fault(trainer, "fit returned", f"{len(subsets)} heads, one for each subset", found)
    for head in heads:
        _check_head(trainer, head, examples)
    return list(heads)


def _check_head(trainer: type[Trainer], head: FittedHead, examples: Examples) -> None:
    if not isinstance(head, FittedHead):
        raise _fault(trainer, "fit returned", "a list of FittedHead", f"a {type(head).__name__} in it")
    if not 0 <= head.view < len(examples.views):
        raise _fault(trainer, "fit returned a head of view", f"0 to {len(examples.views) - 1}", str(head.view))
    rows = examples.views[head.view].rows[: max(2, examples.together)]
    scores, shape = head.scores(rows), (len(rows), _outputs(examples))
    if not isinstance(scores, np.ndarray) or scores.dtype != np.float32 or scores.shape != shape:
        raise _fault(trainer, "a head's scores are", f"float32 {list(shape)}", _described(scores))


def check_cost(encoder: Encoder, cost: int) -> int:
    """A sample's cost, which is a whole number above 0. PluginFault."""
    if not isinstance(cost, int | np.integer) or cost < 1:
        raise _fault(encoder, "the cost of a sample is", "a whole number above 0", repr(cost)[:60])
    return int(cost)


def check_sample(encoder: Encoder, sample: Sample) -> Sample:
    """Check what `preprocess` gives: a Sample whose inputs are arrays. PluginFault where it is not."""
    if not isinstance(sample, Sample):
        raise _fault(encoder, "preprocess gave", "Samples", f"a {type(sample).__name__}")
    for name, array in sample.inputs.items():
        if not isinstance(array, np.ndarray):
            raise _fault(encoder, f"the input {name!r} of a sample is", "a numpy array", f"a {type(array).__name__}")
    return sample


def _outputs(examples: Examples) -> int:
    if examples.target is Target.SPAN:
        return 2
    if examples.target is Target.BOXES:
        return len(examples.names) + EDGES
    return examples.values.shape[1] if examples.target in (Target.NUMBERS, Target.VECTORS) else len(examples.names)


def _described(found: Any) -> str:
    return f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"


def _fault(plugin: Any, what: str, expected: str, found: str) -> PluginFault:
    owner = plugin if isinstance(plugin, type) else type(plugin)
    return PluginFault(
        f"{owner.__module__}.{owner.__qualname__}: {what} {found}; its contract asks for {expected}",
        remedy="report it to the plugin's author, who finds it with the contract tests of topwork_server.testing",
    )
