"""An encoder on the bench of its contract: prepared and run as the server does it, and what is checked of its samples."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from topwork_server.access.passes import EncoderPass, server_pass
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult, TapRows, rows_of
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models import artifacts
from topwork_server.models.artifacts import Manifest
from topwork_server.plugin_api.encoder import Encoder, batch_key
from topwork_server.runtime import parity
from topwork_server.runtime.session import Session
from topwork_server.types import Array, Granularity, Item, Sample, Tap, TokenSpans, item_kind

T = TypeVar("T")

#: How far a row may move with its batch-mates: sums of another order, no more.
INVARIANCE = 0.99999
#: Of one item (a long video has many), and of one batch.
MOST_SAMPLES, MOST_TOGETHER = 4, 8
#: Numpy's names of what ONNX calls the graph's inputs.
DTYPES = {"float": "float32", "double": "float64", "float16": "float16"}


@dataclass
class EncoderBench:
    """An engine with one encoder in it, an event loop to run it on, and the encoder and its graph by themselves."""

    name: str
    engine: Engine
    encoder: Encoder
    manifest: Manifest
    folder: Path
    wrong: Item
    items: Sequence[Item]
    runner: asyncio.Runner
    session: Session

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def embed(self, items: Sequence[Item], *taps: str, **options: Any) -> EmbedResult:
        return self.run(self.engine.embed(EmbedParams(server_pass(EncoderPass, self.name), taps, options), items))

    def prepare(self, item: Item) -> list[Sample]:
        """Return the first samples of an item."""
        return list(islice(iter(self.encoder.preprocess(item, self.encoder.example_options)), MOST_SAMPLES))

    def prepared(self, *, reverse: bool = False) -> list[list[Sample]]:
        """Return the first samples of all items, in the order of the items."""
        found = [self.prepare(item) for item in (reversed(self.items) if reverse else self.items)]
        return found[::-1] if reverse else found

    def run_graph(self, taps: Sequence[Tap], samples: Sequence[Sample]) -> list[Array]:
        return self.session.run([tap.name for tap in taps], self.encoder.collate(samples))

    def groups(self) -> list[list[tuple[int, Sample]]]:
        """Samples that may share a batch, with the positions of their items."""
        groups: dict[Any, list[tuple[int, Sample]]] = {}
        for position, samples in enumerate(self.prepared()):
            for sample in samples:
                groups.setdefault(batch_key(self.encoder, sample), []).append((position, sample))
        return [group[:MOST_TOGETHER] for group in groups.values()]


def check_invariance(bench: EncoderBench, taps: Sequence[Tap], group: Sequence[tuple[int, Sample]]) -> None:
    """Check that each sample's rows in the batch of all of them are those that it gets alone."""
    together = bench.run_graph(taps, [sample for _, sample in group])
    for i, (_, sample) in enumerate(group):
        for tap, one, many in zip(taps, bench.run_graph(taps, [sample]), together, strict=True):
            _, cosine = parity.difference(rows_of(tap, one[0], sample), rows_of(tap, many[i], sample))
            if cosine < INVARIANCE:
                pytest.fail(_moved(bench, tap, group, i, cosine))


def _moved(bench: EncoderBench, tap: Tap, group: Sequence[tuple[int, Sample]], i: int, cosine: float) -> str:
    """Names the row that moved, and the neighbor that moves it most."""
    position, sample = group[i]
    [alone] = bench.run_graph([tap], [sample])
    worst, whose = cosine, None
    for other, mate in [one for j, one in enumerate(group) if j != i]:
        [pair] = bench.run_graph([tap], [sample, mate])
        found = parity.difference(rows_of(tap, alone[0], sample), rows_of(tap, pair[0], sample))[1]
        if whose is None or found < worst:
            worst, whose = found, other
    beside = f"beside item {whose} alone it is {worst:.6f}" if whose is not None else "there is no other in the batch"
    likely = (
        "padding that the graph does not mask, or that `collate` puts at the wrong end"
        if bench.encoder.pads
        else "statistics over the batch (a batch norm outside evaluation mode, a mean over the wrong axis), or `collate` that"
        " changes the order of its samples"
    )
    return (
        f"the row of item {position} at {tap.name} has a cosine of {cosine:.6f} in a batch of {len(group)} to what it is alone"
        f" (at least {INVARIANCE} is asked for); {beside}. Likely: {likely}"
    )


def check_sample(bench: EncoderBench, position: int, sample: Any) -> None:
    """Inputs as the graph reads them, a cost, and spans, notes and windows of the promised shapes."""
    of = f"item {position}"
    assert isinstance(sample, Sample), f"{of} gave a {type(sample).__name__}, and preprocess gives Samples"
    for name, array in sample.inputs.items():
        assert isinstance(array, np.ndarray), f"{of}: input {name!r} is a {type(array).__name__}, and must be a numpy array"
    cost = bench.encoder.cost(sample)
    assert isinstance(cost, int | np.integer) and not isinstance(cost, bool) and cost > 0, (  # noqa: PT018
        f"{of}: cost is {cost!r}, and must be a whole number above 0"
    )
    _check_feeds(bench, of, bench.encoder.collate([sample]))
    for name, count in sample.notes.items():
        assert isinstance(count, int), f"{of}: the note {name!r} is {count!r}, and notes are counts"
    if sample.window is not None:
        start, end = sample.window
        assert np.isfinite([start, end]).all(), f"{of}: the window {sample.window} is not finite"
        assert start <= end, f"{of}: the window {sample.window} ends before it starts; it is in seconds"
    if sample.tokens is not None:
        _check_tokens(of, sample.tokens)
    _check_spans_are_there(bench, of, sample)


