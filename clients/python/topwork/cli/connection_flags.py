"""The flags that every client verb of the command line has, and the client that they mean."""

from __future__ import annotations

from types import SimpleNamespace

import click

from topwork._transport.retry import RETRY_FOR, TIMEOUT
from topwork.cli.verb import Number, flags
from topwork.client import Client

#: Seconds, less than a program takes: a person who forgot to start the server should not wait.
QUICK_RETRY = 1.0
#: Seconds: more than 0.
SECONDS = Number(min=0, min_open=True)
connection = flags(
    click.option(
        "--server", envvar="TOPWORK_SERVER", show_envvar=True, default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT"
    ),
    click.option("--timeout", type=SECONDS, default=TIMEOUT, show_default=True, metavar="SECONDS"),
    click.option("--json", is_flag=True, help="write JSON, for programs"),
)


def connected(arguments: SimpleNamespace) -> Client:
    return Client(arguments.server, timeout=arguments.timeout, retry_for=QUICK_RETRY)


def patient(arguments: SimpleNamespace) -> Client:
    """For long work with a server that has answered already: it outlasts a restart."""
    return Client(arguments.server, timeout=arguments.timeout, retry_for=RETRY_FOR)
