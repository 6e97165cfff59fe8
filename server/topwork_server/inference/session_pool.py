"""Backends of a batcher, and their sessions: opened on first use, and again after one died."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from topwork_server.errors import TopworkError, Unavailable
from topwork_server.runtime.session import RunnableSession
from topwork_server.types import Array, Numerics


@dataclass(frozen=True)
class Backend:
    """A device that computes the graph, and its numerics. `open` returns one session, or one for each GPU."""

    numerics: Numerics
    open: Callable[[], Sequence[RunnableSession]]


class SessionSlot:
    """A session, guarded by a semaphore for as many threads as it takes at once."""

    def __init__(self, session: RunnableSession) -> None:
        self.session = session
        self._gate = threading.Semaphore(session.workers)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        with self._gate:
            return self.session.run(outputs, feeds)


class SessionPool:
    """Opens and closes the sessions of all backends: backend 0 at once, others when first needed. From any thread."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = backends
        self._opening = threading.Lock()
        self._slots: dict[int, list[SessionSlot]] = {}
        self.workers = len(self._open(0))

    def slot_for(self, backend: int, worker: int) -> SessionSlot:
        """The slot in which a worker computes; each session has as many as it takes threads at once. Unavailable where this
        backend cannot be opened: the others go on."""
        slots = self._slots.get(backend) or self._open_for_request(backend)
        return slots[worker % len(slots)]

    @property
    def open_count(self) -> int:
        """Number of open backends; each holds the weights once more."""
        return len(self._slots)

    def reopen(self, backend: int) -> None:
        """Close and open a backend on which no thread runs. If it cannot be opened, the next call tries again."""
        self._close(backend)
        self._open(backend)

    def close(self) -> None:
        for backend in list(self._slots):
            self._close(backend)

    def _open_for_request(self, backend: int) -> list[SessionSlot]:
        try:
            return self._open(backend)
        except TopworkError:
            raise
        except Exception as error:
            asked = self._backends[backend].numerics
            raise Unavailable(
                f"no session could be opened on {asked.provider} {asked.precision}: {type(error).__name__}: {error}",
                remedy="try again later, or ask for other taps",
            ) from error

    def _open(self, backend: int) -> list[SessionSlot]:
        with self._opening:
            if backend not in self._slots:
                once = [SessionSlot(session) for session in self._backends[backend].open()]
                self._slots[backend] = [slot for slot in once for _ in range(slot.session.workers)]
            return self._slots[backend]

    def _close(self, backend: int) -> None:
        with self._opening:
            for session in {slot.session for slot in self._slots.pop(backend, [])}:
                session.close()
