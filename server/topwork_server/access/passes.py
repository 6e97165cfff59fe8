"""Names that were checked: what stores and the engine take in the place of plain strings.

A pass is a string that only this module makes. What opens a set, or lets an encoder work, requires one, so that a handler that
forgets to check a name does not run, and mypy says so first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from topwork_server.access.caller import caller_or_none, current_caller, not_for_caller
from topwork_server.errors import NotFound


class SetPass(str):
    """The name of a feature set that may be used."""

    __slots__ = ()


class EncoderPass(str):
    """The name of an encoder that may be used."""

    __slots__ = ()


class HeadPass(str):
    """The name of a head that may be used."""

    __slots__ = ()


Pass = TypeVar("Pass", SetPass, EncoderPass, HeadPass)


def set_pass(name: str) -> SetPass:
    """Check that the current caller may use a feature set. Refused (PERMISSION_DENIED), whether there is such a set or not."""
    if not current_caller().may_use_set(name):
        raise not_for_caller("set", name)
    return SetPass(name)


def encoder_pass(name: str) -> EncoderPass:
    """Check that the current caller may use an encoder. Refused (PERMISSION_DENIED), whether there is such an encoder or not."""
    if not current_caller().may_use_encoder(name):
        raise not_for_caller("encoder", name)
    return EncoderPass(name)


def head_pass(name: str, sources: Callable[[], Iterable[tuple[str, str]]]) -> HeadPass:
    """Check that the current caller may use a head: the set and the encoder ("" for none) of each of its sources. They are looked
    up only for callers who may not use all. Refused (PERMISSION_DENIED), for them also where there is no such head."""
    if current_caller().is_scoped:
        try:
            is_visible = sees_sources(sources())
        except NotFound:
            is_visible = False
        if not is_visible:
            raise not_for_caller("head", name)
    return HeadPass(name)


def sees_sources(sources: Iterable[tuple[str, str]]) -> bool:
    """Tell whether the current caller may use all of these sets and encoders; "" is none."""
    caller = caller_or_none()
    return caller is None or all(
        (not name or caller.may_use_set(name)) and (not encoder or caller.may_use_encoder(encoder)) for name, encoder in sources
    )


def visible_sets(names: Iterable[str]) -> list[str]:
    """Those of the names that the current caller may know of; all of them where the server does something by itself."""
    caller = caller_or_none()
    return [name for name in names if caller is None or caller.may_use_set(name)]


def visible_encoders(names: Iterable[str]) -> list[str]:
    """Those of the names that the current caller may know of; all of them where the server does something by itself."""
    caller = caller_or_none()
    return [name for name in names if caller is None or caller.may_use_encoder(name)]


def server_pass(kind: type[Pass], name: str) -> Pass:
    """A pass for what the server does by itself: jobs, indexes that follow their set, commands on its own files. Never for a name
    that a request has."""
    return kind(name)


def require(name: Pass, kind: type[Pass]) -> Pass:
    """The name. TypeError where it was not checked."""
    if not isinstance(name, kind):
        raise TypeError(f"{name!r} is no {kind.__name__}: nobody checked that it may be used")
    return name
