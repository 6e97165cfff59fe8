"""Records of a server, in JSON -> the dataclasses of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def of_record(kind: type[T], record: Mapping[str, Any]) -> T:
    """Make a dataclass of the fields that it has; those of newer servers are skipped."""
    return kind(**{field.name: record[field.name] for field in fields(kind) if field.name in record})  # type: ignore[arg-type]
