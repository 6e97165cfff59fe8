"""Memory and threads of this process: what it may have, and how what was freed goes back (glibc keeps the heaps of threads)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
from pathlib import Path

#: Bytes of large messages after which memory is given back, and seconds until then: what comes meanwhile goes with it.
LARGE, PAUSE = 16 << 20, 0.5
CGROUPS, OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def give_back() -> None:
    """Takes some milliseconds. Does nothing where the C library has no malloc_trim."""
    gc.collect()  # what an encoder was made of may be in cycles
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class MemoryTrimmer:
    """Gives memory back soon after large messages are done, once for many. Used on one event loop."""

    def __init__(self) -> None:
        self._freed = 0
        self._timer: asyncio.TimerHandle | None = None

    def freed(self, size: int) -> None:
        self._freed += size
        if self._freed >= LARGE and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._start)

    def _start(self) -> None:
        self._freed, self._timer = 0, None
        asyncio.get_running_loop().run_in_executor(None, give_back)


def limit_blas(count: int) -> None:
    """Set the threads of each loaded BLAS that has a pool of its own; that of FAISS uses the threads of OpenMP.

    Left alone, numpy's OpenBLAS spreads each product over a pool of threads that spin while they wait for one another. In a
    search beside the OpenMP threads of an index a product of 0.1 ms took 20 ms on two cores, and a sweep over 554 x 384 rows took
    102 s with two threads and 13 s with one on a busy machine.
    """
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if library.info().get("threading_layer") != "openmp":
            library.set_num_threads(count)


def usable_memory() -> int:
    """Bytes that this process may have: of the machine, or less where its control groups or its resource limits say so."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *cgroup_limits()]
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(found if soft == resource.RLIM_INFINITY else [*found, soft])


def cgroup_limits(root: Path = CGROUPS, of_process: Path = OF_PROCESS) -> list[int]:
    """Read the limits of the process's own group and all above it, in version 2 (memory.max) and version 1
    (memory.limit_in_bytes)."""
    try:
        lines = [line.split(":", 2) for line in of_process.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for number, controllers, path in lines:
        if number == "0" and not controllers:
            found += _limits(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(root / "memory", path, "memory.limit_in_bytes")
    return found


def _limits(root: Path, group: str, file: str) -> list[int]:
    """Inside a container the group's own path may not be there; its root is then the group itself."""
    folder = root / group.lstrip("/")
    found = []
    for one in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            found.append(int((one / file).read_text()))
        if one == root:
            break
    return found
