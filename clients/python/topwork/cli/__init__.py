"""The `topwork` command. Client verbs are here; others come from the entry points of the group `topwork.commands`.

Exit status: 0, 1 where something failed (one line says what, and what to do), 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

import topwork
from topwork.cli.help_screen import CLIENT_COMMANDS, INTERRUPTED, SERVER_VERBS, CommandParser, TopworkParser
from topwork.cli.standard_streams import open_closed_streams, stop_writing

if TYPE_CHECKING:
    from topwork.errors import TopworkError

GROUP = "topwork.commands"


def command(begin: Callable[[], None] | None = None) -> None:
    """Run `main` as a process of its own. After Ctrl-C it ends without the interpreter's cleanup: an interrupt may leave a thread
    of gRPC with a lock that the cleanup would wait for."""
    open_closed_streams()
    status = main(begin=begin)
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None, begin: Callable[[], None] | None = None) -> int:
    """Run one command and return its exit status. Wrong usage raises SystemExit(2), as argparse does. `begin` is called when all
    that the command needs is imported."""
    try:
        arguments = _parse(list(sys.argv[1:] if argv is None else argv))
        if begin:
            begin()
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    from topwork.errors import TopworkError  # with gRPC, which the help screen does not need

    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except TopworkError as error:
        _complain(error, getattr(arguments, "json", False))
        return 1
    except BrokenPipeError:  # the reader of our output has closed it
        stop_writing()
        return 0
    except OSError as error:  # standard output is on a full disk; the commands name what they read and write themselves
        stop_writing()
        _complain(_unwritten(error), as_json=False)
        return 1
    return status


def _unwritten(error: OSError) -> TopworkError:
    from topwork.errors import InvalidInput

    what = error.filename or "the output"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free space, or write to another place" if full else "check the path, and who may use it"
    return InvalidInput(f"{what}: {error.strerror or error}", remedy=remedy)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = TopworkParser(
        prog="topwork",
        description="Features of texts, pictures and videos, from frozen encoders served over gRPC; search and trained heads.",
    )
    parser.add_argument("--version", action="version", version=f"topwork {topwork.__version__}")
    parser.set_defaults(run=lambda arguments: _help(parser))
    kind: type[argparse.ArgumentParser] = CommandParser
    parser.commands = commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=kind)
    verb = next((word for word in words if not word.startswith("-")), "")
    _add_client_commands(commands, verb)
    if verb not in commands.choices:
        _add_commands_of_others(commands)
        if verb in SERVER_VERBS and verb not in commands.choices:
            parser.error(f"`topwork {verb}` comes with the server: pip install topwork-server")
        if words and not words[0].startswith("-") and words[0] not in commands.choices:
            parser.error(_unknown(words[0], commands.choices))
    return _parsed(parser, words)


def _unknown(word: str, commands: Iterable[str]) -> str:
    near = get_close_matches(word, commands, n=3, cutoff=0.6)
    said = f": did you mean {' or '.join(f'`topwork {name}`' for name in near)}?" if near else ""
    return f"there is no command {word!r}{said or '; `topwork --help` lists all'}"


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Items may stand after options too: argparse takes a list that may be empty only where it stands first."""
    arguments, others = parser.parse_known_args(words)
    if others and (not hasattr(arguments, "items") or any(word.startswith("-") and word != "-" for word in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        arguments.items += others
    return arguments


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 2


def _add_client_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], verb: str) -> None:
    """Import the module of this command and let it add its parser; for the help screen only list them all."""
    known = {name: command for group in CLIENT_COMMANDS.values() for name, command in group.items()}
    if verb in known:
        from topwork.cli import connection_flags

        import_module(f"topwork.cli.{known[verb].module}").add(commands, connection_flags.common())
        return
    for name, command in known.items():
        commands.add_parser(name, help=command.summary)


def _add_commands_of_others(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """A distribution that is broken must not take the other commands with it."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        try:
            entry.load()(commands)
        except Exception as error:
            owner = entry.dist.name if entry.dist else entry.value
            print(f"topwork: the commands of {owner} are missing: {type(error).__name__}: {error}", file=sys.stderr)


def _complain(error: TopworkError, as_json: bool) -> None:
    if as_json:
        record = {"code": error.code.name, "message": error.message, "remedy": error.remedy, "item": error.item}
        print(json.dumps(record))
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"topwork: {error}", style="red"), soft_wrap=True)
