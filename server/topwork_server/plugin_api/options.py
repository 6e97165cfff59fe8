"""Options of a request become the encoder's own frozen dataclass; names, types and bounds are checked, others refused by name."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from topwork_server.errors import InvalidInput
from topwork_server.names import near

if TYPE_CHECKING:
    from topwork_server.types import EncoderSpec

_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", types.NoneType: "null"}


@dataclasses.dataclass(frozen=True)
class DeclaredOption:
    """One option as the catalog shows it. `schema` is the JSON Schema (2020-12) of its value, with its default."""

    name: str
    schema: Mapping[str, Any]
    description: str

    @property
    def type(self) -> str:
        """The value's JSON types, or the choices that there are, for a person to read."""
        if "enum" in self.schema:
            return "one of " + ", ".join(json.dumps(value) for value in self.schema["enum"])
        kinds = self.schema["type"]
        bounds = _range(self.schema.get("minimum"), self.schema.get("maximum"))
        return f"{kinds if isinstance(kinds, str) else ' or '.join(kinds)}{bounds and ', '}{bounds}"

    @property
    def default(self) -> str:
        """Return the default as JSON."""
        return json.dumps(self.schema["default"], ensure_ascii=False)


def option(
    default: Any, description: str, *, minimum: float | None = None, maximum: float | None = None, only_with: str | None = None
) -> Any:
    """A field of a dataclass of options; `minimum` and `maximum` are bounds of a number that a request may set, inclusive.

    `only_with` names another option of the class: while that has its default, this one has no effect, and is refused.
    """
    given = {"help": description, "minimum": minimum, "maximum": maximum, "only_with": only_with}
    return dataclasses.field(default=default, metadata={name: value for name, value in given.items() if value is not None})


def parse(declared: type[Any], given: Mapping[str, Any], owner: str = "this encoder") -> Any:
    """An instance of `declared`, the options of `owner`. InvalidInput names the option, what was given and what is taken."""
    fields = _fields(declared)  # type: ignore[arg-type]  # a class has a hash
    for name in given:
        if name not in fields:
            meant = "".join(f"did you mean {one}? " for one in near(name, fields, 1))
            taken = f"{meant}{owner} takes {', '.join(fields) or 'no options'}"
            raise InvalidInput(f"unknown option {name!r}", remedy=taken)
    try:
        made = declared(**{name: _checked(*fields[name], value) for name, value in given.items()})
        _check_effects(made, [fields[name][0] for name in given])
        return made
    except InvalidInput:
        raise
    except ValueError as error:  # a dataclass may check more in __post_init__
        raise InvalidInput(f"option out of range: {error}") from error


def declared_by(spec: EncoderSpec) -> type[Any]:
    """The options of an encoder's requests: those of each of its towers."""
    if not spec.other_towers:
        return spec.encoder.options
    return _joined(tuple(tower.encoder.options for tower in spec.towers))


def parse_own(declared: type[Any], given: Mapping[str, Any]) -> Any:
    """An instance of `declared`, the options of one tower, of what was given for all."""
    return parse(declared, {name: value for name, value in given.items() if name in _fields(declared)})  # type: ignore[arg-type]


def choices(declared: type[Any]) -> list[DeclaredOption]:
    """Describe the options for the catalog."""
    fields = _fields(declared).values()  # type: ignore[arg-type]  # a class has a hash
    return [DeclaredOption(field.name, _schema(field, kind), str(field.metadata.get("help", ""))) for field, kind in fields]


@cache
def _joined(declared: tuple[type[Any], ...]) -> type[Any]:
    """One dataclass with the options of several, whose own checks all run."""
    kinds = tuple(dict.fromkeys(declared))
    if len(kinds) == 1:
        return kinds[0]

    def check(self: Any) -> None:
        for kind in kinds:
            if own := getattr(kind, "__post_init__", None):
                own(self)

    return dataclasses.make_dataclass("Options", (), bases=kinds, namespace={"__post_init__": check}, frozen=True)


@cache
def _fields(declared: type[Any]) -> Mapping[str, tuple[dataclasses.Field[Any], Any]]:
    """Return each field and its type, cached: each request asks, and it takes as long as the rest of a request's checks
    together."""
    hints = typing.get_type_hints(declared)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(declared)}


def _check_effects(made: Any, given: Sequence[dataclasses.Field[Any]]) -> None:
    """Raise InvalidInput for an option that was set and does nothing beside the others."""
    for field in given:
        other = field.metadata.get("only_with")
        if other and getattr(made, field.name) != field.default and getattr(made, other) == getattr(type(made), other):
            raise InvalidInput(
                f"{field.name} does nothing while {other} is {json.dumps(getattr(made, other))}",
                remedy=f"set {other} too, or leave {field.name} out",
            )


def _checked(field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    value = _value(field.name, kind, value)
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    outside = value is not None and not ((low is None or value >= low) and (high is None or value <= high))  # so is NaN
    if outside:
        raise InvalidInput(f"option out of range: {field.name} is {value}", remedy=f"give {_range(low, high)}")
    return value


def _value(name: str, kind: Any, value: Any) -> Any:
    inner = _not_none(kind) if isinstance(kind, types.UnionType) else kind
    if inner is not kind and value is None:
        return None
    if typing.get_origin(inner) is Literal:
        for choice in typing.get_args(inner):
            if type(value) is type(choice) and value == choice:
                return value
    elif inner is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is inner:
        return value
    shown = repr(value)
    raise InvalidInput(f"option {name!r} is {shown if len(shown) < 100 else shown[:100] + '...'}", remedy=f"give {_said(kind)}")


def _schema(field: dataclasses.Field[Any], kind: Any) -> dict[str, Any]:
    bounds = {name: field.metadata[name] for name in ("minimum", "maximum") if name in field.metadata}
    if typing.get_origin(kind) is Literal:
        values = list(typing.get_args(kind))
        return {"type": _JSON_TYPES[type(values[0])], "enum": values, "default": field.default}
    if isinstance(kind, types.UnionType):
        return {"type": [_JSON_TYPES[_not_none(kind)], "null"], **bounds, "default": field.default}
    return {"type": _JSON_TYPES[kind], **bounds, "default": field.default}


def _not_none(kind: types.UnionType) -> Any:
    return next(k for k in kind.__args__ if k is not types.NoneType)


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in typing.get_args(kind))
    if isinstance(kind, types.UnionType):
        return f"{_said(_not_none(kind))}, or null"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(kind, str(kind))


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:.12g} to {high:.12g}"
