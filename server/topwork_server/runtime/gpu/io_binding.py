"""Buffers of one batch on a device, of fixed shape and address, for inputs and outputs.

The path of a batch: the host's staging buffer -> the device's input -> the graph -> the device's output -> the host's staging
buffer. Addresses never change, which is what a captured CUDA graph needs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from topwork_server.runtime.gpu.device_memory import TO_DEVICE, TO_HOST, DeviceMemory
from topwork_server.runtime.gpu.shape_buckets import Shape, pad_into
from topwork_server.types import Array

#: Input shapes by name, and the outputs that are computed.
Key = tuple[tuple[tuple[str, Shape], ...], tuple[str, ...]]


def key_of(shapes: Mapping[str, Shape], outputs: Sequence[str]) -> Key:
    return tuple(sorted(shapes.items())), tuple(outputs)


class BufferSlot:
    """Input and output buffers, owned by one batch at a time. `graph` is the number of its CUDA graph, 0 before it has one."""

    def __init__(self, session: Any, memory: DeviceMemory, key: Key, dtypes: Mapping[str, Any]) -> None:
        self.key, self.graph, self.runs = key, 0, 0
        self._memory = memory
        self._stream = memory.create_stream()
        self._binding = session.io_binding()
        self._ins: dict[str, tuple[Array, Any]] = {}
        self._outs: dict[str, tuple[Array, Any]] = {}
        for name, shape in key[0]:
            self._ins[name] = self._buffers(shape, dtypes[name])
            self._binding.bind_ortvalue_input(name, self._ins[name][1])
        for name in key[1]:
            self._binding.bind_output(name, memory.name, memory.index)

    def _buffers(self, shape: Shape, dtype: Any) -> tuple[Array, Any]:
        from onnxruntime import OrtValue

        value = OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self._memory.name, self._memory.index)
        return self._memory.staging(shape, dtype), value

    @property
    def bytes(self) -> int:
        """Bytes on the host; the device has as many."""
        return sum(staging.nbytes for staging, _ in (*self._ins.values(), *self._outs.values()))

    def fill(self, feeds: Mapping[str, Array]) -> None:
        """Pad the batch and copy it to the device."""
        for name, array in feeds.items():
            staging, value = self._ins[name]
            pad_into(staging, array)
            self._memory.copy(value.data_ptr(), staging.ctypes.data, staging.nbytes, TO_DEVICE, self._stream)
        self._memory.synchronize(self._stream)

    def compute(self, session: Any, options: Any) -> None:
        """Run the graph, and return when the device is done."""
        session.run_with_iobinding(self._binding, options)
        self.runs += 1
        if not self._outs:
            self._fix_outputs()

    def _fix_outputs(self) -> None:
        """Give the outputs buffers of their own, of the shapes that the first run found. Its rows are copied out of the memory
        that it allocated, so it is not run again."""
        found = self._binding.get_outputs()
        for name, value in zip(self.key[1], found, strict=True):
            dtype = _DTYPES[value.data_type()]
            self._outs[name] = (self._memory.staging(tuple(value.shape()), dtype), value)
            self._binding.bind_ortvalue_output(name, value)

    def read(self) -> dict[str, Array]:
        """Outputs of the last run, in buffers that the next run overwrites."""
        for staging, value in self._outs.values():
            self._memory.copy(staging.ctypes.data, value.data_ptr(), staging.nbytes, TO_HOST, self._stream)
        self._memory.synchronize(self._stream)
        return {name: staging for name, (staging, _) in self._outs.items()}

    def close(self) -> None:
        self._memory.destroy_stream(self._stream)


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def dtype_of(name: str) -> Any:
    """onnxruntime's "tensor(float)" to numpy's float32."""
    return _DTYPES[name]


class BufferSlotPool:
    """Free slots by key. Beyond `most` bytes the least recently used are closed, except those with a captured graph."""

    def __init__(self, make: Callable[[Key], BufferSlot], most: int) -> None:
        self._make, self._most = make, most
        self._free: OrderedDict[int, BufferSlot] = OrderedDict()
        self._lock = threading.Lock()

    def acquire(self, key: Key) -> BufferSlot:
        with self._lock:
            found = next((slot for slot in reversed(self._free.values()) if slot.key == key), None)
            if found is not None:
                del self._free[id(found)]
                return found
        return self._make(key)

    def release(self, slot: BufferSlot) -> None:
        with self._lock:
            self._free[id(slot)] = slot
            leaving = self._evicted()
            for one in leaving:
                del self._free[id(one)]
        for one in leaving:
            one.close()

    def _evicted(self) -> list[BufferSlot]:
        kept = 0
        plain = [slot for slot in reversed(self._free.values()) if not slot.graph]
        for i, slot in enumerate(plain):
            kept += slot.bytes
            if i and kept > self._most:
                return plain[i:]
        return []

    def clear(self) -> None:
        with self._lock:
            slots, self._free = list(self._free.values()), OrderedDict()
        for slot in slots:
            slot.close()

    def __len__(self) -> int:
        return len(self._free)
