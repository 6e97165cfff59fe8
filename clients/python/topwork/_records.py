"""Records in JSON, and results of jobs -> the dataclasses of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from topwork.errors import InvalidInput, JobFailed
from topwork.jobs import Job

T = TypeVar("T")


def of_record(kind: type[T], record: Mapping[str, Any]) -> T:
    """Make a dataclass, and those within it. Fields of newer servers are skipped; tuples and dicts of older ones are empty."""
    hints = get_type_hints(kind)
    found = {field.name: _value(hints[field.name], record.get(field.name)) for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in found.items() if value is not None or name in record})


def of_job(kind: type[T], job: Job, verb: str, what: str, defaults: Mapping[str, Any]) -> T:
    """Make a dataclass of the result of a job that is done; `verb` begins such jobs, and `what` is their result. Fields that
    it lacks are those of `defaults`. Raises JobFailed for a job that failed, InvalidInput for any other."""
    if job.state in ("failed", "cancelled"):
        raise JobFailed(job)
    if not job.result:
        raise InvalidInput(f"{job.kind} job {job.id} has no {what}", remedy=f"wait for a job of `{verb}` to be done")
    return of_record(kind, {**defaults, **job.result})


def _value(hint: Any, value: Any) -> Any:
    if get_origin(hint) is UnionType:
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        return tuple(_value(get_args(hint)[0], entry) for entry in value or ())
    if get_origin(hint) is Mapping:
        return value or {}
    return of_record(hint, value) if is_dataclass(hint) and isinstance(hint, type) and value is not None else value
