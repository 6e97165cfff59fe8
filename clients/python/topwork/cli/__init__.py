"""The `topwork` command. Client verbs are here; others come from the entry points of the group `topwork.commands`.

Exit status: 0, 1 where something failed (one line says what, and what to do), 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from topwork._display.excerpts import shortened
from topwork.cli.commands import all_commands

if TYPE_CHECKING:
    from topwork.errors import TopworkError

#: The exit status after Ctrl-C.
INTERRUPTED = 130


def command(begin: Callable[[], None] | None = None) -> None:
    """Run `main` as a process of its own. After Ctrl-C it ends without the interpreter's cleanup: an interrupt may leave a thread
    of gRPC with a lock that the cleanup would wait for."""
    _open_closed_streams()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else gRPC writes a line of its own for each TLS handshake that fails
    status = main(begin=begin)
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None, begin: Callable[[], None] | None = None) -> int:
    """Run one command and return its exit status. `begin` is called when all that the command needs is imported."""
    words = list(sys.argv[1:] if argv is None else argv)
    group = all_commands()
    try:
        with group.make_context("topwork", list(words), obj=begin) as context:
            status = group.invoke(context)
            sys.stdout.flush()
            return int(status or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(shortened(text.getvalue()), err=True, nl=False)
        return error.exit_code
    except Exception as error:
        return _failed(error, as_json="--json" in words)


def _failed(error: Exception, as_json: bool) -> int:
    """Report the error in one line, and return the exit status. Raises it again where it is a defect."""
    from topwork.errors import TopworkError  # with gRPC, which the help screen does not need

    if isinstance(error, TopworkError):
        _complain(error, as_json)
        return error.exit_status
    if isinstance(error, BrokenPipeError):  # the reader of our output has closed it
        _stop_writing()
        return 0
    if isinstance(error, OSError):  # standard output is on a full disk; the commands name what they read and write themselves
        _stop_writing()
        _complain(_unwritten(error), as_json=False)
        return 1
    raise error


def _complain(error: TopworkError, as_json: bool) -> None:
    if as_json:
        record = {"code": error.code.name, "message": error.message, "remedy": error.remedy, "item": error.item}
        print(json.dumps(record))
    else:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text(f"topwork: {error}", style="red"), soft_wrap=True)


def _unwritten(error: OSError) -> TopworkError:
    from topwork.errors import InvalidInput

    what = error.filename2 or error.filename or "the output"  # of a rename the place, and not the part
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free space, or write to another place" if full else "check the path, and who may use it"
    return InvalidInput(f"{what}: {error.strerror or error}", remedy=remedy)


def _open_closed_streams() -> None:
    """Open the streams that the caller closed (`>&-`) on the null device. Otherwise the next file or socket would get their
    numbers, and what libraries print would go into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number, mode)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _stop_writing() -> None:
    """Let the rest of the output go nowhere: the interpreter flushes it at its end, and would complain."""
    with suppress(OSError, ValueError):
        _open_null(sys.stdout.fileno(), "w")


def _open_null(number: int, mode: str) -> None:
    opened = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
