"""An engine of dictionaries and events behind the real services: what the wire does, without what a network computes.

Run as a program it serves, for tests that need a process: `python fake_engine.py HOME [drain seconds]`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from topwork.v1 import encoders_pb2_grpc
from topwork_server import (
    AudioItem,
    Encoder,
    EncoderSpec,
    Granularity,
    ImageItem,
    InvalidInput,
    Modality,
    Tap,
    TextItem,
    Token,
    TopworkError,
    VideoItem,
)
from topwork_server.app import App, ReadyMessage, run
from topwork_server.config import Config
from topwork_server.errors import NotFound
from topwork_server.features import EmbedResult, Spans, TapRows
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.engine import EmbedParams
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.plugin_api.encoder import Trunk
from topwork_server.plugin_api.options import parse
from topwork_server.runtime.device_selection import PlanSet
from topwork_server.shutdown_watchdog import ShutdownWatchdog
from topwork_server.types import FingerprintedTap, Item, Numerics, Sample, Timings

DIM = 8
NUMERICS = Numerics("cpu", "fp32", 0.99999, 1e-6)
TAPS = {
    "pooled": FingerprintedTap(Tap("pooled", DIM, Granularity.ITEM, description="one row an item"), "a" * 64),
    "tokens": FingerprintedTap(Tap("tokens", DIM, Granularity.TOKEN), "b" * 64),
    "cells": FingerprintedTap(Tap("cells", DIM, Granularity.CELL, grid=(2, 1)), "c" * 64),
}
#: The default tap of the encoder `ranker`.
SCORE = FingerprintedTap(Tap("score", 1, Granularity.ITEM), "d" * 64)


@dataclass(frozen=True)
class FakeOptions:
    scale: int = field(default=1, metadata={"help": "multiplies the rows"})
    unknown: Literal["skip", "zero"] = "skip"
    truncate: bool = False
    prompt_name: str = ""


class FakeEncoder(Encoder):
    options = FakeOptions

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        raise NotImplementedError

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        raise NotImplementedError

    @property
    def max_tokens(self) -> int:
        return 16

    def tokenize(self, text: str, options: FakeOptions) -> list[Token]:
        """One token a character."""
        text = options.prompt_name + text
        return [Token(1, "[BEGIN]"), *(Token(ord(letter), letter, (i, i + 1)) for i, letter in enumerate(text))]

    def detokenize(self, ids: Sequence[int], *, special: bool) -> str:
        return "".join("[BEGIN]" * special if id == 1 else chr(id) for id in ids)


class Vocabulary(FakeEncoder):
    """It has no tokenizer."""

    tokenize = Encoder.tokenize  # type: ignore[assignment]

    def nearest(self, vector: Any, count: int) -> list[tuple[str, float]]:
        raise NotImplementedError


def spec(name: str, encoder: type[Encoder] = FakeEncoder) -> EncoderSpec:
    return EncoderSpec(
        name,
        encoder,
        source="package:fake==1",
        modality=Modality.TEXT,
        taps=tuple(info.tap for info in TAPS.values()),
        parameters=42,
        trained_on="nothing",
        license="Apache-2.0",
        description="a fake",
    )


class FakeCatalog:
    """`ready` is exported, `words` too and has a vocabulary, `absent` has no weights."""

    def __init__(self) -> None:
        manifest = Manifest(
            encoder="ready",
            taps=tuple(TAPS.values()),
            parameters=4242,
            numerics=NUMERICS,
            reference="torch",
            parity={},
            batches=(),
            files={},
            made_with={},
            stamp="",
            bytes=1 << 20,
        )
        folder = Path("nowhere")
        self.entries = {
            "ready": CatalogEntry(spec("ready"), "fake 1.0", EncoderState.READY, "", manifest, folder),
            "words": CatalogEntry(spec("words", Vocabulary), "fake 1.0", EncoderState.READY, "", manifest, folder),
            "absent": CatalogEntry(spec("absent"), "fake 1.0", EncoderState.ABSENT, "run `topwork pull absent`"),
        }
        self.broken: list[str] = []
        #: What the specs of encoders have before their export tells more.
        self.before_export: dict[str, Mapping[str, Any]] = {}

    def add_ranker(self) -> None:
        """Add `ranker`, a cross-encoder, whose one tap is its score."""
        ready = self.entries["ready"]
        assert ready.manifest
        spec = replace(ready.spec, name="ranker", taps=(SCORE.tap,), default_tap="score")
        self.entries["ranker"] = replace(ready, spec=spec, manifest=replace(ready.manifest, taps=(SCORE,)))
        self.before_export["ranker"] = {"default_tap": ready.spec.default_tap}

    def names(self) -> list[str]:
        return [*self.entries, *self.broken]

    def fine_tuned(self) -> list[str]:
        return []

    def damaged(self) -> dict[str, TopworkError]:
        return {}

    def spec(self, name: str) -> EncoderSpec:
        return replace(self.entry(name).spec, **self.before_export.get(name, {}))

    def entry(self, name: str) -> CatalogEntry:
        if name not in self.entries:
            raise NotFound(f"there is no encoder {name!r}", remedy="did you mean ready?")
        return self.entries[name]


class FakeEngine:
    """A text's row is (its length, its place in the engine's order of starts, 0 ...); of the encoder `ranker`, which reads pairs,
    how much longer the second text is than the first. Some texts act:

    "bad" is refused, "crash" is a bug, "wait" waits for `gate`. `started` wakes whoever waits for work to arrive.
    """

    def __init__(self, catalog: Any, config: Config, on_health: Callable[[str, bool], None], telemetry: Any = None) -> None:
        self._catalog, self.on_health = catalog, on_health
        self.loaded: dict[str, Any] = {}
        self.chosen: PlanSet | None = None
        self.provider_names, self.loaded_encoder = "cpu", self.loaded.get
        self.statistics: dict[str, EmbedStatistics] = {}
        self.gate = asyncio.Event()
        self.on_wait: Callable[[], None] = lambda: None
        self.asked: list[tuple[EmbedParams, Sequence[Item]]] = []
        self.seen: dict[Path, bytes] = {}
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.closed = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def acquire(self, name: str) -> AsyncIterator[Any]:
        entry = self._catalog.entry(name)
        counters = Counter(samples=3, batches=2)
        loaded = SimpleNamespace(spec=entry.spec, taps=entry.taps, serving=True, counters=counters)
        yield self.loaded.setdefault(name, loaded)

    def unload(self, name: str) -> bool:
        return self.running == 0 and self.loaded.pop(name, None) is not None

    async def embed(self, ask: EmbedParams, items: Sequence[Item]) -> EmbedResult:
        self.asked.append((ask, items))
        await self._count(+1)
        try:
            if any(isinstance(item, TextItem) and item.text == "wait" for item in items):
                self.on_wait()
                await self.gate.wait()
            return self._features(ask, items)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            await asyncio.shield(self._count(-1))

    async def ask_encoder(self, ask: EmbedParams, places: int, work: Callable[[Encoder, Any], Any]) -> Any:
        asked = spec(ask.encoder, Vocabulary if ask.encoder == "words" else FakeEncoder)
        return work(asked.encoder(asked, Path("nowhere")), parse(FakeOptions, ask.options))

    async def nearest(self, ask: EmbedParams, items: Sequence[Item], count: int) -> list[list[tuple[str, float]]]:
        self.asked.append((ask, items))
        return [[(f"{item.text}{i}", 1 - i / 100) for i in range(count)] for item in items if isinstance(item, TextItem)]

    @property
    def loaded_encoders(self) -> list[Any]:
        return list(self.loaded.values())

    async def close(self) -> None:
        self.closed = True

    async def until(self, condition: Callable[[FakeEngine], bool]) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: condition(self)), 20)

    async def _count(self, step: int) -> None:
        async with self._changed:
            self.running += step
            self.most_running = max(self.most_running, self.running)
            self._changed.notify_all()

    def encoder_status(self, name: str) -> tuple[str, str] | None:
        return ("loaded", "") if name in self.loaded else None

    def plans_of(self, entry: CatalogEntry) -> PlanSet | None:
        return self.chosen

    def is_busy(self) -> bool:
        return False

    def _features(self, ask: EmbedParams, items: Sequence[Item]) -> EmbedResult:
        failures: dict[int, TopworkError] = {}
        for i, item in enumerate(items):
            if isinstance(item, TextItem) and item.text == "crash":
                raise RuntimeError("a secret of the implementation")
            if isinstance(item, TextItem) and "bad" in (item.text, item.pair):
                failures[i] = InvalidInput("the text is bad", remedy="send a good one").at(i)
        if failures and not ask.skip_bad_items:
            raise failures[min(failures)]
        for name in ask.taps:
            if name not in TAPS:
                raise NotFound(f"there is no tap {name!r}", remedy="did you mean pooled?")
        good = [(i, item) for i, item in enumerate(items) if i not in failures]
        return EmbedResult(
            taps=(_scores(good, len(items)),)
            if ask.encoder == "ranker"
            else tuple(self._rows(TAPS[name], good, len(items)) for name in ask.taps or ("pooled",)),
            notes={i: {"unknown_words": 2} for i, item in good if isinstance(item, TextItem) and item.text == "note"},
            failures=failures,
            numerics=NUMERICS,
            timings=Timings(0.25, 0.5, 0.125),
        )

    def _rows(self, info: FingerprintedTap, good: list[tuple[int, Item]], total: int) -> TapRows:
        counts = np.zeros(total, np.int64)
        for i, item in good:
            counts[i] = {"pooled": 1, "tokens": self._size(item), "cells": 2}[info.tap.name]
        rows = np.zeros((counts.sum(), DIM), np.float32)
        rows[:, 0] = np.repeat([self._size(item) for _, item in good], [counts[i] for i, _ in good])
        rows[:, 1] = len(self.asked)
        n = np.arange(len(rows))
        paired = np.repeat(
            [isinstance(item, TextItem) and item.pair is not None for _, item in good], [counts[i] for i, _ in good]
        )
        spans = {
            "pooled": None,
            "tokens": Spans("chars", np.stack([n, n + 1], 1), paired.astype(np.int32)),
            "cells": Spans("box", np.stack([n, n, n + 1, n + 1], 1)),
        }[info.tap.name]
        return TapRows(info, rows, counts, spans)

    def _size(self, item: Item) -> int:
        match item:
            case TextItem():
                return len(item.text)
            case ImageItem() | VideoItem(bytes()) | AudioItem(bytes()):
                return len(item.data)
            case VideoItem(Path() as path) | AudioItem(Path() as path):
                self.seen[path] = path.read_bytes()
                return path.stat().st_size
        return int(np.sum(item))


def _scores(good: list[tuple[int, Item]], total: int) -> TapRows:
    counts = np.zeros(total, np.int64)
    counts[[i for i, _ in good]] = 1
    differences = [len(item.pair or "") - len(item.text) for _, item in good if isinstance(item, TextItem)]
    return TapRows(SCORE, np.float32(differences).reshape(-1, 1), counts, None)


@dataclass
class ServedApp:
    """One served fake."""

    app: App
    engine: FakeEngine
    catalog: FakeCatalog
    config: Config
    ready: ReadyMessage
    channel: grpc.aio.Channel
    encoders: encoders_pb2_grpc.EncodersStub


LARGE_MESSAGES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def served(home: Path, address: str = "127.0.0.1:0", **settings: Any) -> AsyncIterator[ServedApp]:
    """The real app on a free port, with a fake engine; at the end it is cut off, so that no test waits for a drain."""
    config = Config(home=home, listen=address, **settings)
    catalog = FakeCatalog()
    app = App(catalog, config, FakeEngine)  # type: ignore[arg-type]
    ready = await app.start()
    try:
        async with grpc.aio.insecure_channel(ready.address, LARGE_MESSAGES) as channel:
            stub = encoders_pb2_grpc.EncodersStub(channel)  # type: ignore[no-untyped-call]
            yield ServedApp(app, app.engine, catalog, config, ready, channel, stub)  # type: ignore[arg-type]
    finally:
        await app.requests.cut()
        await app.stop()


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, error_details_pb2.ErrorInfo]:
    """The error of a call: its code, its message, and the ErrorInfo of its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "topwork"
    return caught.value.code(), caught.value.details() or "", info


