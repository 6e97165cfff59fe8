"""The script `topwork`: a module beside the package, so that Ctrl-C is quiet also while the package is imported (0.5 s)."""

from __future__ import annotations

import os
import signal

#: The exit status of Ctrl-C, as shells have it.
INTERRUPTED = 130


def command() -> None:
    """Run the command line; end at once where Ctrl-C comes before its modules are imported."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored, as behind `nohup`
    if heard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from topwork import cli

    cli.command(begin=_hear_interrupts if heard else None)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
