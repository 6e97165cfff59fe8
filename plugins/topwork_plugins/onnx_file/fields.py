"""Typed fields out of one table of a TOML file; what is wrong is refused by its name and its file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from topwork_server import InvalidInput


class Fields:
    """One table of a description: fields are taken by name and kind, and what is left over is refused."""

    def __init__(self, file: str, path: str, record: Any) -> None:
        self._file, self._path, self._taken = file, path, set[str]()
        if not isinstance(record, Mapping):
            raise InvalidInput(f"{file}: {path} is {record!r}", remedy=f"write it as a table: [{path}]")
        self._record = record

    def names(self) -> Sequence[str]:
        return list(self._record)

    def section(self, name: str) -> Fields:
        self._taken.add(name)
        return Fields(self._file, self._where(name), self._record.get(name, {}))

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or (not value and default is None):
            raise self.wrong(name, value, "write a text in quotes")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self._record else None

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise self.wrong(name, value, f"write one of {', '.join(choices)}")
        return value

    def number(self, name: str, default: float) -> float:
        return float(self.numbers(name, 1, (default,))[0])

    def whole(self, name: str, default: int | None = None, least: int = 0) -> int:
        value = self._take(name, default)
        if type(value) is not int or value < least:
            raise self.wrong(name, value, f"write a whole number of at least {least}")
        return value

    def numbers(self, name: str, count: int, default: Sequence[float]) -> tuple[float, ...]:
        """Read so many numbers, or one that stands for all."""
        value = self._take(name, list(default))
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count or not all(type(v) in (int, float) for v in values):
            raise self.wrong(name, value, f"write {count} numbers in brackets" if count > 1 else "write a number")
        return tuple(float(v) for v in values)

    def size(self, name: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width, or one number for both."""
        value = self._take(name, None if default is None else list(default))
        values = value if isinstance(value, list) else [value, value]
        if len(values) != 2 or not all(type(v) is int and 0 < v <= 8192 for v in values):
            raise self.wrong(name, value, "write [height, width], whole numbers up to 8192")
        return values[0], values[1]

    def axes(self, name: str) -> tuple[str | int, ...] | None:
        value = self._take(name, None) if name in self._record else None
        if value is None:
            return None
        if not isinstance(value, list) or not all(_is_axis(axis) for axis in value):
            raise self.wrong(name, value, 'write the axes after the batch axis, such as ["time", 80] or [3, "8*eighths"]')
        return tuple(value)

    def finish(self) -> None:
        """Refuse fields that nobody took."""
        for name in self._record:
            if name not in self._taken:
                near = difflib.get_close_matches(name, sorted(self._taken), n=1)
                remedy = f"did you mean {near[0]}?" if near else f"known here are {', '.join(sorted(self._taken))}"
                raise InvalidInput(f"{self._file}: unknown field {self._where(name)}", remedy=remedy)

    def wrong(self, name: str, value: Any, remedy: str) -> InvalidInput:
        said = "is missing" if value is None else f"is {value!r}"
        return InvalidInput(f"{self._file}: {self._where(name)} {said}", remedy=remedy)

    def _take(self, name: str, default: Any) -> Any:
        self._taken.add(name)
        return self._record.get(name, default)

    def _where(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return re.fullmatch(r"([1-9]\d*\*)?[A-Za-z_]\w*", axis) is not None
    return type(axis) is int and axis > 0
