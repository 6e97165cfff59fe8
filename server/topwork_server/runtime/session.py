"""A graph in memory, ready to run: the protocol of all sessions, and the one in fp32 on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from topwork_server.errors import PluginFault
from topwork_server.runtime.providers import PLAIN, Device
from topwork_server.types import Array

AUTHORS = "report it to the encoder's author: what `collate` gives must have the names, dtypes and shapes of the graph's inputs"


class RunnableSession(Protocol):
    """A graph that is open on any device. `run` raises MemoryError where a batch does not fit.

    `workers` threads may call `run` at once and gain from it: 1 on a CPU, which computes with all its cores for one; 2 or 3 on
    a GPU, where the copies of one batch hide behind the computing of another.
    """

    device: Device
    workers: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs for one batch of inputs."""

    def close(self) -> None:
        """Give back what it holds. Nothing runs on it any more."""


class Session:
    """A graph on the CPU in fp32. Its `run` may be called from one thread at a time. MemoryError where it does not fit."""

    workers: int = 1
    _provider: ClassVar[str] = "CPUExecutionProvider"

    def __init__(self, model: Path, threads: int | None = None, *, optimize: bool = True, device: Device = PLAIN) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        self.device = device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # The pool spins between the nodes of a run, which takes a quarter off one caller's latency on free cores; between runs it
        # would burn those that preprocessing needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = self._opened(model, options)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        self.inputs = tuple(node.name for node in self._session.get_inputs())
        self.outputs = tuple(node.name for node in self._session.get_outputs())

    @property
    def input_types(self) -> dict[str, str]:
        """ONNX's types of the inputs, by name: "tensor(float)", "tensor(int64)"."""
        return {node.name: node.type for node in self._session.get_inputs()}

    def _opened(self, model: Path, options: Any) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(str(model), options, providers=[self._provider])

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs for one batch of inputs. MemoryError where it does not fit. On a CPU the others cost as much, fetched
        or not: see `artifacts.graph_for`."""
        try:
            results: list[Array] = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            if type(error).__name__ == "InvalidArgument":
                raise PluginFault(f"the graph does not take what it was given: {error}", remedy=AUTHORS) from error
            raise
        return results

    def close(self) -> None:
        """Give back what it holds. Nothing runs on it any more."""
        self._session = None


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a runtime's error means, in the words of any of its providers, that memory was short."""
    text = str(error).lower()
    return any(mark in text for mark in ("failed to allocate memory", "out of memory", "bad_alloc", "available memory of"))
