"""Heads that belong to objects of this process: dropped on the server when those are collected, or when the process ends."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from contextlib import suppress
from queue import SimpleQueue

from topwork.client import Client

#: Seconds that dropping one head may take.
SOON = 5.0


class OwnedHeads:
    """Heads by name. Collection only notes the name, in a queue that is safe there; a thread of its own calls the server."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[Client, weakref.finalize[[str, int], object]]] = {}
        self._gone: SimpleQueue[str] = SimpleQueue()
        self._process: int | None = None

    def own(self, owner: object, client: Client, head: str) -> None:
        """Drop the head when `owner` is collected."""
        if self._process != os.getpid():  # what this process was forked with belongs to the other
            self._process, self._owners, self._gone = os.getpid(), {}, SimpleQueue()
            threading.Thread(target=self._drop_gone, args=(self._gone,), daemon=True).start()
        finalizer = weakref.finalize(owner, self._note, head, os.getpid())
        finalizer.atexit = False
        self._owners[head] = client, finalizer

    def release(self, head: str) -> Client | None:
        """Forget a head, so that it stays; the client that it was made with, where it was owned."""
        client, finalizer = self._owners.pop(head, (None, None))
        if finalizer is not None:
            finalizer.detach()
        return client

    def drop(self, head: str) -> None:
        """Drop a head now, where it is owned and the server can still be asked."""
        if client := self.release(head):
            with suppress(Exception):
                client.drop_head(head, timeout=SOON)

    def drop_all(self) -> None:
        if self._process == os.getpid():
            for head in list(self._owners):
                self.drop(head)

    def _note(self, head: str, process: int) -> None:
        if process == os.getpid():
            self._gone.put(head)

    def _drop_gone(self, gone: SimpleQueue[str]) -> None:
        while True:
            self.drop(gone.get())


OWNED_HEADS = OwnedHeads()
atexit.register(OWNED_HEADS.drop_all)
