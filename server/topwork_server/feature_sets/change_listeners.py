"""Who follows a set: told of every change in the order of versions, in the commit thread, before the writers are answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

from topwork_server.feature_sets.set_types import Change

log = logging.getLogger(__name__)

Listener: TypeAlias = Callable[[Change], None]
OnLost: TypeAlias = Callable[[BaseException], None]


class ChangeListeners:
    """`lock` is held while a version becomes the newest, so that whoever joins under it misses none and hears none twice."""

    def __init__(self, name: str) -> None:
        self.lock = threading.RLock()
        self._name = name
        self._listeners: list[tuple[Listener, OnLost | None]] = []

    def add(self, listener: Listener, on_lost: OnLost | None) -> None:
        with self.lock:
            self._listeners.append((listener, on_lost))

    def remove(self, listener: Listener) -> None:
        """No error where it does not follow."""
        with self.lock:
            self._listeners = [one for one in self._listeners if one[0] != listener]

    def current(self) -> list[tuple[Listener, OnLost | None]]:
        with self.lock:
            return list(self._listeners)

    def notify(self, listeners: list[tuple[Listener, OnLost | None]], change: Change) -> None:
        """A follower that raises has missed a change and would be wrong from now on: it follows no longer, and is told so."""
        for listener, on_lost in listeners:
            try:
                listener(change)
            except BaseException as error:
                log.exception("a follower of the feature set %s failed at version %d", self._name, change.version)
                self.remove(listener)
                self._report_lost(on_lost, error)

    def _report_lost(self, on_lost: OnLost | None, error: BaseException) -> None:
        if on_lost is None:
            return
        try:
            on_lost(error)
        except BaseException:
            log.exception("a lost follower of the feature set %s failed again", self._name)
