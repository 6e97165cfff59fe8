"""Checks of the options that a plugin of any kind declares."""

from __future__ import annotations

from typing import Any

from topwork_server.plugin_api import options


def check_options(declared: Any) -> None:
    """Options are a frozen dataclass; each says what it is, and takes its own default."""
    frozen = getattr(getattr(declared, "__dataclass_params__", None), "frozen", False)
    assert frozen, f"options is {declared.__name__}, and must be a frozen dataclass: requests share it"
    for choice in options.choices(declared):
        assert choice.description, f"option {choice.name!r} says nothing of itself; declare it with option(default, words)"
        options.parse(declared, {choice.name: choice.schema["default"]})
