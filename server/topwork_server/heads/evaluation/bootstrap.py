"""95% intervals of metrics, by the bootstrap over items (Efron and Tibshirani 1993, chapter 13).

A resample is a weight for each unit (an item, or a group of items): how often it was drawn. Metrics are computed from weights,
many resamples at once. The intervals describe the heads that were evaluated; they do not include the variation that another draw
of training items would bring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from topwork_server.types import Array

RESAMPLES = 1000
#: Fewer resamples do not show the tails: the interval is then that of a normal distribution with their spread.
FOR_QUANTILES = 200
LEVEL = 0.95
CHUNK = 1 << 22  # weights that are held at once
ROUNDING = 1e-9  # by which means of one number differ, as their weights are added in another order

#: Maps (b, units) float64 weights to (b,) values; NaN where a resample leaves a metric undefined.
MetricFunction = Callable[[Array], dict[str, Array]]
#: The lowest and the highest value of a metric, by its name.
Bounds = Callable[[str], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    value: float
    low: float
    high: float


def bootstrap_intervals(
    figures: MetricFunction, units: int, count: int, seed: int, bounds: Bounds
) -> dict[str, ConfidenceInterval]:
    """Compute each metric with its interval from `count` resamples; a metric that is undefined on all items is left out."""
    values = {name: float(value[0]) for name, value in figures(np.ones((1, units))).items()}
    draws: dict[str, list[Array]] = {name: [] for name, value in values.items() if np.isfinite(value)}
    for weights in resamples(units, count, seed):
        found = figures(weights)
        for name, drawn in draws.items():
            drawn.append(found[name])
    return {name: interval(values[name], np.concatenate(drawn), units, bounds(name)) for name, drawn in draws.items()}


def resamples(units: int, count: int, seed: int) -> Iterator[Array]:
    """Yield (b, units) float64 weights, `count` in all: how often each unit was drawn, in as many draws as there are units."""
    random = np.random.default_rng(seed)
    at_once = max(1, CHUNK // units)
    for start in range(0, count, at_once):
        many = min(at_once, count - start)
        drawn = random.integers(0, units, (many, units), dtype=np.int32)
        yield np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(np.float64)


def affordable_resamples(entries: int, budget: int = 100_000_000, least: int = FOR_QUANTILES) -> int:
    """Choose the number of resamples by their cost: RESAMPLES for few entries, `least` for many."""
    return int(np.clip(budget // max(1, entries), least, RESAMPLES))


def interval(value: float, draws: Array, units: int, bounds: tuple[float, float]) -> ConfidenceInterval:
    """Compute an interval from the percentiles of the resamples.

    It is widened for few units (Hesterberg 2015, section 3.2: the expanded percentile interval) and moved by twice the bias that
    the bootstrap shows (once for the resamples', once for the value's own). Where half of them are undefined, it spans the bounds
    of the metric; an infinite bound is replaced by the value, since a report holds no infinity. Where all resamples of a mean
    between 0 and 1 agree, the items were all alike (all right, all wrong, none answered), and what was not seen moves it.
    """
    defined = draws[np.isfinite(draws)]
    if len(defined) * 2 < len(draws) or units < 2:
        return ConfidenceInterval(value, *(float(bound) if np.isfinite(bound) else value for bound in bounds))
    if bounds == (0.0, 1.0) and np.ptp(defined) < ROUNDING:
        unseen = _most_unseen(units)
        return ConfidenceInterval(value, value - unseen * value, value + unseen * (1 - value))
    tail = NormalDist().cdf(-np.sqrt(units / (units - 1)) * t_quantile((1 + LEVEL) / 2, units - 1))
    if len(draws) < FOR_QUANTILES:
        half = t_quantile((1 + LEVEL) / 2, len(defined) - 1) * float(np.std(defined, ddof=1))
        low, high = value - half, value + half
    else:
        low, high = np.quantile(defined, [tail, 1 - tail]) - 2 * (defined.mean() - value)
    return ConfidenceInterval(value, min(value, max(bounds[0], float(low))), max(value, min(bounds[1], float(high))))


def t_quantile(probability: float, freedom: int) -> float:
    """Student's quantile, by the expansion of Abramowitz and Stegun 26.7.5; within 1% from 3 degrees of freedom on."""
    z, v = NormalDist().inv_cdf(probability), max(freedom, 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / v ** (power + 1) for power, term in enumerate(terms)))


def _most_unseen(units: int) -> float:
    """Compute the largest share that is likely of what none of the units is: the end of Wilson's (1927) interval of 0 of them.

    A mean of units that are all alike moves by so much of the way to its bounds, were these units at a bound. Of a share, all
    right or all wrong, that is Wilson's interval; of a cost between, its like.
    """
    z2 = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    return float(z2 / (units + z2))
