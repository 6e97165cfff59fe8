"""A graph on one GPU. Several threads submit batches; one thread of its own runs them, while copies go on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from topwork_server.errors import StartError
from topwork_server.models import onnx_files
from topwork_server.runtime.gpu.device_memory import CudaMemory, DeviceMemory, HostMemory
from topwork_server.runtime.gpu.io_binding import BufferSlot, BufferSlotPool, dtype_of, key_of
from topwork_server.runtime.gpu.optimized_graph import optimized_graph, spatial_axes
from topwork_server.runtime.gpu.provider_options import WIDE_ROWS, providers
from topwork_server.runtime.gpu.rw_lock import CAPTURE_LOCK
from topwork_server.runtime.gpu.shape_buckets import MOST_ROWS, Axes, Shape, ShapeBuckets, concat_outputs, split_rows
from topwork_server.runtime.providers import Device
from topwork_server.runtime.session import is_out_of_memory
from topwork_server.types import Array

log = logging.getLogger(__name__)

#: Shapes that came so often are captured; onnxruntime itself runs a shape twice before it captures it.
CAPTURE_AFTER, WARM_RUNS = 4, 3
MOST_GRAPHS = 64
#: A captured shape keeps its buffers; what is larger computes for longer than its kernels take to launch.
LARGEST_CAPTURED = 16 << 20
#: Bytes of pinned buffers kept for shapes without a graph.
MOST_BYTES = 1 << 30
#: onnxruntime's words: this run has no CUDA graph.
NO_GRAPH = -1
NOT_CAPTURED = "a CUDA graph could not be captured; this session goes on without new ones"

_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class GpuSession:
    """A `RunnableSession` on a GPU. On Device("cpu") it works in the host's memory, for tests."""

    #: One batch is in the graph while another comes in and a third goes out.
    workers = 3

    def __init__(self, model: Path, device: Device, *, memory: DeviceMemory | None = None, capture: bool = True) -> None:
        """Open the graph; the first time, its file for this device is written. StartError where the provider does not take it."""
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        if device.provider != "cpu":
            onnxruntime.preload_dlls()
        self.device = device
        path = optimized_graph(model, device)
        with CAPTURE_LOCK.shared(lasting=True):
            self._session, self.captures = _opened(path, model.parent, device, capture=capture)
        self._memory = memory or (HostMemory() if device.provider == "cpu" else CudaMemory(device.index))
        ins, outs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs, self.outputs = (tuple(node.name for node in nodes) for nodes in (ins, outs))
        self._dtypes = {node.name: dtype_of(node.type) for node in ins}
        self.buckets = ShapeBuckets.of_axes(_axes(ins), _axes(outs))
        wide = device.provider == "tensorrt" and self.buckets.tokens is not None
        self._most_rows = WIDE_ROWS if wide else MOST_ROWS
        self._slots = BufferSlotPool(lambda key: BufferSlot(self._session, self._memory, key, self._dtypes), MOST_BYTES)
        # A captured graph belongs to the thread that captured it, and must not be replayed by two at once.
        self._launcher = ThreadPoolExecutor(1, f"gpu {device.index}")
        self._graphs = 0

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs for one batch, which is padded to its bucket and cut back. MemoryError where it does not fit."""
        try:
            return concat_outputs([self._run_part(outputs, part) for part in split_rows(feeds, self._most_rows)])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            with CAPTURE_LOCK.shared():
                self._slots.clear()
            raise MemoryError(str(error)) from error

    def _run_part(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run one part. A bucket that the graph refuses is not used again: a table of positions may end below it."""
        shapes = {name: array.shape for name, array in feeds.items()}
        tokens, padded = self.buckets.token_count(shapes), self.buckets.padded(shapes)
        try:
            return self._run_bucket(outputs, feeds, padded, tokens)
        except Exception as error:
            length = self.buckets.token_count(padded)
            if length is None or length == tokens or is_out_of_memory(error):
                raise
            self.buckets = replace(self.buckets, longest=min(self.buckets.longest, length - 1))
            return self._run_bucket(outputs, feeds, self.buckets.padded(shapes), tokens)

    def _run_bucket(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], shapes: Mapping[str, Shape], tokens: int | None
    ) -> list[Array]:
        rows, key = len(next(iter(feeds.values()))), key_of(shapes, outputs)
        with CAPTURE_LOCK.shared():
            slot = self._slots.acquire(key)
        try:
            with CAPTURE_LOCK.shared():
                slot.fill(feeds)
            self._launcher.submit(self._compute, slot).result()
            with CAPTURE_LOCK.shared():
                found = slot.read()
            results = [self.buckets.remove_padding(name, found[name], rows, tokens).copy() for name in outputs]
        except BaseException:
            with CAPTURE_LOCK.shared():
                slot.close()
            raise
        with CAPTURE_LOCK.shared():
            self._slots.release(slot)
        return results

    def _compute(self, slot: BufferSlot) -> None:
        """Run the graph, in the session's own thread."""
        if not slot.graph and self.captures and slot.runs >= CAPTURE_AFTER and slot.bytes <= LARGEST_CAPTURED:
            self._capture(slot)
        with CAPTURE_LOCK.shared():
            slot.compute(self._session, _run_options(slot.graph or NO_GRAPH, graphs=self.captures))

    def _capture(self, slot: BufferSlot) -> None:
        """Capture a CUDA graph, unless another session is being opened: then the next run tries again."""
        if self._graphs >= MOST_GRAPHS:
            return
        with CAPTURE_LOCK.exclusive() as alone:
            if alone:
                self._graphs += 1
                slot.graph = self._run_capture(slot, self._graphs)

    def _run_capture(self, slot: BufferSlot, graph: int) -> int:
        """Number of the captured graph; 0 where that failed."""
        try:
            for _ in range(WARM_RUNS):
                slot.compute(self._session, _run_options(graph, graphs=True))
        except Exception:
            log.exception(NOT_CAPTURED)
            self._graphs = MOST_GRAPHS
            return 0
        return graph

    def close(self) -> None:
        """Give back what it holds. Nothing runs on it any more."""
        self._launcher.shutdown()
        with CAPTURE_LOCK.shared():
            self._slots.clear()
            self._session = None


