"""The contract that every encoder keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import EncoderContract

    class TestMine(EncoderContract):
        encoder = "mine"

It fetches and exports the encoder if need be ($TOPWORK_HOME, or override the `home` fixture) and runs it as the server does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytest

from topwork_server import parity
from topwork_server.artifacts import Manifest
from topwork_server.catalogue import Catalogue, State
from topwork_server.config import Config, default_home
from topwork_server.engine import Ask, Engine
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.plugins import Plugins
from topwork_server.types import Features, Item, Modality, Picture, TapRows, Text

T = TypeVar("T")

#: How far a row may move with its batch-mates: sums of another order, no more.
INVARIANCE = 0.99999
WRONG: dict[Modality, Item] = {
    Modality.TEXT: Picture(b"not a text"),
    Modality.IMAGE: Text("not a picture"),
    Modality.VIDEO: Text("not a video"),
    Modality.TENSOR: Text("not an array"),
}


@dataclass
class Bench:
    """An engine with one encoder in it, and an event loop to run it on."""

    name: str
    engine: Engine
    manifest: Manifest
    modality: Modality
    items: Sequence[Item]
    runner: asyncio.Runner

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def embed(self, items: Sequence[Item], *taps: str, **options: Any) -> Features:
        return self.run(self.engine.embed(Ask(self.name, taps, options), items))


class EncoderContract:
    """Set `encoder` to a name that is registered; override `home`, `plugins` or `items` where the defaults do not fit."""

    encoder: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls) -> Path:
        return default_home()

    @pytest.fixture(scope="class")
    @classmethod
    def plugins(cls) -> Plugins:
        return Plugins.load()

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, home: Path, plugins: Plugins) -> Iterator[Bench]:
        catalogue = Catalogue(plugins, home)
        if catalogue.entry(cls.encoder).state is not State.READY:
            catalogue.pull(cls.encoder)
            catalogue.export(cls.encoder)
        entry = catalogue.entry(cls.encoder)
        if entry.manifest is None:
            module = sys.modules[entry.spec.encoder.__module__].__file__
            pytest.fail(
                f"{cls.encoder} was exported into {home} and is {entry.state} there: its source or its files changed meanwhile,"
                f" or the export imports another copy of its module than this test, which has {module}"
            )
        items = cls.items(catalogue)
        with asyncio.Runner() as runner:
            engine = Engine(catalogue, Config(home=home, provider="cpu"))
            yield Bench(cls.encoder, engine, entry.manifest, entry.spec.modality, items, runner)
            runner.run(engine.close())

    @classmethod
    def items(cls, catalogue: Catalogue) -> Sequence[Item]:
        """What is embedded: a few real inputs that differ in size."""
        spec = catalogue.spec(cls.encoder)
        return list(spec.encoder.examples(spec))[:6]

    def test_shapes_and_spans(self, bench: Bench) -> None:
        for info in bench.manifest.taps:
            found = bench.embed(bench.items, info.tap.name).taps[0]
            assert found.rows.dtype == np.float32
            assert found.rows.shape == (int(found.counts.sum()), info.tap.dim), info.tap.name
            assert len(found.counts) == len(bench.items)
            assert np.isfinite(found.rows).all(), info.tap.name
            assert (found.counts > 0).all(), info.tap.name
            _check_spans(found)

    def test_fingerprints_differ_by_tap(self, bench: Bench) -> None:
        fingerprints = [info.fingerprint for info in bench.manifest.taps]
        assert all(len(f) == 64 and int(f, 16) >= 0 for f in fingerprints)
        assert len(set(fingerprints)) == len(fingerprints)

    def test_parity_was_measured(self, bench: Bench) -> None:
        assert bench.manifest.numerics.parity >= parity.FP32_FLOOR
        assert set(bench.manifest.parity) == {info.tap.name for info in bench.manifest.taps}
        assert len(set(bench.manifest.batches)) >= 2, "parity is measured at several shapes"

    def test_a_row_does_not_depend_on_its_batch_mates(self, bench: Bench) -> None:
        bench.embed(bench.items[:1])
        loaded = bench.engine.garage.get(bench.name)
        assert loaded is not None
        taps = [info.tap for info in bench.manifest.taps]
        session = loaded.batcher.lanes[loaded.lane_of(taps)].open()[0]
        _, cosine = parity.invariance(loaded.encoder, taps, bench.items, session.run)
        assert cosine >= INVARIANCE

    def test_items_of_one_request_get_the_rows_that_they_get_alone(self, bench: Bench) -> None:
        names = [info.tap.name for info in bench.manifest.taps]
        together = bench.embed(bench.items, *names)
        for position, item in enumerate(bench.items):
            alone = bench.embed([item], *names)
            for one, many in zip(alone.taps, together.taps, strict=True):
                _, cosine = parity.difference(one.rows, _rows_of_item(many, position))
                assert cosine >= INVARIANCE, (one.tap.tap.name, position)

    def test_a_tap_does_not_depend_on_the_taps_beside_it(self, bench: Bench) -> None:
        names = [info.tap.name for info in bench.manifest.taps]
        together = bench.embed(bench.items[:1], *names)
        for name, many in zip(names, together.taps, strict=True):
            np.testing.assert_allclose(bench.embed(bench.items[:1], name).taps[0].rows, many.rows, rtol=1e-4, atol=1e-5)

    def test_the_same_input_gives_the_same_rows(self, bench: Bench) -> None:
        first, second = bench.embed(bench.items[:1]), bench.embed(bench.items[:1])
        np.testing.assert_array_equal(first.taps[0].rows, second.taps[0].rows)

    def test_concurrent_callers_get_their_own_rows(self, bench: Bench) -> None:
        async def crowd() -> list[Features]:
            asks = [bench.engine.embed(Ask(bench.name), [item]) for item in bench.items for _ in range(3)]
            return await asyncio.gather(*asks)

        alone = [bench.embed([item]).taps[0].rows for item in bench.items for _ in range(3)]
        for expected, found in zip(alone, bench.run(crowd()), strict=True):
            assert parity.difference(expected, found.taps[0].rows)[1] >= INVARIANCE

    def test_a_caller_that_leaves_harms_nobody(self, bench: Bench) -> None:
        async def leave_one() -> Features:
            leaver = asyncio.ensure_future(bench.engine.embed(Ask(bench.name), bench.items))
            stayer = asyncio.ensure_future(bench.engine.embed(Ask(bench.name), bench.items[:1]))
            await asyncio.sleep(0)
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            return await stayer

        expected = bench.embed(bench.items[:1]).taps[0].rows
        assert parity.difference(expected, bench.run(leave_one()).taps[0].rows)[1] >= INVARIANCE

    def test_a_wrong_item_is_named_by_its_position(self, bench: Bench) -> None:
        wrong = WRONG[bench.modality]
        with pytest.raises(InvalidInput) as caught:
            bench.embed([bench.items[0], wrong])
        assert caught.value.item == 1
        assert caught.value.remedy

    def test_a_bad_item_may_be_skipped(self, bench: Bench) -> None:
        wrong = WRONG[bench.modality]
        ask = Ask(bench.name, skip_bad_items=True)
        found = bench.run(bench.engine.embed(ask, [wrong, bench.items[0]]))
        assert set(found.failures) == {0}
        assert found.taps[0].counts[0] == 0
        np.testing.assert_array_equal(found.taps[0].rows, bench.embed(bench.items[:1]).taps[0].rows)

    def test_unknown_taps_and_options_are_refused_by_name(self, bench: Bench) -> None:
        with pytest.raises(NotFound, match="no-such-tap"):
            bench.embed(bench.items[:1], "no-such-tap")
        with pytest.raises(InvalidInput, match="no_such_option"):
            bench.embed(bench.items[:1], no_such_option=1)


def _rows_of_item(found: TapRows, position: int) -> Any:
    start = int(found.counts[:position].sum())
    return found.rows[start : start + int(found.counts[position])]


def _check_spans(found: TapRows) -> None:
    granularity = found.tap.tap.granularity
    if granularity == "item":
        assert found.spans is None
        return
    assert found.spans is not None, f"{granularity} rows have spans"
    values = found.spans.values
    assert values.shape == (len(found.rows), 4 if granularity == "cell" else 2)
    half = values.shape[1] // 2
    assert (values[:, half:] >= values[:, :half]).all(), "a span ends after it starts"
