"""Checks the arguments of verbs against their declared types before anything is done: a wrong argument is InvalidInput.

Types that a verb takes apart itself (items, ids, metadata, vectors) are left to it.
"""

from __future__ import annotations

import inspect
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from topwork._codec.items import describe
from topwork.errors import InvalidInput

#: The least and the largest value of numbers, by the name of the argument: what the protocol can carry.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "k": (1, 2**32 - 1),
    "chunk": (1, 2**31),
    **dict.fromkeys(("dimensions", "effort", "offset", "top", "folds"), (0, 2**32 - 1)),
    "seed": (0, 2**64 - 1),
    "target_recall": (0, 1),
    **dict.fromkeys(("timeout", "retry_for", "older_than"), (0, math.inf)),
}
#: Of any other whole number: versions, offsets and limits.
NATURAL = (0, 2**63 - 1)
#: Seconds that stand for any longer time: what threads and gRPC can wait.
LONGEST = 1e8

#: Gives the value in its plain type; raises InvalidInput.
Convert = Callable[[str, Any], Any]


def bound(verb: Callable[..., Any], arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """Positional and named arguments of the verb, each as the type that the verb declares. Raises InvalidInput."""
    signature, rules = _rules(verb)
    given = signature.bind(*arguments, **settings)
    for name, value in given.arguments.items():
        if name in rules:
            given.arguments[name] = rules[name](name, value)
    return given.args, given.kwargs


@cache
def _rules(verb: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Convert]]:
    signature = inspect.signature(verb)
    hints = get_type_hints(verb)
    rules = {name: rule for name in signature.parameters if (rule := _rule(hints.get(name, Any)))}
    return signature, rules


def _rule(hint: Any) -> Convert | None:
    """The conversion of an argument; None where the verb itself looks at the value."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    readers = [_reader(kind) for kind in kinds]
    if not all(readers):
        return None
    wanted = " or ".join(description for _, description in filter(None, readers))
    reads = [read for read, _ in filter(None, readers)]

    def convert(name: str, value: Any) -> Any:
        for read in reads:
            found = read(name, value)
            if found is not _OTHER:
                return found
        raise InvalidInput(f"{name} is {shown(value)}", remedy=f"pass {wanted}")

    return convert


def _reader(kind: Any) -> tuple[Callable[[str, Any], Any], str] | None:
    """The function that reads values of a type, or returns _OTHER, and the name of the type in messages."""
    if get_origin(kind) is Sequence and get_args(kind) == (str,):
        return _texts, "a list of str"
    if get_origin(kind) is Mapping:
        return _mapping(str in get_args(kind)[1:]), "a dict by name"
    if get_origin(kind) is os.PathLike:
        return _path, "a path"
    if get_origin(kind) is Callable:
        return _function, "a function"
    return _READERS.get(kind)


_OTHER = object()


def _none(name: str, value: Any) -> Any:
    return None if value is None else _OTHER


def _bool(name: str, value: Any) -> Any:
    return bool(value) if isinstance(value, bool | np.bool_) else _OTHER


def _int(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return _OTHER
    return _within(name, int(value), BOUNDS.get(name, NATURAL))


def _float(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return _OTHER
    try:
        number = float(value)
    except OverflowError:
        number = math.copysign(math.inf, value)
    if math.isnan(number):
        raise InvalidInput(f"{name} is not a number", remedy="pass a number")
    number = _within(name, number, BOUNDS.get(name, (-math.inf, math.inf)))
    return min(number, LONGEST) if name in ("timeout", "retry_for") else number


def _within(name: str, number: Any, bounds: tuple[float, float]) -> Any:
    least, most = bounds
    if number < least:
        raise InvalidInput(f"{name} is {shown(number)}", remedy=f"pass {least} or more")
    if number > most:
        raise InvalidInput(f"{name} is {shown(number)}", remedy=f"pass at most {most}")
    return number


def text(name: str, value: Any) -> Any:
    """A str that can be sent."""
    if not isinstance(value, str):
        return _OTHER
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is not valid Unicode: {error.reason} at character {error.start}") from None
    return str(value)


def _texts(name: str, value: Any) -> Any:
    """Convert names to a list; a lone name is a list of one, not its letters."""
    if isinstance(value, str):
        return [text(name, value)]
    if isinstance(value, bytes | bytearray | memoryview | Mapping) or not isinstance(value, Iterable):
        return _OTHER
    return [_one(entry, f"{name}[{position}]") for position, entry in enumerate(value)]


def _one(value: Any, place: str) -> str:
    found = text(place, value)
    if found is _OTHER:
        raise InvalidInput(f"{place} is {shown(value)}", remedy="pass a str")
    return str(found)


def _mapping(of_texts: bool) -> Callable[[str, Any], Any]:
    def read(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return _OTHER
        named = {_one(key, f"a name in {name}"): entry for key, entry in value.items()}
        return {key: _one(entry, f"{name}[{key!r}]") for key, entry in named.items()} if of_texts else named

    return read


def _path(name: str, value: Any) -> Any:
    return value if isinstance(value, os.PathLike) and isinstance(os.fspath(value), str) else _OTHER


def _function(name: str, value: Any) -> Any:
    return value if callable(value) and not isinstance(value, type) else _OTHER


_READERS: Mapping[Any, tuple[Callable[[str, Any], Any], str]] = {
    type(None): (_none, "None"),
    bool: (_bool, "True or False"),
    int: (_int, "a whole number"),
    float: (_float, "a number"),
    str: (text, "a str"),
}


def shown(value: Any) -> str:
    """Name a value in a message: short ones as they are, others by their type."""
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
    return describe(value)
