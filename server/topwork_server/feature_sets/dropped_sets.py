"""Presence of a set: calls on one that was dropped meanwhile fail with NotFound, not with what they met on the disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from topwork_server.errors import NotFound

P = ParamSpec("P")
R = TypeVar("R")


def was_dropped(name: str) -> NotFound:
    return NotFound(f"the feature set {name!r} was dropped", remedy="write to it to create it again")


class Presence:
    """A flag that tells whether the set of that name is still there. `dropped` is set before its files go, so no failure comes
    before it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dropped = False

    def explain(self, error: Exception) -> Exception:
        """The error itself, or NotFound where the set was dropped."""
        if not self.dropped:
            return error
        return was_dropped(self.name)


class Present(Protocol):
    def explain(self, error: Exception) -> Exception: ...


class HasPresence(Protocol):
    @property
    def presence(self) -> Present: ...


S = TypeVar("S", bound=HasPresence)


def while_present(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of a set that fails with NotFound where the set was dropped before it was done."""

    @wraps(method)
    def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            explained = self.presence.explain(error)
            if explained is error:
                raise
            raise explained from error

    return guarded
