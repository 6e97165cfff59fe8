"""The question before what cannot be taken back, and the flag that answers it: the same for every command that destroys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import click

yes_flag = click.option("--yes", is_flag=True, help="do not ask")


def confirmed(arguments: SimpleNamespace, act: str, held: Callable[[], str] = str) -> bool:
    """Tell whether it may be done: by --yes, or by the person at the terminal, who is asked.

    act   what is to be done, such as "drop set birds"
    held  what else goes with it, for the question alone: " with 12 items"

    InvalidInput where there is no terminal to ask.
    """
    from topwork.cli import output
    from topwork.errors import InvalidInput

    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidInput(f"to {act} needs a yes, and there is no terminal to ask", remedy="say --yes")
    print(f"{act}{held()}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    output.say("nothing was changed")
    return False
