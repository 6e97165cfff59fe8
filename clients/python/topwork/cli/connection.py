"""The flags of every client verb, the client that they open, and why its first answer may take long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import click

from topwork._transport.retry import RETRY_FOR, TIMEOUT
from topwork.cli.verb import Number, flags
from topwork.client import Client
from topwork.errors import TopworkError

#: Seconds, less than a program takes: without a running server, a user should not wait long.
QUICK_RETRY = 1.0
#: Seconds without an answer, after which the server is asked what it does, and asked again.
SOON = 2.0
connection = flags(
    click.option(
        "--server",
        envvar="TOPWORK_SERVER",
        show_envvar=True,
        default="127.0.0.1:50051",
        show_default=True,
        metavar="HOST:PORT|https://HOST:PORT",
    ),
    click.option("--ca", metavar="FILE", help="the authority of the server's certificate, PEM (default: $TOPWORK_CA)"),
    click.option("--certificate", metavar="FILE", help="to show to a server that asks for one, PEM"),
    click.option("--key", metavar="FILE", help="the private key of the certificate, PEM"),
    click.option("--insecure", is_flag=True, help="send the key of $TOPWORK_API_KEY in plaintext to another machine"),
    click.option("--timeout", type=Number(min=0, min_open=True), default=TIMEOUT, show_default=True, metavar="SECONDS"),
    click.option("--json", is_flag=True, help="write JSON, for programs"),
)


def connected(arguments: SimpleNamespace) -> Client:
    return _opened(arguments, QUICK_RETRY)


def patient(arguments: SimpleNamespace) -> Client:
    """Open a client for long work with a server that has answered already: it outlasts a restart."""
    return _opened(arguments, RETRY_FOR)


def _opened(arguments: SimpleNamespace, retry_for: float) -> Client:
    return Client(
        arguments.server,
        timeout=arguments.timeout,
        retry_for=retry_for,
        ca=arguments.ca,
        certificate=arguments.certificate,
        key=arguments.key,
        insecure=arguments.insecure,
    )


@contextmanager
def explained(arguments: SimpleNamespace, encoder: str) -> Iterator[None]:
    """Print on stderr what the server does with the encoder before it can answer; nothing where JSON is wanted."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(arguments, encoder, done), daemon=True)
    if encoder and not arguments.json:
        watch.start()
    try:
        yield
    finally:
        done.set()


def _watch(arguments: SimpleNamespace, encoder: str, done: threading.Event) -> None:
    before = ""
    with suppress(TopworkError), connected(arguments) as client:
        while not done.wait(SOON):
            detail = client.encoder(encoder).detail
            if detail and detail != before and not done.is_set():
                print(f"{encoder}: {detail}", file=sys.stderr, flush=True)
            before = detail
