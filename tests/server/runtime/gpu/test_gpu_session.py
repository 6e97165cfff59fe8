"""A GPU's session on the CPU provider: the same padding, buffers, bindings, threads and fallbacks; only the card is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_berts
from onnx import TensorProto, helper, numpy_helper
from topwork_server import TextItem
from topwork_server.errors import StartError
from topwork_server.runtime.gpu import gpu_session as gpu
from topwork_server.runtime.gpu.gpu_session import CAPTURE_AFTER, GpuSession
from topwork_server.runtime.gpu.io_binding import BufferSlotPool
from topwork_server.runtime.parity import difference
from topwork_server.runtime.providers import Device
from topwork_server.runtime.session import Session
from topwork_server.types import Array

WORDS, DIM = 12, 5
TABLE = numpy_helper.from_array(np.random.default_rng(0).standard_normal((WORDS, DIM)).astype(np.float32), "table")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Masked mean of word vectors, and the vectors: ids, mask (batch, tokens) to mean (batch, 5), tokens (batch, tokens, 5)."""
    axes = numpy_helper.from_array(np.array([1]), "axis")
    last = numpy_helper.from_array(np.array([2]), "last")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["tokens"]),
        helper.make_node("Cast", ["mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["tokens", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axis"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
    ]
    ins = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("ids", "mask")]
    outs = [("mean", ["batch", DIM]), ("tokens", ["batch", "rows", DIM])]
    graph = helper.make_graph(
        nodes,
        "means",
        ins,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in outs],
        [TABLE, axes, last],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


@pytest.fixture
def opened(model: Path) -> Iterator[Callable[..., GpuSession]]:
    sessions = []

    def open_one(**changes: Any) -> GpuSession:
        sessions.append(GpuSession(model, Device("cpu"), **changes))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, tokens + 1, rows)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {"ids": rng.integers(0, WORDS, (rows, tokens)) * mask, "mask": mask}


def test_rows_are_those_of_the_plain_session_with_any_padding(model: Path, opened: Callable[..., GpuSession]) -> None:
    plain, session = Session(model), opened()
    for rows, tokens in [(1, 1), (1, 7), (5, 8), (7, 33), (33, 21), (600, 3)]:
        feeds = batch(rows, tokens)
        for outputs in (["mean"], ["tokens", "mean"]):
            wanted, found = plain.run(outputs, feeds), session.run(outputs, feeds)
            for a, b in zip(wanted, found, strict=True):
                assert a.shape == b.shape
                assert np.allclose(a, b, atol=1e-6)


def test_an_answer_is_not_overwritten_by_the_next_batch(opened: Callable[..., GpuSession]) -> None:
    session = opened()
    (first,) = session.run(["mean"], batch(4, 8, seed=1))
    kept = first.copy()
    session.run(["mean"], batch(4, 8, seed=2))
    assert (first == kept).all()


def test_shapes_of_one_bucket_share_buffers(opened: Callable[..., GpuSession]) -> None:
    session = opened()
    for tokens in (17, 20, 24):
        session.run(["mean"], batch(7, tokens))
    assert len(session._slots) == 1
    session.run(["mean"], batch(7, 25))
    assert len(session._slots) == 2


def test_many_threads_get_their_own_rows(model: Path, opened: Callable[..., GpuSession]) -> None:
    plain, session = Session(model, 1), opened()
    wanted = {seed: plain.run(["mean"], batch(1 + seed % 9, 1 + seed % 30, seed))[0] for seed in range(200)}
    with ThreadPoolExecutor(session.workers) as pool:
        found = pool.map(lambda seed: session.run(["mean"], batch(1 + seed % 9, 1 + seed % 30, seed))[0], wanted)
        assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(wanted.values(), found, strict=True))


