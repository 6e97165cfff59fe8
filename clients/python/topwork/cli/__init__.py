"""The `topwork` command. Client verbs are here; others come from the entry points of the group `topwork.commands`.

Exit status: 0, 1 where something failed (one line says what, and what to do), 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence

import topwork
from topwork.cli.help_screen import INTERRUPTED, CommandParser, Parser
from topwork.cli.standard_streams import open_closed_streams, stop_writing
from topwork.errors import InvalidInput, TopworkError

GROUP = "topwork.commands"
#: What the server brings, so that its absence can be told from a typing mistake.
SERVER_VERBS = ("serve", "pull", "export", "quantize", "forget", "prune", "plugins", "doctor", "demo")


def command() -> None:
    """`main` as a process of its own. After Ctrl-C it ends without the interpreter's farewells: an interrupt may leave a thread
    of gRPC with a lock that they would wait for."""
    open_closed_streams()
    status = main()
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Wrong usage raises SystemExit(2), as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = argparse.Namespace()
    try:
        arguments = _parse(words)
        run: Callable[[argparse.Namespace], int] = arguments.run
        status = run(arguments)
        sys.stdout.flush()
    except TopworkError as error:
        _complain(error, getattr(arguments, "json", False))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        stop_writing()
        return 0
    except OSError as error:  # standard output is on a full disk; the commands name what they read and write themselves
        stop_writing()
        _complain(_unwritten(error), as_json=False)
        return 1
    return status


def _unwritten(error: OSError) -> TopworkError:
    what = error.filename or "the output"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free space, or write to another place" if full else "check the path, and who may use it"
    return InvalidInput(f"{what}: {error.strerror or error}", remedy=remedy)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="topwork",
        description="Features of texts, pictures and videos, from frozen encoders served over gRPC; search and trained heads.",
    )
    parser.add_argument("--version", action="version", version=f"topwork {topwork.__version__}")
    parser.set_defaults(run=lambda arguments: _help(parser))
    kind: type[argparse.ArgumentParser] = CommandParser
    parser.commands = commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=kind)
    _add_client_commands(commands)
    if not words or words[0] not in commands.choices:
        _add_commands_of_others(commands)
        if words and words[0] in SERVER_VERBS and words[0] not in commands.choices:
            parser.error(f"`topwork {words[0]}` comes with the server: pip install topwork-server")
    return _parsed(parser, words)


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


def _add_client_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from topwork.cli import (
        connection_flags,
        embed,
        encoders,
        heads,
        indexes,
        jobs,
        predict,
        probe,
        read,
        report,
        search,
        sets,
        train,
        versions,
        write,
    )

    common = connection_flags.common()
    of_sets = (write, sets, read, versions)
    of_heads = (train, predict, heads, report, probe)
    for verbs in (encoders, embed, *of_sets, indexes, search, jobs, *of_heads):
        verbs.add(commands, common)


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
