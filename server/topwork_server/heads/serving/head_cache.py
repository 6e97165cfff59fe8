"""A cache of opened heads, by name and version; replaced and long unused ones are closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from topwork_server.errors import NotReady
from topwork_server.heads.head_store import TRIES, StoredHead
from topwork_server.heads.head_types import Head
from topwork_server.models.head_graph import PROBABILITIES, ROWS, SCORES, TYPICALITY
from topwork_server.runtime.session import Session
from topwork_server.types import Array

IDLE_SECONDS = 900.0
CHUNK_ROWS = 1024  # rows that are computed at a time: kNN heads compare each with all that they keep


@dataclass(eq=False)
class OpenedHead:
    """A head and its session, which stays usable for its holders when the files are replaced."""

    stored: StoredHead
    session: Session
    threads: int = 1
    used: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _typicality: Session | None = None

    @property
    def head(self) -> Head:
        return self.stored.head

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Compute scores and probabilities (n, outputs) float32 of (n, head.dim) pooled rows."""
        with self._lock:
            return run_head(self.session, rows, self.head.together)

    def typicality(self, rows: Array) -> Array:
        """Compute how like the training items each of (n, head.dim) pooled rows is, (n,) float32, by a graph that is opened when
        it is first asked for. NotReady where it is damaged, or gone since the head was replaced."""
        with self._lock:
            if self._typicality is None:
                self._typicality = self._open_typicality()
            rows = np.ascontiguousarray(rows, np.float32)
            starts = range(0, max(len(rows), 1), CHUNK_ROWS)
            parts = [self._typicality.run([TYPICALITY], {ROWS: rows[start : start + CHUNK_ROWS]})[0] for start in starts]
            return np.concatenate(parts)

    def _open_typicality(self) -> Session:
        graph = self.stored.typicality_graph
        assert graph is not None, "the caller has checked that there is one"
        try:
            self.stored.check_graph(graph)
        except FileNotFoundError as error:
            raise NotReady(f"the head {self.head.name!r} was replaced while it was used", remedy="predict again") from error
        return Session(graph, self.threads)


class HeadCache:
    """Opens heads when they are first used. It blocks and is thread-safe; each graph computes with `threads` threads."""

    def __init__(self, threads: int = 1, idle_seconds: float = IDLE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads, self._idle, self._clock = threads, idle_seconds, clock
        self._lock = threading.Lock()
        self._open: dict[str, OpenedHead] = {}

    def open(self, find: Callable[[], StoredHead]) -> OpenedHead:
        """Open the head that `find` returns. NotReady where its graph is damaged."""
        for _ in range(TRIES):
            stored = find()
            try:
                return self._cached(stored)
            except FileNotFoundError as error:
                if find().stamp == stored.stamp:  # otherwise it was replaced before it was opened
                    raise stored.damage("is gone") from error
        raise NotReady("the head is replaced again and again", remedy="try again")

    def names(self) -> list[str]:
        """The names of the heads in memory."""
        return list(self._open)

    def drop(self, name: str) -> None:
        """Drop a head from memory, if it is there; who holds it may go on."""
        with self._lock:
            self._open.pop(name, None)

    def drop_idle(self) -> None:
        """Drop the heads that were not used for a while; who holds one may go on."""
        now = self._clock()
        with self._lock:
            self._open = {name: one for name, one in self._open.items() if now - one.used < self._idle}

    def _cached(self, stored: StoredHead) -> OpenedHead:
        now = self._clock()
        self.drop_idle()
        with self._lock:
            opened = self._open.get(stored.head.name)
        if opened is None or opened.stored.stamp != stored.stamp:
            opened = OpenedHead(stored, self._session(stored), self._threads)
        opened.used = now
        with self._lock:
            self._open[stored.head.name] = opened
        return opened

    def _session(self, stored: StoredHead) -> Session:
        stored.check_graph()
        try:
            return Session(stored.graph, self._threads)
        except Exception as error:  # onnxruntime raises classes of its own
            if not stored.graph.exists():  # it was replaced or dropped since the check
                raise FileNotFoundError(stored.graph) from error
            raise stored.damage(f"cannot be opened: {str(error).partition(chr(10))[0]}") from error


def run_head(session: Session, rows: Array, together: int = 1) -> tuple[Array, Array]:
    """Compute scores and probabilities (n, outputs) of (n, dim) rows: float32, or float64 for the numbers of a regression.

    `together` rows, those of a picture, are never apart.
    """
    rows, chunk = np.ascontiguousarray(rows, np.float32), max(1, CHUNK_ROWS // together) * together
    starts = range(0, max(len(rows), 1), chunk)
    parts = [session.run([SCORES, PROBABILITIES], {ROWS: rows[start : start + chunk]}) for start in starts]
    scores, probabilities = (np.concatenate(chunks) for chunks in zip(*parts, strict=True))
    return scores, probabilities
