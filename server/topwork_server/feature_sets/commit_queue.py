"""The commit queue of a set: operations that wait together share a commit, and a bad one fails alone."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from topwork_server.errors import DataLoss, DiskFull, TopworkError, Unavailable, exhausted
from topwork_server.feature_sets.daemon_pool import DaemonPool
from topwork_server.feature_sets.set_types import WriteResult
from topwork_server.types import Numerics

log = logging.getLogger(__name__)

GROUP_BYTES = 64 << 20
GROUP_ROWS = 100_000
# A writer that runs ahead of the disk waits here, so that memory stays bounded.
QUEUE_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class PendingWrite:
    """A queued write: a table of all columns but `key`."""

    table: Any
    numerics: Numerics | None = None
    future: Future[WriteResult] = field(default_factory=Future)

    @property
    def size(self) -> int:
        return int(self.table.nbytes)

    @property
    def ids(self) -> Any:
        return self.table["id"].combine_chunks()


@dataclass(frozen=True, eq=False)
class PendingDelete:
    """A queued deletion of ids (Arrow strings, each once)."""

    ids: Any
    future: Future[tuple[int, int]] = field(default_factory=Future)

    @property
    def size(self) -> int:
        return int(self.ids.nbytes)


@dataclass(frozen=True, eq=False)
class CommitTask:
    """Another call that must not run beside a commit."""

    call: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    size: int = 0


Operation: TypeAlias = PendingWrite | PendingDelete | CommitTask


class CommitQueue:
    """A queue of one set, and its turns in the threads that commit: one turn at a time, so that nothing runs beside a commit.

    `apply` commits a group of writes and deletions and answers their futures; `maintain(busy)` is called when nothing waits, and
    after `MAINTAIN_EVERY` groups even if something does. It must not take long without asking busy().
    """

    MAINTAIN_EVERY = 64

    def __init__(
        self,
        name: str,
        apply: Callable[[list[PendingWrite | PendingDelete]], None],
        maintain: Callable[[Callable[[], bool]], None],
        threads: DaemonPool,
    ) -> None:
        self._name, self._apply, self._maintain, self._threads = name, apply, maintain, threads
        self._changed = threading.Condition()
        self._queue: deque[Operation] = deque()
        self._waiting_bytes = self._since_maintenance = 0
        self._in_turn = False  # a turn is under way, or has its place among those of other sets
        self._thread: int | None = None  # of the turn under way
        self._closed = False

    def put(self, operation: Operation) -> None:
        """Queue it. Waits while the queue is too long. Unavailable once closed, Overloaded where there is no thread left."""
        with self._changed:
            while self._waiting_bytes > QUEUE_BYTES and not self._closed and threading.get_ident() != self._thread:
                self._changed.wait()
            if self._closed:
                raise Unavailable(f"the feature set {self._name!r} is closed", remedy="the server is stopping: try again later")
            self._queue.append(operation)
            self._waiting_bytes += operation.size
            if not self._in_turn:
                self._schedule_turn()

    def commit_now(self, operation: PendingWrite | PendingDelete) -> None:
        """Commit it before all that waits: for tasks, in the commit thread. Its future is answered when this returns."""
        self._commit([operation])

    def busy(self) -> bool:
        return bool(self._queue) or self._closed or self._threads.waiting

    def close(self) -> None:
        """Take no more, finish what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if threading.get_ident() != self._thread:
                self._changed.wait_for(lambda: not self._in_turn)

    def _schedule_turn(self) -> None:
        """Take a turn, with the lock held. Where no thread can be had, all waiting operations fail."""
        try:
            self._threads.submit(self._run_turn)
            self._in_turn = True
        except BaseException as error:
            self._in_turn = False
            self._fail_waiting(error)
        self._changed.notify_all()

    def _run_turn(self) -> None:
        """Commit group after group; where other sets wait, the next one is another turn, behind theirs."""
        self._thread = threading.get_ident()
        try:
            self._process(self._next_group())
            while self._queue and not self._threads.waiting:
                self._process(self._next_group())
        except BaseException as error:  # such as MemoryError: all waiting futures must fail
            with self._changed:
                self._fail_waiting(error)
            log.exception("the commits of the feature set %s broke off", self._name)
        finally:
            with self._changed:
                self._thread = None
                self._in_turn = False
                if self._queue:
                    self._schedule_turn()
                self._changed.notify_all()

    def _process(self, group: list[Operation]) -> None:
        if group and isinstance(group[0], CommitTask):
            self._run_task(group[0])
        elif group:
            self._commit([operation for operation in group if not isinstance(operation, CommitTask)])
            self._since_maintenance += 1
        if self._since_maintenance and (not self._queue or self._since_maintenance >= self.MAINTAIN_EVERY):
            self._since_maintenance = 0
            self._run_maintenance()

    def _next_group(self) -> list[Operation]:
        """Take the operations that share the next commit."""
        with self._changed:
            group: list[Operation] = []
            size = rows = 0
            while self._queue and self._fits_group(group, self._queue[0], size, rows):
                operation = self._queue.popleft()
                self._waiting_bytes -= operation.size
                size += operation.size
                rows += 0 if isinstance(operation, CommitTask) else len(operation.ids)
                group.append(operation)
            self._changed.notify_all()
            return group

    def _fail_waiting(self, error: BaseException) -> None:
        """Fail all waiting operations, with the lock held."""
        while self._queue:
            operation = self._queue.popleft()
            self._waiting_bytes -= operation.size
            if operation.future.set_running_or_notify_cancel():
                operation.future.set_exception(_as_topwork_error(error))

    def _fits_group(self, group: list[Operation], operation: Operation, size: int, rows: int) -> bool:
        if not group:
            return True
        if isinstance(operation, CommitTask) or isinstance(group[0], CommitTask):
            return False
        return size + operation.size <= GROUP_BYTES and rows + len(operation.ids) <= GROUP_ROWS

    def _commit(self, group: list[PendingWrite | PendingDelete]) -> None:
        waited = [operation for operation in group if operation.future.set_running_or_notify_cancel()]
        if not waited:
            return
        try:
            self._apply(waited)
        except BaseException as error:  # a panic in Lance is a BaseException, and its writers must hear of it
            known = isinstance(error, DiskFull | DataLoss)
            log.error("a commit to the feature set %s failed: %s", self._name, error, exc_info=None if known else error)
            for operation in waited:
                if not operation.future.done():
                    operation.future.set_exception(_as_topwork_error(error))

    def _run_task(self, task: CommitTask) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            task.future.set_result(task.call())
        except BaseException as error:
            task.future.set_exception(error)

    def _run_maintenance(self) -> None:
        try:
            self._maintain(self.busy)
        except (DiskFull, DataLoss) as error:
            log.warning("maintenance of the feature set %s waits: %s", self._name, error)
        except BaseException:  # nothing is lost by a compaction or a pruning that failed
            log.exception("maintenance of the feature set %s failed", self._name)


def _as_topwork_error(error: BaseException) -> TopworkError:
    """Convert an error to the one that writers get."""
    return exhausted(error) or (error if isinstance(error, TopworkError) else TopworkError(f"not written: {error}"))
