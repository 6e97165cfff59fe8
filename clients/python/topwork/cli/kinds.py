"""Kinds that the server's plugins bring, of trainings and of pretrainings: all in a table, or one with its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

import click

from topwork.cli import output
from topwork.encoders import OptionInfo


class Kind(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def plugin(self) -> str: ...
    @property
    def options(self) -> tuple[OptionInfo, ...]: ...


K = TypeVar("K", bound=Kind)


def show(
    found: list[K],
    kind: str | None,
    json_wanted: bool,
    about: Callable[[K], Mapping[str, str]],
    hint: str,
    tasks: Iterable[str] = (),
) -> int:
    """Print the kind of that name with its options; where none is named all, and then the hint. `about` tells more of a kind, by
    the titles of columns; `tasks` may be asked for, too. Returns the exit status."""
    if kind:
        known = ", ".join(one.kind for one in found)
        found = [one for one in found if one.kind == kind]
        if not found:
            others = f"; tasks are {', '.join(tasks)}" if tasks else ""
            raise click.UsageError(f"there is no kind {kind!r}: the server has {known}{others}")

    def in_full(one: K) -> None:
        facts = {"kind": one.kind, **about(one), "description": one.description, "plugin": one.plugin}
        output.facts((name, value) for name, value in facts.items() if value)
        print()
        options = output.table("option", "type", "default", "description", whole=("option",))
        output.rows(options, ((o.name, o.type, o.default, o.description) for o in one.options))

    def listed(kinds: list[K]) -> None:
        lines = [{"kind": one.kind, **about(one), "description": one.description} for one in kinds]
        output.rows(output.table(*(lines[0] if lines else ()), whole=("kind",)), (line.values() for line in lines))
        print()
        output.console().print(hint, style="dim")

    return output.show(found, kind, json_wanted, in_full, listed)
