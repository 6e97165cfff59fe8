"""Formats counts, and the numbers of reports and predictions, in any unit. Used by the server too."""

from __future__ import annotations

import math


def counted(count: int, one: str, several: str = "") -> str:
    """Format as "1 item" or "5,000 items"; with a verb, give both forms."""
    return f"{count:,} {one if count == 1 else several or one + ('es' if one.endswith('x') else 's')}"


def number_text(value: float, *beside: float) -> str:
    """Format with three decimals, or four digits where it and the numbers `beside` it are all very large or very small."""
    largest = max(map(abs, (value, *beside)))
    return f"{value:z.3f}" if not largest or 1e-3 <= largest < 1e5 else f"{value:.4g}"


def value_text(value: float, band: float) -> str:
    """Format a predicted number with the digits that its band of uncertainty leaves, at least four."""
    digits = 4
    if band > 0 and value:
        digits = min(max(digits, math.ceil(math.log10(abs(value) / band)) + 2), 17)
    return f"{value:.{digits}g}"
