"""`topwork --help` on one screen: the verbs by what they are about."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from topwork._display.excerpts import shortened


class Command(NamedTuple):
    """A command of the client: the module of `topwork.cli` that has its parser, and its line on the screen."""

    module: str
    summary: str


#: The client's commands, by what they are about. `topwork --help` imports none of their modules.
CLIENT_COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "features": {
        "encoders": Command("encoders", "what the server serves"),
        "embed": Command("embed", "features of texts, pictures or clips"),
        "nearest": Command("encoders", "nearest words of an encoder's vocabulary"),
    },
    "sets": {
        "write": Command("write", "texts, pictures, clips or vectors into a set"),
        "sets": Command("sets", "what sets there are; one in full; its columns, counts and updates"),
        "read": Command("read", "items of a set, to the screen or into a file"),
        "delete": Command("sets", "items out of a set"),
        "drop": Command("sets", "a whole set with its indexes, or one index"),
        "versions": Command("versions", "a set's versions: list, pin, prune"),
    },
    "search": {
        "index": Command("indexes", "build an index over a set"),
        "indexes": Command("indexes", "what indexes there are, or one in full; kinds"),
        "search": Command("search", "what of a set is nearest to a query"),
        "jobs": Command("jobs", "builds and trainings, under way and before: list, watch, cancel"),
    },
    "heads": {
        "train": Command("train", "a head that learns a column of a set"),
        "predict": Command("predict", "what heads say of items"),
        "heads": Command("heads", "what heads there are, or one in full; export, drop"),
        "report": Command("report", "how good a head is, and where it fails"),
        "probe": Command("probe", "compare encoders and taps on one task"),
        "trainers": Command("train", "the kinds of training, and their options"),
    },
}
#: What the server brings, so that its absence can be told from a typing mistake.
SERVER_VERBS = ("serve", "pull", "export", "quantize", "forget", "prune", "plugins", "doctor", "demo")
#: The groups of the screen; verbs of other distributions come last.
GROUPS: Mapping[str, tuple[str, ...]] = {
    **{group: tuple(verbs) for group, verbs in CLIENT_COMMANDS.items()},
    "server": SERVER_VERBS,
}
OTHERS = "others"
#: The exit status after Ctrl-C.
INTERRUPTED = 130
GROUP, VERB = 10, 10


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; a complaint quotes long words in part."""

    def error(self, message: str) -> NoReturn:
        super().error(shortened(message))


class TopworkParser(CommandParser):
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
