"""Numbers of reports and predictions as text, whatever their unit is."""

from __future__ import annotations

import math


def figure_text(value: float, scale: float | None = None) -> str:
    """Three decimals, or four digits of what is very large or very small. `scale`: of the figure that this stands beside."""
    of = abs(value if scale is None else scale)
    return f"{value:z.3f}" if not of or 1e-3 <= of < 1e5 else f"{value:.4g}"


def interval_text(low: float, high: float, value: float) -> str:
    """Of a figure of that value: "0.815 to 0.898"."""
    return f"{figure_text(low, value)} to {figure_text(high, value)}"


def value_text(value: float, band: float) -> str:
    """Of a predicted number: with the digits that its band of uncertainty leaves, four at least."""
    digits = 4
    if band > 0 and value:
        digits = min(max(digits, math.ceil(math.log10(abs(value) / band)) + 2), 17)
    return f"{value:.{digits}g}"
