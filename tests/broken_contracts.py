"""Runs a contract class on a plugin that breaks it, without pytest around it: which of its tests fail, and in which words."""

from __future__ import annotations

import inspect
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest


def failures(contract: type[Any], given: Mapping[str, Any], only: str = "") -> dict[str, str]:
    """By name of the test, the message of its first failure. `given` are the values of its fixtures; `only` is in the names of
    the tests that are run."""
    found: dict[str, str] = {}
    for name in sorted(name for name in dir(contract) if name.startswith("test_") and only in name):
        for arguments in _calls(getattr(contract, name)):
            with tempfile.TemporaryDirectory() as folder:
                wanted = {**given, "tmp_path": Path(folder), **arguments}
                parameters = list(inspect.signature(getattr(contract, name)).parameters)[1:]
                if message := _failure(contract, name, {key: wanted[key] for key in parameters}):
                    found.setdefault(name, message)
    return found


def _failure(contract: type[Any], name: str, arguments: Mapping[str, Any]) -> str:
    try:
        getattr(contract(), name)(**arguments)
    except (Exception, pytest.fail.Exception) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _calls(test: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each run that its parametrize marks ask for."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    for values in itertools.product(*(mark.args[1] for mark in marks)):
        yield {mark.args[0]: value for mark, value in zip(marks, values, strict=True)}