def _opened(path: Path, folder: Path, device: Device, *, capture: bool) -> tuple[Any, bool]:
    """Open the session; True if it can capture CUDA graphs, which onnxruntime refuses where a node stays on the CPU."""
    model = onnx_files.load_structure(path)
    planes, inputs = spatial_axes(model), _declared(model.graph.input)
    if capture and device.provider == "cuda":
        with contextlib.suppress(Exception):
            return _open(path, device, providers(device, folder, inputs, graphs=True, planes=planes)), True
        log.info("%s runs without CUDA graphs: onnxruntime does not capture it", path.name)
    return _open(path, device, providers(device, folder, inputs, graphs=False, planes=planes)), False


def _open(path: Path, device: Device, chosen: list[tuple[str, dict[str, Any]]]) -> Any:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=chosen, enable_fallback=0)
        found = session.get_providers()[0]
        reason = "" if found == _NAMES[device.provider] else f"onnxruntime fell back to {found}"
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if reason:
        raise StartError(
            f"the provider {device.provider} is not available here: {reason}",
            remedy="run `topwork doctor`, or serve with --provider cpu",
        )
    return session


def _axes(nodes: Sequence[Any]) -> dict[str, Axes]:
    return {node.name: tuple(axis if isinstance(axis, int) else str(axis) for axis in node.shape) for node in nodes}


def _declared(values: Sequence[Any]) -> dict[str, Axes]:
    """Axes by name, of a graph that is not open yet."""
    dims = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: tuple(dim.dim_param or dim.dim_value for dim in axes) for name, axes in dims.items()}


def _run_options(graph: int, *, graphs: bool) -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    if graphs:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
