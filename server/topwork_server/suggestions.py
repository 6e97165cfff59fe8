"""Names near one that is not there, for the remedy of an error. Bounded: neither a long name nor many names take long."""

from __future__ import annotations

from collections.abc import Iterable

from topwork_server.excerpts import LONGEST, listed

#: Of 100, what two names must have in common; and names that are suggested.
ALIKE, MOST = 55, 3


def near(name: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """Those most alike, the best first. Of the name no more is looked at than an error repeats."""
    from rapidfuzz import fuzz, process

    found = process.extract(_begin(name), list(known), scorer=fuzz.ratio, processor=_begin, limit=most, score_cutoff=ALIKE)
    return [one for one, _, _ in found]


def _begin(name: str) -> str:
    return name[:LONGEST].lower()


def instead(name: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy: names near that one, or the first there are, or `otherwise` where there are none. Not that one itself, which may
    have come to be meanwhile."""
    names = [one for one in known if one != name]
    if alike := near(name, names):
        return f"did you mean {' or '.join(alike)}?"
    return f"there are: {listed(names)}" if names else otherwise
