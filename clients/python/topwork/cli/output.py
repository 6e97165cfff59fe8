"""Output of the command line: tables, counts, sizes, times; and JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from topwork._display.number_text import counted
from topwork.cli.wording import in_commands

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

T = TypeVar("T")
#: Things named one by one before the rest is only counted.
NAMED = 5
UNITS = ("B", "kB", "MB", "GB", "TB")


def console() -> Console:
    """Make a console; what goes into a pipe is not cut into lines of a terminal's width."""
    return piped(highlight=False, width=None if sys.stdout.isatty() else 250)


def piped(**settings: Any) -> Console:
    """Make a console that leaves a pipe whose reader has gone to `cli.main`: rich would end the process with 1."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(**settings)


def table(*titles: str, right: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """Make a table without lines. Numbers stand to the `right`; a column that is `whole` is not broken where room is short."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        made.add_column(title, justify="right" if title in right else "left", no_wrap=title in whole)
    return made


def rows(made: Table, lines: Iterable[Iterable[str]]) -> None:
    """Print the table with these lines; what is in brackets is no markup."""
    from rich.text import Text

    for line in lines:
        made.add_row(*(Text(cell) for cell in line))
    console().print(made)


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print a line for each: its name, right-aligned, and its value."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        console().print(f"{name:>{width}}  {in_commands(value)}", markup=False)


def say(text: str) -> None:
    """Print a line for people on stderr, beside the output."""
    print(f"topwork: {in_commands(text)}", file=sys.stderr, flush=True)


def say_first(verb: str, lines: Sequence[str], count: int) -> None:
    """Name the first few of so many things that are left out, a line each, and count the rest."""
    for line in lines[:NAMED]:
        say(f"{verb} {line}")
    if count > NAMED:
        say(f"{verb} {count - NAMED:,} more")


def as_json(found: Any) -> None:
    print(json.dumps(plain(found)))


def show(
    found: list[T], alone: object, json_wanted: bool, in_full: Callable[[T], None], as_table: Callable[[list[T]], None]
) -> int:
    """Print the one that was named in full, or all that there are in a table; the exit status."""
    if json_wanted:
        as_json(found[0] if alone else found)
    elif alone:
        in_full(found[0])
    else:
        as_table(found)
    return 0


def plain(found: Any) -> Any:
    """Convert to what JSON has: times in ISO 8601, arrays as lists, bytes by their number."""
    if is_dataclass(found) and not isinstance(found, type):
        return plain(asdict(found))
    if isinstance(found, dict):
        return {str(key): plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple | set | frozenset):
        return [plain(value) for value in found]
    if isinstance(found, date):
        return found.isoformat()
    if isinstance(found, np.ndarray | np.generic):
        return found.tolist()
    return f"{len(found)} bytes" if isinstance(found, bytes) else found


def say_missing(ids: Sequence[str]) -> None:
    """Name ids that were asked for and are not in the set."""
    if ids:
        shown = ", ".join(ids[:5]) + (" ..." if len(ids) > 5 else "")
        say(f"{counted(len(ids), 'id')} not in the set: {shown}")


def size(count: float) -> str:
    """Format as 812 B or 4.1 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log(count * 1.0005, 1000)), 4)
    scaled = count / 1000**power
    return f"{scaled:.0f} {UNITS[power]}" if scaled >= 99.95 else f"{scaled:.1f} {UNITS[power]}"


def seconds(span: float) -> str:
    """Format as 1.2 ms, 0.42 s, 31 s, 4 min 5 s or 2 h 3 min."""
    if span < 0.1:
        return f"{span * 1000:.1f} ms"
    if span < 10:
        return f"{span:.2f} s"
    minutes, rest = divmod(round(span), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def when(time: datetime) -> str:
    """Format in the time zone of this machine."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def cell(value: Any) -> str:
    """Format a value of metadata. A time that is midnight is a day."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix("+00:00").removesuffix(" 00:00:00")
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def cut(text: str, width: int) -> str:
    """Shorten to one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."
