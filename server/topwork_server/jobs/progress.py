"""How far work is: what does the work says so, a part of it as a part of the whole."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the fraction that is done (0 to 1) and what is being done.
Report = Callable[[float, str], None]


def part(report: Report, start: float, end: float) -> Report:
    """Reports of a part of the work, as a part of the whole."""
    return lambda fraction, message: report(start + (end - start) * fraction, message)