def test_the_next_batch_comes_in_while_one_is_computed(
    opened: Callable[..., GpuSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened()
    computing, filled = threading.Event(), threading.Event()
    compute, fill = gpu.BufferSlot.compute, gpu.BufferSlot.fill

    def slow_compute(slot: Any, *rest: Any) -> None:
        computing.set()
        assert filled.wait(10), "no batch came in during the run of another"
        compute(slot, *rest)

    def watched_fill(slot: Any, feeds: Any) -> None:
        fill(slot, feeds)
        if computing.is_set():
            filled.set()

    monkeypatch.setattr(gpu.BufferSlot, "compute", slow_compute)
    monkeypatch.setattr(gpu.BufferSlot, "fill", watched_fill)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.run, ["mean"], batch(2, 3))
        assert computing.wait(10)
        second = pool.submit(session.run, ["mean"], batch(2, 3))
        assert first.result(10)[0].shape == second.result(10)[0].shape == (2, DIM)


def test_a_shape_that_comes_again_is_captured_once(opened: Callable[..., GpuSession], monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU provider has no CUDA graphs and does not mind their number: what is tested is which gets which."""
    session, numbers = opened(), list[int]()
    session.captures = True
    options = gpu._run_options
    monkeypatch.setattr(gpu, "_run_options", lambda graph, graphs: (numbers.append(graph), options(graph, graphs=graphs))[1])
    for _ in range(CAPTURE_AFTER + 3):
        session.run(["mean"], batch(2, 8))
    assert numbers == [gpu.NO_GRAPH] * CAPTURE_AFTER + [1] * gpu.WARM_RUNS + [1] * 3
    for _ in range(CAPTURE_AFTER + 1):
        session.run(["mean"], batch(3, 8))
    assert numbers[-1] == 2


def test_a_capture_that_fails_leaves_a_session_that_works(
    opened: Callable[..., GpuSession], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = opened()
    session.captures = True
    compute = gpu.BufferSlot.compute

    def fail_on_graphs(slot: Any, opened_session: Any, options: Any) -> None:
        if options.get_run_config_entry("gpu_graph_id") != "-1":
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        compute(slot, opened_session, options)

    monkeypatch.setattr(gpu.BufferSlot, "compute", fail_on_graphs)
    for _ in range(CAPTURE_AFTER + 3):
        assert session.run(["mean"], batch(2, 8))[0].shape == (2, DIM)
    assert [record.message for record in caplog.records].count(gpu.NOT_CAPTURED) == 1


def test_memory_that_runs_out_gives_buffers_back_and_says_so(opened: Callable[..., GpuSession]) -> None:
    session = opened()
    session.run(["mean"], batch(2, 3))

    def short(key: Any) -> Any:
        raise RuntimeError("cudaHostAlloc: CUDA error 2: out of memory")

    session._slots._make = short
    with pytest.raises(MemoryError):
        session.run(["mean"], batch(2, 30))
    assert len(session._slots) == 0


def test_buffers_of_shapes_that_went_out_of_use_leave() -> None:
    class Held:
        graph, closed, bytes = 0, False, 100

        def __init__(self, key: Any) -> None:
            self.key = key

        def close(self) -> None:
            self.closed = True

    slots = BufferSlotPool(Held, most=250)  # type: ignore[arg-type]
    held = [slots.acquire(key) for key in "abc"]  # type: ignore[arg-type]
    held[0].graph = 7
    for one in held:
        slots.release(one)
    slots.release(slots.acquire("d"))  # type: ignore[arg-type]
    assert [one.closed for one in held] == [False, True, False]  # the oldest has a graph, the next is one too many
    assert slots.acquire("a") is held[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_said_to_be_missing(model: Path, provider: str) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is one")
    with pytest.raises((StartError, RuntimeError)):
        GpuSession(model, Device(provider))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "mpnet", "longformer", "gpt2", "qwen3", "gemma3_text"])
def test_texts_of_a_family_keep_their_rows_in_fp32_and_their_parity_in_fp16(family: str, tmp_path: Path) -> None:
    tiny = tiny_berts.export(tiny_berts.write(tmp_path / "weights", family), tmp_path / "artifact")
    whole = GpuSession(tmp_path / "artifact/model.onnx", Device("cpu"))
    half = GpuSession(tmp_path / "artifact/model.onnx", Device("cpu", "fp16"))
    texts = tiny_berts.corpus()
    for items in ([TextItem(text) for text in texts[:6]], [TextItem(" ".join(texts))]):
        feeds = tiny.encoder.collate(tiny.samples(items, truncate=True))
        real = feeds["attention_mask"].astype(bool)
        wanted = tiny.session.run(tiny.session.outputs, feeds)
        for session, floor in ((whole, 0.999999), (half, 0.999)):
            for a, b in zip(wanted, session.run(tiny.session.outputs, feeds), strict=True):
                assert a.shape == b.shape
                assert difference(a[real] if a.ndim == 3 else a, b[real] if b.ndim == 3 else b)[1] >= floor
    whole.close()
    half.close()


def test_a_bucket_past_the_table_of_positions_is_not_used(tmp_path: Path) -> None:
    tiny = tiny_berts.export(tiny_berts.write(tmp_path / "weights", max_position_embeddings=90), tmp_path / "artifact")
    session = GpuSession(tmp_path / "artifact/model.onnx", Device("cpu"))
    feeds = tiny.encoder.collate(tiny.samples([TextItem(" ".join(tiny_berts.corpus()))], truncate=True))
    assert feeds["input_ids"].shape == (1, 90)  # its bucket would be 96
    for _ in range(2):
        (found,) = session.run(["pooled"], feeds)
        assert difference(tiny.session.run(["pooled"], feeds)[0], found)[1] >= 0.999999
    assert session.buckets.longest == 95
    session.close()
