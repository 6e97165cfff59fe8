"""The options that every client verb of the command line has, and the client that they mean."""

from __future__ import annotations

import argparse
import os

from topwork._transport.retry import RETRY_FOR, TIMEOUT
from topwork.client import Client

#: Seconds, less than a program takes: a person who forgot to start the server should not wait.
QUICK_RETRY = 1.0


def common() -> argparse.ArgumentParser:
    """The parent of each verb's parser."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("connection and output")
    server = os.environ.get("TOPWORK_SERVER") or "127.0.0.1:50051"
    group.add_argument("--server", metavar="HOST:PORT", default=server, help="default: $TOPWORK_SERVER, now %(default)s")
    group.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=TIMEOUT, help="default: %(default)g")
    group.add_argument("--json", action="store_true", help="write JSON, for programs")
    return parser


def connected(arguments: argparse.Namespace) -> Client:
    return Client(arguments.server, timeout=arguments.timeout, retry_for=QUICK_RETRY)


def patient(arguments: argparse.Namespace) -> Client:
    """For long work with a server that has answered already: it outlasts a restart."""
    return Client(arguments.server, timeout=arguments.timeout, retry_for=RETRY_FOR)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return seconds
