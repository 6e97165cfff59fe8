"""Reads every file of every set through, slowly and while nothing else goes on, and compares it with its checksum."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from topwork_server.errors import DataLoss, NotFound
from topwork_server.feature_sets.checksums import Checksums
from topwork_server.feature_sets.set_registry import FeatureSets

#: Bytes a second that are read, and seconds between the ends of two rounds.
RATE = 64 << 20
PERIOD = 24 * 3600.0
#: Seconds after the start, and between two looks whether encoders compute.
FIRST_SECONDS, PAUSE_SECONDS = 30.0, 1.0

log = logging.getLogger(__name__)


class ChecksumScrub:
    """A thread that checks all sets. Damage is logged, and the set is DATA_LOSS from then on."""

    def __init__(self, sets: FeatureSets, busy: Callable[[], bool]) -> None:
        self._sets, self._busy = sets, busy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait = FIRST_SECONDS
        while not self._stop.wait(wait):
            try:
                self.check_all()
            except Exception:
                log.exception("the files of sets could not be checked")
            wait = PERIOD

    def check_all(self) -> None:
        """Check every file of every set once."""
        for name in self._sets.names():
            checksums = self._sets.checksums(name)
            for file in list(checksums.entries):
                if self._stop.is_set():
                    return
                self._check_file(checksums, file)

    def _check_file(self, checksums: Checksums, name: str) -> None:
        path = checksums.path / name
        self._wait_while_busy()
        if not path.exists():
            return  # pruned; what a version needs is looked for when it is opened
        began = time.monotonic()
        try:
            checksums.verify(name)
        except (DataLoss, NotFound):  # logged, and remembered
            return
        self._stop.wait(_size(path) / RATE - (time.monotonic() - began))

    def _wait_while_busy(self) -> None:
        while self._busy() and not self._stop.wait(PAUSE_SECONDS):
            pass


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
