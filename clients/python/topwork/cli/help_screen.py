"""`topwork --help` on one screen: the verbs by what they are about."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from topwork._display.excerpts import shortened

#: The verbs that are known here; those of other distributions come last.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "features": ("encoders", "embed", "nearest"),
    "sets": ("write", "sets", "read", "delete", "drop", "versions"),
    "search": ("index", "indexes", "search", "jobs"),
    "heads": ("train", "predict", "heads", "report", "probe", "trainers"),
    "server": ("serve", "pull", "export", "quantize", "forget", "prune", "plugins", "doctor", "demo"),
}
OTHERS = "others"
#: The exit status after Ctrl-C.
INTERRUPTED = 130
GROUP, VERB = 10, 10


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; a complaint quotes long words in part."""

    def error(self, message: str) -> NoReturn:
        super().error(shortened(message))


class Parser(CommandParser):
    """The parser of the whole command; its help lists the commands in groups, a line each."""

    commands: argparse._SubParsersAction[Any] | None = None

    def format_help(self) -> str:
        head = f"usage: {self.prog} COMMAND ...   (also: {self.prog} COMMAND --help, {self.prog} --version)"
        lines = _listed(self.commands) if self.commands else ()
        return "\n".join([head, self.description or "", "", *lines, ""])


def _listed(commands: argparse._SubParsersAction[Any]) -> Iterator[str]:
    said = {action.dest: action.help or "" for action in commands._choices_actions}
    grouped = {verb for verbs in GROUPS.values() for verb in verbs}
    for title, verbs in {**GROUPS, OTHERS: tuple(verb for verb in said if verb not in grouped)}.items():
        for position, verb in enumerate(verb for verb in verbs if verb in said):
            yield _line("" if position else title, verb, said[verb])


def _line(group: str, verb: str, said: str) -> str:
    head = f"{group:{GROUP}}{verb:{VERB}}"
    width = max(shutil.get_terminal_size().columns, GROUP + VERB + 20)
    return textwrap.fill(said, width, initial_indent=head, subsequent_indent=" " * len(head))
