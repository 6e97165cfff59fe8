"""Options are declared once, checked with their bounds, and sent to clients of any language as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from topwork_server import InvalidInput, option
from topwork_server.plugin_api.options import choices, parse
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.services.convert import encoder_messages


@dataclass(frozen=True)
class Declared:
    truncate: bool = option(False, "cut long texts")
    width: int = option(8, "columns", minimum=1, maximum=64)
    rate: float | None = option(None, "of learning", minimum=0.0, maximum=1.0)
    unknown: Literal["skip", "zero"] = option("skip", "unknown words")
    bits: Literal[4, 8] = option(8, "of a code")
    floor: float = option(0.5, "of anything", minimum=0.25)
    zeros: int = option(1, "in place of an unknown word", minimum=1, only_with="unknown")

    def __post_init__(self) -> None:
        if self.width == 13:
            raise ValueError("width is 13, which is unlucky")


def test_each_is_told_as_a_json_schema() -> None:
    declared = {message.name: message for message in encoder_messages.options(Declared)}
    assert {name: json.loads(message.schema) for name, message in declared.items()} == {
        "truncate": {"type": "boolean", "default": False},
        "width": {"type": "integer", "minimum": 1, "maximum": 64, "default": 8},
        "rate": {"type": ["number", "null"], "minimum": 0.0, "maximum": 1.0, "default": None},
        "unknown": {"type": "string", "enum": ["skip", "zero"], "default": "skip"},
        "bits": {"type": "integer", "enum": [4, 8], "default": 8},
        "floor": {"type": "number", "minimum": 0.25, "default": 0.5},
        "zeros": {"type": "integer", "minimum": 1, "default": 1},
    }
    assert [message.type for message in declared.values()] == [
        "boolean",
        "integer, 1 to 64",
        "number or null, 0 to 1",
        'one of "skip", "zero"',
        "one of 4, 8",
        "number, at least 0.25",
        "integer, at least 1",
    ]
    assert [message.default for message in declared.values()] == ["false", "8", "null", '"skip"', "8", "0.5", "1"]


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"width": 0}, "1 to 64"),
        ({"width": 65}, "1 to 64"),
        ({"width": True}, "a whole number"),
        ({"width": 1.5}, "a whole number"),
        ({"width": None}, "a whole number"),
        ({"rate": float("nan")}, "0 to 1"),
        ({"rate": float("inf")}, "0 to 1"),
        ({"rate": "fast"}, "a number, or null"),
        ({"floor": 0.2}, "at least 0.25"),
        ({"unknown": "keep"}, '"skip", "zero"'),
        ({"bits": True}, "4, 8"),
        ({"bits": 8.0}, "4, 8"),
        ({"truncate": 1}, "true or false"),
        ({"truncate": [1] * 1000}, "true or false"),
        ({"zeros": 2}, "set unknown too"),
        ({"zeros": 2, "unknown": "skip"}, "set unknown too"),
    ],
)
def test_what_is_outside_is_refused_with_what_is_taken(given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(Declared, given)
    assert next(iter(given)) in caught.value.message
    assert remedy in caught.value.remedy
    assert len(caught.value.message) < 200


def test_what_is_inside_is_taken_and_a_check_of_its_own_is_heard() -> None:
    assert parse(Declared, {"width": 64, "rate": 1, "bits": 4, "floor": 9}) == Declared(width=64, rate=1.0, bits=4, floor=9.0)
    assert parse(Declared, {"rate": None}).rate is None
    assert parse(Declared, {"zeros": 1}) == Declared()
    assert parse(Declared, {"zeros": 2, "unknown": "zero"}).zeros == 2
    with pytest.raises(InvalidInput, match="unlucky"):
        parse(Declared, {"width": 13})


def test_every_default_of_ours_is_taken_by_its_own_rules() -> None:
    plugins = PluginRegistry.load()
    declared = [
        *(found.spec.encoder.options for found in plugins.encoders().values()),
        *(found.spec.index.options for found in plugins.indexes().values()),
        *(found.spec.trainer.options for found in plugins.trainers().values()),
    ]
    for kind in set(declared):
        defaults = {choice.name: choice.schema["default"] for choice in choices(kind)}
        assert parse(kind, defaults) == kind()