class HangingEngine(FakeEngine):
    """Its end never comes."""

    async def close(self) -> None:
        await asyncio.Event().wait()


class ShortWatch(ShutdownWatchdog):
    """Waits for what hangs no longer than a moment, and for all else as long as the slowest machine takes."""

    def within(self, seconds: float, doing: str, status: int = 1) -> None:
        super().within(0.1 if doing == self.hangs else seconds, doing, status)

    hangs = ""


async def _main(home: Path, drain_seconds: float, hangs: str) -> int:
    config = Config(home=home, listen="127.0.0.1:0", drain_seconds=drain_seconds, end_seconds=600)
    app = App(FakeCatalog(), config, HangingEngine if hangs == "engine" else FakeEngine)  # type: ignore[arg-type]
    if hangs == "thread":
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    else:
        app.engine.on_wait = lambda: print("an item waits", flush=True)  # type: ignore[attr-defined]
        asyncio.get_running_loop().create_task(_open_on_stdin(app.engine.gate))  # type: ignore[attr-defined]
    watch = ShortWatch()
    watch.hangs = {"engine": "the end of the server", "thread": "the end of the interpreter"}.get(hangs, "")
    return await run(app, lambda ready: print(ready.address, flush=True), watch)


async def _open_on_stdin(gate: asyncio.Event) -> None:
    """A line on stdin opens the gate."""
    await asyncio.to_thread(sys.stdin.readline)
    gate.set()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])))
