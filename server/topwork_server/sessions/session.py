"""The only importer of onnxruntime: a graph becomes something that runs, on the provider that was asked for or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork_server.errors import StartError
from topwork_server.types import Array

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt")
_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def choose_provider(asked: str) -> str:
    """What `auto` means on this machine; what else was asked for is taken at its word and checked when a graph is opened."""
    if asked not in PROVIDERS:
        raise StartError(f"there is no provider {asked!r}", remedy=f"choose one of {', '.join(PROVIDERS)}")
    if asked != "auto":
        return asked
    return "cuda" if _has_nvidia_gpu() else "cpu"


def _has_nvidia_gpu() -> bool:
    """onnxruntime lists CUDA wherever its build has it, with a GPU or without: the driver's device file tells."""
    return Path("/dev/nvidiactl").exists() and any(Path("/dev").glob("nvidia[0-9]*"))


class Session:
    """One graph in memory. `run` may be called from one thread at a time.

    Raises StartError where the provider asked for did not take the graph; MemoryError from `run` where a batch does not fit.
    """

    def __init__(self, model: Path, provider: str = "cpu", threads: int | None = None, *, optimise: bool = True) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # A spinning pool would burn the cores that preprocessing needs between batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.provider, self.precision = provider, "fp32"
        if provider != "cpu":
            onnxruntime.preload_dlls()
        self._session = onnxruntime.InferenceSession(str(model), options, providers=_provider_list(provider))
        if self._session.get_providers()[0] != _NAMES[provider]:
            raise StartError(
                f"the provider {provider} is not available here: onnxruntime fell back to {self._session.get_providers()[0]}",
                remedy="run `topwork doctor`, or serve with --provider cpu",
            )
        self.inputs = tuple(node.name for node in self._session.get_inputs())
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        self._run_options = onnxruntime.RunOptions()
        # Taps that nobody asked for cost nothing: only the way to those asked for is computed.
        self._run_options.add_run_config_entry("only_execute_path_to_fetches", "1")

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs for one batch of inputs."""
        try:
            results: list[Array] = self._session.run(list(outputs), dict(feeds), self._run_options)
        except Exception as error:
            if _is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        return results


def _provider_list(provider: str) -> list[Any]:
    if provider == "cpu":
        return [_NAMES["cpu"]]
    # Nodes without a CUDA kernel (shape arithmetic) run on the CPU by design; the first entry is checked after opening.
    extra = [_NAMES["cuda"]] if provider == "tensorrt" else []
    return [_NAMES[provider], *extra, _NAMES["cpu"]]


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return any(mark in text for mark in ("failed to allocate memory", "out of memory", "bad_alloc", "available memory of"))
