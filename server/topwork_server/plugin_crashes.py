"""Plugin code that would end the process (`sys.exit` in a library, an interrupt, a panic of Rust) ends its own request instead.

asyncio lets SystemExit and KeyboardInterrupt out of its loop, and with them the requests of all callers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from topwork_server.errors import PluginFault

T = TypeVar("T")


def contained(error: BaseException) -> Exception:
    """The error as one that a request can end with. Raises what must pass: a real Ctrl-C."""
    if isinstance(error, Exception):
        return error
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return PluginFault(f"code of a plugin would have ended the process ({what})", remedy="report it to the plugin's author")


class ContainedThreads(ThreadPoolExecutor):
    """A pool whose futures hold errors of requests alone."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(_call, fn, *args, **kwargs)


def _call(fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return fn(*args, **kwargs)
    except Exception:
        raise
    except BaseException as error:
        raise contained(error) from error
