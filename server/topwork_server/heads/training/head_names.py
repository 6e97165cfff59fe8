"""Chooses the names of heads: the one that a training asks for, or one made of its set and its column."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from topwork_server.errors import InvalidInput
from topwork_server.heads.head_types import TrainRequest, usual_kind

#: A version of its set is pinned under "training-NAME", so that no name may end as a pin may not.
NAME = re.compile(r"(?!.*\.\.)(?!.*\.lock$)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,78}[A-Za-z0-9_-])?")
#: Characters of the set and the column in a default name that ends with a digest.
LONGEST_KEPT = 60


def head_name(request: TrainRequest) -> str:
    """Choose the head's name: the given one, or one made of set and column. InvalidInput for one that no head can have."""
    name = request.name or default_name(request.set, request.target or request.kind or usual_kind(request.task))
    if "/" in name:
        raise InvalidInput(
            f"{name!r} names a head that comes with its encoder",
            remedy="choose a name without '/' for what you train, in `name`",
        )
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a head",
            remedy="in `name` use letters, digits, '.', '_' and '-', at most 80, a letter or digit first; no '..', no "
            "'.' at the end",
        )
    return name


def head_names(request: TrainRequest) -> list[str]:
    """Choose the names of the head and of those that are trained together with it, NAME-COLUMN or close to it."""
    name = head_name(request)
    return [name, *(default_name(name, column) for column in sorted(request.also))]


def default_name(set_name: str, target: str) -> str:
    """SET-TARGET; where that cannot name a head, what can be kept of it, and a digest that tells such names apart."""
    full = f"{set_name}-{target}"
    if NAME.fullmatch(full):
        return full
    plain = unicodedata.normalize("NFKD", full).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^A-Za-z0-9_]+", "-", plain)[:LONGEST_KEPT].strip("-_")
    return f"{kept}-{hashlib.sha256(full.encode()).hexdigest()[:6]}"
