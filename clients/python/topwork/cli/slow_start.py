"""Why a first answer takes long: the server exports or measures an encoder on its first use, and says so in the catalogue."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

from topwork.cli.connection_flags import connected
from topwork.errors import TopworkError

#: Seconds without an answer, after which the server is asked what it does, and asked again.
SOON = 2.0


@contextmanager
def explained(arguments: SimpleNamespace, encoder: str) -> Iterator[None]:
    """Say on stderr what the server does with the encoder before it can answer; nothing where JSON is wanted."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(arguments, encoder, done), daemon=True)
    if encoder and not arguments.json:
        watch.start()
    try:
        yield
    finally:
        done.set()


def _watch(arguments: SimpleNamespace, encoder: str, done: threading.Event) -> None:
    said = ""
    with suppress(TopworkError), connected(arguments) as client:
        while not done.wait(SOON):
            detail = client.encoder(encoder).detail
            if detail and detail != said and not done.is_set():
                print(f"{encoder}: {detail}", file=sys.stderr, flush=True)
            said = detail
