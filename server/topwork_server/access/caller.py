"""Callers and their roles, and what the request that runs now was granted."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase

import grpc
from topwork._display.excerpts import excerpt

from topwork_server.errors import Refused

#: The pattern that every name matches.
EVERY = ("*",)


class AccessRole(IntEnum):
    """Roles of callers, each of which may do all that those before it may. ANYONE needs no key."""

    ANYONE = 0
    READER = 1
    WRITER = 2
    TRAINER = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. `sets` and `encoders` are patterns (`*`, `?`, `[...]`) of the names that its requests may have."""

    name: str
    role: AccessRole
    sets: Sequence[str] = EVERY
    encoders: Sequence[str] = EVERY

    @property
    def is_scoped(self) -> bool:
        """Tell whether there are sets or encoders that it may not use."""
        return "*" not in self.sets or "*" not in self.encoders

    def may_use_set(self, name: str) -> bool:
        return _matches(name, self.sets)

    def may_use_encoder(self, name: str) -> bool:
        return _matches(name, self.encoders)


#: The caller of a server without keys, who may do everything.
OWNER = Caller("", AccessRole.ADMIN)


@dataclass(frozen=True, slots=True)
class Grant:
    """A request that was let in: its operation, and who calls."""

    operation: str
    caller: Caller


_CURRENT: ContextVar[Grant | None] = ContextVar("grant", default=None)


def set_grant(grant: Grant) -> None:
    """Make it the grant of everything that runs in this context from now on, and of the tasks and threads that it starts."""
    _CURRENT.set(grant)


def was_granted(operation: str) -> bool:
    """Tell whether the request that runs now was granted that operation."""
    grant = _CURRENT.get()
    return grant is not None and grant.operation == operation


def caller_or_none() -> Caller | None:
    """The caller of the request that runs now; None for what the server does by itself."""
    grant = _CURRENT.get()
    return grant.caller if grant else None


def current_caller() -> Caller:
    """The caller of the request that runs now. Refused (PERMISSION_DENIED) where none was let in, so that what forgot to ask does
    nothing."""
    caller = caller_or_none()
    if caller is None:
        raise Refused("the request was not let in by the server", remedy="this is a fault of the server: please report it")
    return caller


def check_role(caller: Caller, role: AccessRole, doing: str) -> None:
    """Raise Refused (PERMISSION_DENIED) where a caller has not this role; `doing` says what for."""
    if caller.role < role:
        raise not_allowed(f"{doing} needs the role {role.name.lower()}, and {caller.name!r} has {caller.role.name.lower()}")


def not_allowed(message: str, remedy: str = "ask for a key that may") -> Refused:
    return Refused(message, remedy=remedy, code=grpc.StatusCode.PERMISSION_DENIED)


def not_for_caller(kind: str, name: str) -> Refused:
    """Return the error of a name that is outside of the caller's patterns, whether there is such a thing or not."""
    return not_allowed(f"{current_caller().name!r} may not use the {kind} {excerpt(name)}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(pattern == "*" or fnmatchcase(name, pattern) for pattern in patterns)
