"""What a request may set becomes the encoder's own frozen dataclass; names and types are checked, others refused by name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from topwork_server.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class Choice:
    """One option as the catalogue shows it."""

    name: str
    type: str
    default: str
    description: str


def parse(declared: type[Any], given: Mapping[str, Any], owner: str = "this encoder") -> Any:
    """An instance of `declared`, the options of `owner`. InvalidInput names the option, what was given and what is taken."""
    fields = _types(declared)  # type: ignore[arg-type]  # a class has a hash
    for name in given:
        if name not in fields:
            taken = f"{owner} takes {', '.join(fields) or 'no options'}"
            raise InvalidInput(f"unknown option {name!r}", remedy=taken)
    try:
        return declared(**{name: _value(name, fields[name], value) for name, value in given.items()})
    except ValueError as error:  # a dataclass may check ranges in __post_init__
        raise InvalidInput(f"option out of range: {error}") from error


def choices(declared: type[Any]) -> list[Choice]:
    """For the catalogue. A field's `metadata={"help": ...}` is its description."""
    hints = _types(declared)  # type: ignore[arg-type]  # a class has a hash
    return [
        Choice(f.name, _said(hints[f.name]), repr(f.default), str(f.metadata.get("help", "")))
        for f in dataclasses.fields(declared)
    ]


@cache
def _types(declared: type[Any]) -> Mapping[str, Any]:
    """The type of each field. Each request asks, and it takes as long as the rest of a request's checks together."""
    hints = typing.get_type_hints(declared)
    return {field.name: hints[field.name] for field in dataclasses.fields(declared)}


def _value(name: str, kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(kind, types.UnionType):
        return None if value is None else _value(name, next(k for k in kind.__args__ if k is not types.NoneType), value)
    elif type(value) is kind:
        return value
    raise InvalidInput(f"option {name!r} is {value!r}", remedy=f"give {_said(kind)}")


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    return getattr(kind, "__name__", str(kind))
