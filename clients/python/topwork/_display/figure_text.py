"""Numbers of reports and predictions as text, whatever their unit is."""

from __future__ import annotations

import math
from typing import Protocol


def figure_text(value: float, *beside: float) -> str:
    """Three decimals, or four digits where this and the numbers `beside` it are all very large or very small."""
    largest = max(map(abs, (value, *beside)))
    return f"{value:z.3f}" if not largest or 1e-3 <= largest < 1e5 else f"{value:.4g}"


class Interval(Protocol):
    """A figure: its value, and its interval from `low` to `high`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def main_text(figure: Interval, value: float | None = None) -> str:
    """Its value, or that of a baseline, with its digits."""
    return figure_text(figure.value if value is None else value, figure.value, figure.low, figure.high)


def interval_text(figure: Interval) -> str:
    """As "0.815 to 0.898"."""
    return f"{main_text(figure, figure.low)} to {main_text(figure, figure.high)}"


def value_text(value: float, band: float) -> str:
    """Of a predicted number: with the digits that its band of uncertainty leaves, four at least."""
    digits = 4
    if band > 0 and value:
        digits = min(max(digits, math.ceil(math.log10(abs(value) / band)) + 2), 17)
    return f"{value:.{digits}g}"
