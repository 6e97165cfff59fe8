"""Copies to a device and back: on the host for real, and CUDA's calls against a runtime that keeps what it was told."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from topwork_server.runtime.gpu.device_memory import TO_DEVICE, TO_HOST, CudaMemory, HostMemory


class Runtime:
    """What libcudart does, on the host: real memory, real copies, and the order of calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.kept: dict[int, Any] = {}
        self.failing = ""

    def _said(self, name: str, *facts: Any) -> int:
        self.calls.append((name, facts))
        return 2 if name == self.failing else 0

    def cudaSetDevice(self, index: Any) -> int:  # noqa: N802
        return self._said("cudaSetDevice", index.value)

    def cudaHostAlloc(self, place: Any, count: Any, flags: Any) -> int:  # noqa: N802
        buffer = ctypes.create_string_buffer(count.value)
        self.kept[ctypes.addressof(buffer)] = buffer
        place._obj.value = ctypes.addressof(buffer)
        return self._said("cudaHostAlloc", count.value, flags.value)

    def cudaFreeHost(self, place: Any) -> int:  # noqa: N802
        del self.kept[place.value]
        return self._said("cudaFreeHost")

    def cudaStreamCreateWithFlags(self, stream: Any, flags: Any) -> int:  # noqa: N802
        stream._obj.value = 77
        return self._said("cudaStreamCreateWithFlags", flags.value)

    def cudaStreamDestroy(self, stream: Any) -> int:  # noqa: N802
        return self._said("cudaStreamDestroy", stream.value)

    def cudaMemcpyAsync(self, target: Any, source: Any, count: Any, kind: Any, stream: Any) -> int:  # noqa: N802
        ctypes.memmove(target.value, source.value, count.value)
        return self._said("cudaMemcpyAsync", kind.value, stream.value)

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        return self._said("cudaStreamSynchronize", stream.value)

    def cudaGetErrorString(self, status: Any) -> bytes:  # noqa: N802
        return b"out of memory" if status.value == 2 else b"?"


@pytest.mark.parametrize("memory", [HostMemory(), CudaMemory(1, Runtime())])
def test_what_went_to_the_device_comes_back(memory: Any) -> None:
    there, back = memory.staging((3, 5), np.float32), memory.staging((3, 5), np.float32)
    device = np.zeros((3, 5), np.float32)
    there[:] = np.arange(15).reshape(3, 5)
    way = memory.create_stream()
    memory.copy(device.ctypes.data, there.ctypes.data, there.nbytes, TO_DEVICE, way)
    memory.copy(back.ctypes.data, device.ctypes.data, back.nbytes, TO_HOST, way)
    memory.synchronize(way)
    memory.destroy_stream(way)
    assert (back == np.arange(15).reshape(3, 5)).all()


def test_copies_name_the_gpu_the_direction_and_the_stream() -> None:
    runtime = Runtime()
    memory = CudaMemory(3, runtime)
    array = memory.staging((4,), np.int64)
    way = memory.create_stream()
    memory.copy(array.ctypes.data, array.ctypes.data, array.nbytes, TO_HOST, way)
    assert ("cudaHostAlloc", (32, 1)) in runtime.calls
    assert runtime.calls[-2:] == [("cudaSetDevice", (3,)), ("cudaMemcpyAsync", (TO_HOST, 77))]


def test_pinned_memory_is_freed_with_the_last_array_on_it() -> None:
    runtime = Runtime()
    array = CudaMemory(0, runtime).staging((8,), np.uint8)
    view = array[2:]
    del array
    gc.collect()
    assert runtime.kept
    del view
    gc.collect()
    assert not runtime.kept


def test_a_failing_call_says_which_and_why_so_that_a_batch_can_be_halved() -> None:
    from topwork_server.runtime.session import is_out_of_memory

    runtime = Runtime()
    runtime.failing = "cudaHostAlloc"
    with pytest.raises(RuntimeError, match="cudaHostAlloc: CUDA error 2: out of memory") as caught:
        CudaMemory(0, runtime).staging((8,), np.uint8)
    assert is_out_of_memory(caught.value)
