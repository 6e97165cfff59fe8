"""Names of encoders, sets, indexes and heads: which are allowed, and which are near one that is not there.

Bounded: neither a long name nor many names take long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from topwork._display.excerpts import LONGEST, listed

from topwork_server.errors import InvalidInput

LONGEST_NAME = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
#: Of feature sets: SQL and file systems may not tell cases apart.
SET_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
RULE = f"letters, digits, '.', '_' and '-', at most {LONGEST_NAME}, a letter or digit first"
#: Of 100, what two names must have in common; and names that are suggested.
ALIKE, MOST = 55, 3


def check_name(name: str, thing: str) -> None:
    """Raise InvalidInput where a name cannot be that of a thing such as "a head"."""
    is_set = thing == "a feature set"
    if not (SET_NAME if is_set else NAME).fullmatch(name):
        raise InvalidInput(f"{name!r} cannot name {thing}", remedy=f"use {'lower-case ' if is_set else ''}{RULE}")


def near(name: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """Return the names most alike, the best first. Of the name no more is looked at than an error repeats."""
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