def _check_feeds(bench: EncoderBench, of: str, feeds: Any) -> None:
    assert isinstance(feeds, dict), f"collate gave a {type(feeds).__name__}, and must give a dict of arrays by input"
    kinds = bench.session.input_types
    assert set(feeds) == set(kinds), f"{of}: collate gave the inputs {sorted(feeds)}, and the graph reads {sorted(kinds)}"
    for name, array in feeds.items():
        wanted = kinds[name].removeprefix("tensor(").removesuffix(")")
        wanted = DTYPES.get(wanted, wanted)
        assert str(array.dtype) == wanted, f"{of}: input {name!r} is {array.dtype}, and the graph reads {wanted}"
        assert len(array) == 1, f"{of}: input {name!r} of one sample has a batch axis of {len(array)}; a Sample has none"


def _check_tokens(of: str, spans: TokenSpans) -> None:
    n = len(spans.positions)
    for name, array, dtype, shape in (
        ("positions", spans.positions, np.int64, (n,)),
        ("chars", spans.chars, np.int32, (n, 2)),
        ("parts", spans.parts, np.int32, (n,)),
    ):
        assert array.dtype == dtype, f"{of}: TokenSpans.{name} is {array.dtype}, and must be {np.dtype(dtype)}"
        assert array.shape == shape, f"{of}: TokenSpans.{name} is {array.shape}, and must be {shape}"
    assert (spans.positions >= 0).all(), f"{of}: a token stands at {spans.positions.min()}"


def _check_spans_are_there(bench: EncoderBench, of: str, sample: Sample) -> None:
    needs = {Granularity.TOKEN: "tokens", Granularity.WINDOW: "window", Granularity.CELL: "box"}
    for info in bench.manifest.taps:
        field = needs.get(info.tap.granularity)
        assert field is None or getattr(sample, field) is not None, (
            f"{of}: the tap {info.tap.name} has rows by {info.tap.granularity}, and its sample has no `{field}` that says where"
        )


def check_same(position: int, expected: Sequence[Sample], found: Sequence[Sample], how: str) -> None:
    """The same samples, to the last bit."""
    assert len(expected) == len(found), f"item {position} gives {len(found)} samples {how}; it gave {len(expected)}"
    for one, other in zip(expected, found, strict=True):
        for name, before in one.inputs.items():
            now = other.inputs.get(name)
            if now is None or not np.array_equal(before, now, equal_nan=before.dtype.kind == "f"):
                pytest.fail(f"item {position} gives another input {name!r} {how}: {_excerpt(now)}, and it was {_excerpt(before)}")


def _excerpt(array: Array | None) -> str:
    return "none" if array is None else f"{array.dtype} {list(array.shape)} {np.ravel(array)[:8].tolist()}"


def check_spans(found: TapRows) -> None:
    """Check that there is one span a row, of its granularity's width, that ends after it starts."""
    granularity, name = found.tap.tap.granularity, found.tap.tap.name
    if granularity == Granularity.ITEM:
        assert found.spans is None, f"{name} has a row an item, and spans"
        return
    assert found.spans is not None, f"{name} has rows by {granularity}, and no spans"
    values, wanted = found.spans.values, (len(found.rows), 4 if granularity == Granularity.CELL else 2)
    assert values.shape == wanted, f"spans of {name} are {values.shape}, and must be {wanted}"
    half = values.shape[1] // 2
    wrong = np.flatnonzero((values[:, half:] < values[:, :half]).any(axis=1))
    assert not len(wrong), f"the span of row {wrong[:1]} of {name} ends before it starts: {values[wrong[:1]].tolist()}"


def refusal(bench: EncoderBench, items: Sequence[Item]) -> TopworkError | None:
    """The error with which they are refused; None where they are taken."""
    try:
        bench.embed(items)
    except TopworkError as error:
        return error
    return None


def check_refusal(error: TopworkError | None, wrong: Item, position: int) -> None:
    given = item_kind(wrong)
    assert error is not None, f"{given} was taken: check the type of the item, and raise InvalidInput"
    assert type(error) is InvalidInput, f"{given} was met with {error}; raise InvalidInput, and say what to send"
    assert error.item == position, f"the error is of item {error.item}, and the wrong one is item {position}"
    assert error.remedy, f"{error.message!r} has no remedy: say what to send instead"


def export_fingerprints(name: str, home: Path) -> dict[str, str]:
    """Return by tap the fingerprints that an export has in another process. Skips where the encoder is not registered there."""
    command = [sys.executable, "-P", "-m", "topwork_server.runtime.export", "--home", str(home), "--fingerprints", name]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "random"})
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
    if answer.get("kind") == "NotFound":
        pytest.skip(f"{name} is registered by no entry point: another process does not know it")
    assert "fingerprints" in answer, f"the export fails in another process: {answer['error']}"
    found: dict[str, str] = answer["fingerprints"]
    return found


def plain_session(folder: Path) -> Session:
    return Session(folder / artifacts.MODEL)
