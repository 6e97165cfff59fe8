"""Progress of a part of the work."""

from __future__ import annotations

from topwork_server.vector_index import Report as Progress


def part(report: Progress, start: float, end: float) -> Progress:
    """Reports of a part of the work, as a part of the whole."""
    return lambda fraction, message: report(start + (end - start) * fraction, message)
