"""The one thread of a set that commits: what waits together shares a commit, and failures stay with those who caused them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from topwork_server.errors import DiskFull, TopworkError, Unavailable
from topwork_server.sets.groups import Delete, Write

log = logging.getLogger(__name__)

GROUP_BYTES = 64 << 20
GROUP_ROWS = 100_000
# A writer that runs ahead of the disk waits here, so that memory stays bounded.
QUEUE_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Task:
    """Anything else that must not run beside a commit."""

    call: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    size: int = 0


Operation: TypeAlias = Write | Delete | Task


class Committer:
    """A queue and its thread, which starts with the first operation.

    `apply` commits a group of writes and deletions and answers their futures; `tidy(busy)` is called when nothing waits, and
    after `TIDY_EVERY` groups even if something does. It must not take long without asking busy().
    """

    TIDY_EVERY = 64

    def __init__(
        self, name: str, apply: Callable[[list[Write | Delete]], None], tidy: Callable[[Callable[[], bool]], None]
    ) -> None:
        self._name, self._apply, self._tidy = name, apply, tidy
        self._changed = threading.Condition()
        self._queue: deque[Operation] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, operation: Operation) -> None:
        """Queue it. Waits while the queue is too long. Unavailable once closed."""
        with self._changed:
            while self._waiting_bytes > QUEUE_BYTES and not self._closed and threading.current_thread() is not self._thread:
                self._changed.wait()
            if self._closed:
                raise Unavailable(f"the feature set {self._name!r} is closed", remedy="it was dropped, or the server is stopping")
            self._queue.append(operation)
            self._waiting_bytes += operation.size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"commits-{self._name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def commit_now(self, operation: Write | Delete) -> None:
        """Commit it before all that waits: for tasks, in the commit thread. Its future is answered when this returns."""
        self._commit([operation])

    def busy(self) -> bool:
        return bool(self._queue) or self._closed

    def close(self) -> None:
        """Take no more, finish what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        untidy = 0
        while group := self._next(untidy):
            if isinstance(group[0], Task):
                self._do(group[0])
            else:
                self._commit([operation for operation in group if not isinstance(operation, Task)])
                untidy += 1
            if untidy and (not self._queue or untidy >= self.TIDY_EVERY):
                self._tidy_up()
                untidy = 0

    def _next(self, untidy: int) -> list[Operation]:
        """The next group, after waiting for it; empty when closed and done."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            group: list[Operation] = []
            size = rows = 0
            while self._queue and self._joins(group, self._queue[0], size, rows):
                operation = self._queue.popleft()
                self._waiting_bytes -= operation.size
                size += operation.size
                rows += 0 if isinstance(operation, Task) else len(operation.ids)
                group.append(operation)
            self._changed.notify_all()
            return group

    def _joins(self, group: list[Operation], operation: Operation, size: int, rows: int) -> bool:
        if not group:
            return True
        if isinstance(operation, Task) or isinstance(group[0], Task):
            return False
        return size + operation.size <= GROUP_BYTES and rows + len(operation.ids) <= GROUP_ROWS

    def _commit(self, group: list[Write | Delete]) -> None:
        waited = [operation for operation in group if operation.future.set_running_or_notify_cancel()]
        if not waited:
            return
        try:
            self._apply(waited)
        except BaseException as error:  # a panic in Lance is a BaseException, and its writers must hear of it
            log.error(
                "a commit to the feature set %s failed", self._name, exc_info=None if isinstance(error, DiskFull) else error
            )
            for operation in waited:
                if not operation.future.done():
                    operation.future.set_exception(
                        error if isinstance(error, TopworkError) else TopworkError(f"not written: {error}")
                    )

    def _do(self, task: Task) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            task.future.set_result(task.call())
        except BaseException as error:
            task.future.set_exception(error)

    def _tidy_up(self) -> None:
        try:
            self._tidy(self.busy)
        except DiskFull as error:
            log.warning("housekeeping of the feature set %s waits: %s", self._name, error)
        except BaseException:  # nothing is lost by a compaction or a pruning that failed
            log.exception("housekeeping of the feature set %s failed", self._name)
