"""Listeners of a set: called with every change, in the order of versions, in the commit thread, before writers are answered."""

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
    """The listeners of one set. `lock` is held while a version becomes the newest, so that a new listener misses no change."""

    def __init__(self, name: str) -> None:
        self.lock = threading.RLock()
        self._name = name
        self._listeners: list[tuple[Listener, OnLost | None]] = []

    def add(self, listener: Listener, on_lost: OnLost | None) -> None:
        with self.lock:
            self._listeners.append((listener, on_lost))

    def remove(self, listener: Listener) -> None:
        """Remove a listener; one that is not registered is no error."""
        with self.lock:
            self._listeners = [one for one in self._listeners if one[0] != listener]

    def current(self) -> list[tuple[Listener, OnLost | None]]:
        with self.lock:
            return list(self._listeners)

    def notify(self, listeners: list[tuple[Listener, OnLost | None]], change: Change) -> None:
        """Call each listener. One that raises has missed a change, so it is removed and its `on_lost` is called."""
        for listener, on_lost in listeners:
            try:
                listener(change)
            except BaseException as error:
                log.exception("a listener of the feature set %s failed at version %d", self._name, change.version)
                self.remove(listener)
                self._report_lost(on_lost, error)

    def _report_lost(self, on_lost: OnLost | None, error: BaseException) -> None:
        if on_lost is None:
            return
        try:
            on_lost(error)
        except BaseException:
            log.exception("the removed listener of the feature set %s failed again", self._name)
