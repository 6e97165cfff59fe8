"""Who follows a set: told of every change in the order of versions, in the commit thread, before the writers are answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

from topwork_server.feature_sets.set_types import Change

log = logging.getLogger(__name__)

Follower: TypeAlias = Callable[[Change], None]
Lost: TypeAlias = Callable[[BaseException], None]


class ChangeListeners:
    """`lock` is held while a version becomes the newest, so that whoever joins under it misses none and hears none twice."""

    def __init__(self, name: str) -> None:
        self.lock = threading.RLock()
        self._name = name
        self._following: list[tuple[Follower, Lost | None]] = []

    def add(self, follower: Follower, lost: Lost | None) -> None:
        with self.lock:
            self._following.append((follower, lost))

    def remove(self, follower: Follower) -> None:
        """No error where it does not follow."""
        with self.lock:
            self._following = [one for one in self._following if one[0] != follower]

    def all(self) -> list[tuple[Follower, Lost | None]]:
        with self.lock:
            return list(self._following)

    def tell(self, following: list[tuple[Follower, Lost | None]], change: Change) -> None:
        """A follower that raises has missed a change and would be wrong from now on: it follows no longer, and is told so."""
        for follower, lost in following:
            try:
                follower(change)
            except BaseException as error:
                log.exception("a follower of the feature set %s failed at version %d", self._name, change.version)
                self.remove(follower)
                self._say(lost, error)

    def _say(self, lost: Lost | None, error: BaseException) -> None:
        if lost is None:
            return
        try:
            lost(error)
        except BaseException:
            log.exception("a lost follower of the feature set %s failed again", self._name)
