"""Values of flags: K=V, lists of names, ages."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from topwork.cli.column_types import KINDS

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def option(text: str) -> tuple[str, Any]:
    """K=V; a value that is JSON (true, 3, 0.5, [..]) is that, any other a string."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not K=V")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def version(text: str) -> int | str:
    """A version's number, or the name that it is pinned under."""
    return int(text) if text.isdecimal() and len(text) < 19 else text


def pair(text: str) -> tuple[str, str]:
    """NAME=TEXT."""
    name, equals, said = text.partition("=")
    if not name or not equals or not said:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TEXT")
    return name, said


def pair_or_empty(text: str) -> tuple[str, str]:
    """NAME=TEXT, with any text, also none."""
    name, equals, said = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TEXT")
    return name, said


def column_type(text: str) -> tuple[str, str]:
    """COLUMN=TYPE."""
    column, _, kind = text.rpartition("=")
    if not column or kind not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=TYPE with one of {', '.join(KINDS)}")
    return column, kind


def names(text: str) -> list[str]:
    """A,B,C."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("name at least one")
    return found


def age(text: str) -> float:
    """30m, 12h, 7d -> seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: say 30m, 12h or 7d")
    return float(found[1]) * UNITS[found[2]]


def positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def natural(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return count


def share(text: str) -> float:
    """Above 0, at most 1."""
    found = float(text)
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return found
