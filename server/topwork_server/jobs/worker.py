"""`python -m topwork_server.jobs.worker`: one job's own process. Its order is a JSON line on stdin; see `jobs.job_process`."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import threading
import time
import traceback
from typing import Any

from topwork_server.errors import TopworkError
from topwork_server.jobs.parent_watch import end_with_parent

NICENESS = 10
#: Seconds between two words of progress: the last one is never lost, those between are.
PACE = 0.1
LARGEST_RESULT = 8 << 20
LONGEST_WORDS = 2000


class ProgressChannel:
    """Sends JSON lines to the server. `report` costs the work next to nothing: a thread of its own sends the latest."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._latest: tuple[float, str] = (0.0, "")
        self._news = threading.Event()
        threading.Thread(target=self._tell, daemon=True).start()

    def report(self, fraction: float, message: str) -> None:
        self._latest = (min(1.0, max(0.0, fraction)) if math.isfinite(fraction) else 0.0, str(message)[:LONGEST_WORDS])
        self._news.set()

    def conclude(self, **outcome: Any) -> None:
        """The last progress, which tells how far a failure came, then the outcome."""
        if self._news.is_set():
            self._say_latest()
        self.say(**outcome)

    def say(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        if len(data) > LARGEST_RESULT:
            raise ValueError(f"a result of {len(data)} bytes is too large: write a file and return its name")
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]

    def _tell(self) -> None:
        while self._news.wait():
            self._say_latest()
            time.sleep(PACE)

    def _say_latest(self) -> None:
        self._news.clear()
        fraction, message = self._latest
        self.say(fraction=fraction, message=message)


def main() -> int:
    os.nice(NICENESS)
    server, answers = _take_pipes()
    order = _order(server)
    threading.Thread(target=end_with_parent, args=(server,), daemon=True).start()
    sys.path[:] = order["path"]
    channel = ProgressChannel(answers)
    try:
        channel.conclude(result=dict(_function(order["call"])(order["arguments"], channel.report)))
    except TopworkError as error:
        channel.conclude(error=str(error)[:LONGEST_WORDS])
        return 1
    except BaseException as error:
        traceback.print_exc()
        channel.conclude(error=f"{type(error).__name__}: {error}".removesuffix(": ")[:LONGEST_WORDS])
        return 1
    return 0


def _take_pipes() -> tuple[int, int]:
    """Stdin and stdout under other numbers, which no process that the work starts inherits; what it prints goes to stderr."""
    server, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return server, answers


def _order(server: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(server, 1 << 16)
        if not part:
            os._exit(1)
        line += part
    return dict(json.loads(line))


def _function(call: str) -> Any:
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # a library that crashes on its way out does not undo what is done
