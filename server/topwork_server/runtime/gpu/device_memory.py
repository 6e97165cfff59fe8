"""Memory of a device, and copies to and from it that let other threads run.

onnxruntime's own copies hold Python's lock and go through pageable memory; these do neither. `HostMemory` is the same interface
on the CPU, where a device's buffer is a buffer of the host: everything but the card itself runs on it.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any, Protocol

import numpy as np

from topwork_server.types import Array

TO_DEVICE, TO_HOST = 1, 2
#: CUDA's flags: pinned memory that every context may use; a stream that does not wait for the default one.
PORTABLE, NON_BLOCKING = 1, 1
RUNTIMES = ("libcudart.so.13", "libcudart.so.12")


class DeviceMemory(Protocol):
    """Memory of one device, which onnxruntime calls `name` and `index`. Copies are ordered by stream, as in CUDA."""

    name: str
    index: int

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Host array that the device copies from and to directly. Lives as long as it is used."""

    def create_stream(self) -> int: ...

    def destroy_stream(self, way: int) -> None: ...

    def copy(self, target: int, source: int, count: int, direction: int, way: int) -> None:
        """Enqueue a copy of `count` bytes between addresses."""

    def synchronize(self, way: int) -> None:
        """Return when all copies of this stream are done."""


class HostMemory:
    """The CPU as a device."""

    name = "cpu"
    index = 0

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def create_stream(self) -> int:
        return 0

    def destroy_stream(self, way: int) -> None:
        pass

    def copy(self, target: int, source: int, count: int, direction: int, way: int) -> None:
        ctypes.memmove(target, source, count)

    def synchronize(self, way: int) -> None:
        pass


class CudaMemory:
    """One NVIDIA GPU, through CUDA's runtime library (the one that onnxruntime has loaded; ctypes lets go of Python's lock)."""

    name = "cuda"

    def __init__(self, index: int = 0, cuda: Any = None) -> None:
        self.index = index
        self._cuda = cuda or _load()

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Array:
        count = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
        place = ctypes.c_void_p()
        self._use()
        self._call("cudaHostAlloc", ctypes.byref(place), ctypes.c_size_t(count), ctypes.c_uint(PORTABLE))
        buffer = _as_buffer(self._cuda, int(place.value or 0), count)
        return np.frombuffer(buffer, dtype, math.prod(shape)).reshape(shape)

    def create_stream(self) -> int:
        stream = ctypes.c_void_p()
        self._use()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING))
        return int(stream.value or 0)

    def destroy_stream(self, way: int) -> None:
        self._use()
        self._call("cudaStreamDestroy", ctypes.c_void_p(way))

    def copy(self, target: int, source: int, count: int, direction: int, way: int) -> None:
        self._use()
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(count),
            ctypes.c_int(direction),
            ctypes.c_void_p(way),
        )

    def synchronize(self, way: int) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(way))

    def _use(self) -> None:
        """Select the device: each thread has a current device of its own."""
        self._call("cudaSetDevice", ctypes.c_int(self.index))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status:
            description = (self._cuda.cudaGetErrorString(ctypes.c_int(status)) or b"").decode("ascii", "replace")
            raise RuntimeError(f"{name}: CUDA error {status}: {description}")


def _as_buffer(cuda: Any, place: int, count: int) -> Any:
    """Wrap pinned memory as a buffer for numpy, freed when no array uses it any more."""
    buffer = (ctypes.c_uint8 * count).from_address(place)
    weakref.finalize(buffer, cuda.cudaFreeHost, ctypes.c_void_p(place))
    return buffer


def _load() -> Any:
    for name in RUNTIMES:
        try:
            cuda = ctypes.CDLL(name)
        except OSError as error:
            last = error
        else:
            cuda.cudaGetErrorString.restype = ctypes.c_char_p
            return cuda
    raise RuntimeError(f"CUDA's runtime library is not here: {last}")
