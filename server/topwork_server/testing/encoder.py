"""The contract that every encoder keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import EncoderContract

    class TestMine(EncoderContract):
        encoder = "mine"

It fetches and exports the encoder if need be ($TOPWORK_HOME, or override the `home` fixture) and runs it as the server does.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server.access.passes import EncoderPass, server_pass
from topwork_server.config import Config, default_home
from topwork_server.errors import InvalidInput, NotFound
from topwork_server.features import EmbedResult, TapRows
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime import parity, sample_inputs
from topwork_server.testing.bench import (
    INVARIANCE,
    MOST_SAMPLES,
    EncoderBench,
    check_invariance,
    check_refusal,
    check_same,
    check_sample,
    check_spans,
    export_fingerprints,
    plain_session,
    refusal,
)
from topwork_server.testing.declared import check_options
from topwork_server.types import EncoderSpec, ImageItem, Item, Modality, TextItem, VideoItem

WRONG: dict[Modality, Item] = {
    Modality.TEXT: ImageItem(b"not a text"),
    Modality.IMAGE: TextItem("not a picture"),
    Modality.VIDEO: TextItem("not a video"),
    Modality.AUDIO: TextItem("not a recording"),
    Modality.TENSOR: TextItem("not an array"),
}
#: What an encoder of several towers does not read.
READ_BY_NONE = VideoItem(b"no tower reads videos")

THREADS = "in several threads: preprocess keeps its work on the object (self)"


class EncoderContract:
    """Set `encoder` to a name that is registered; override `home`, `plugins` or `items` where the defaults do not fit. Of an
    encoder of several towers, `modality` says which is held to the contract; without it the first is."""

    encoder: ClassVar[str]
    modality: ClassVar[Modality | None] = None

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls) -> Path:
        return default_home()

    @pytest.fixture(scope="class")
    @classmethod
    def plugins(cls) -> PluginRegistry:
        return PluginRegistry.load()

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, home: Path, plugins: PluginRegistry) -> Iterator[EncoderBench]:
        catalog = Catalog(plugins, home)
        if catalog.entry(cls.encoder).state is not EncoderState.READY:
            catalog.pull(cls.encoder)
            catalog.export(cls.encoder)
        entry = catalog.entry(cls.encoder)
        if entry.manifest is None or entry.folder is None:
            module = sys.modules[entry.spec.encoder.__module__].__file__
            pytest.fail(
                f"{cls.encoder} was exported into {home} and is {entry.state} there: its source or its files changed meanwhile,"
                f" or the export imports another copy of its module than this test, which has {module}"
            )
        items = cls.items(catalog)
        with asyncio.Runner() as runner:
            engine = Engine(catalog, Config(home=home, provider="cpu"))
            spec, folder, manifest = cls._tower(entry)
            session = plain_session(folder)
            encoder = spec.encoder(spec, folder)
            wrong = READ_BY_NONE if entry.by_tower else WRONG[spec.modality]
            yield EncoderBench(cls.encoder, engine, encoder, manifest, folder, wrong, items, runner, session)
            runner.run(engine.close())

    @classmethod
    def _tower(cls, entry: CatalogEntry) -> tuple[EncoderSpec, Path, Manifest]:
        """The tower's spec and folder, and its manifest with the fingerprints that callers see."""
        towers = [tower for tower in entry.towers if cls.modality in (None, tower.spec.modality)]
        folder, own, whole = towers[0].folder, towers[0].manifest, entry.manifest
        assert folder is not None, "it is ready"
        assert own is not None, "it is ready"
        assert whole is not None, "it is ready"
        taps = tuple(info for info in whole.taps if own.tap(info.tap.name))
        return towers[0].spec, folder, replace(own, taps=taps)

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        """Return what is embedded: a few real inputs that differ in size."""
        spec = next(tower for tower in catalog.spec(cls.encoder).towers if cls.modality in (None, tower.modality))
        return list(spec.encoder.examples(spec))[:6]

    def test_options_are_declared(self, bench: EncoderBench) -> None:
        check_options(bench.encoder.options)

    def test_samples_are_what_the_graph_reads(self, bench: EncoderBench) -> None:
        for position, samples in enumerate(bench.prepared()):
            assert samples, f"item {position} gave no sample; a bad item raises InvalidInput"
            for sample in samples:
                check_sample(bench, position, sample)

    def test_shapes_and_spans(self, bench: EncoderBench) -> None:
        for info in bench.manifest.taps:
            found, name = bench.embed(bench.items, info.tap.name).taps[0], info.tap.name
            expected = (int(found.counts.sum()), info.tap.dim)
            assert found.rows.dtype == np.float32, f"rows of {name} are {found.rows.dtype}, and must be float32"
            assert found.rows.shape == expected, f"rows of {name} are {found.rows.shape}, and must be {expected}"
            bad = np.flatnonzero(~np.isfinite(found.rows).all(axis=1))
            assert not len(bad), f"row {bad[:1]} of {name} has numbers that are not finite"
            none = np.flatnonzero(found.counts == 0)
            assert not len(none), f"items {none.tolist()} have no rows of {name}"
            check_spans(found)

    def test_preprocessing_gives_what_it_gave_the_export(self, bench: EncoderBench) -> None:
        """The export ran in a process of its own: what differs changes with the process."""
        sample_inputs.check(bench.encoder, bench.folder)

    def test_preprocessing_does_not_depend_on_what_came_before(self, bench: EncoderBench) -> None:
        forwards, backwards = bench.prepared(), bench.prepared(reverse=True)
        for position, (one, other) in enumerate(zip(forwards, backwards, strict=True)):
            check_same(position, one, other, "when the items come in another order: preprocess keeps something of earlier ones")

    def test_samples_stay_as_they_were_prepared(self, bench: EncoderBench) -> None:
        made = [bench.prepare(item) for item in bench.items]
        again = [copy.deepcopy(bench.prepare(item)) for item in bench.items]
        for position, (samples, kept) in enumerate(zip(made, again, strict=True)):
            check_same(position, kept, samples, "after others were prepared: preprocess uses one array for several items")

    def test_several_items_are_prepared_as_one_is(self, bench: EncoderBench) -> None:
        made = list(bench.encoder.preprocess_many(bench.items, bench.encoder.example_options))
        assert len(made) == len(bench.items), f"preprocess_many gave {len(made)} results for {len(bench.items)} items"
        for position, (alone, found) in enumerate(zip(bench.prepared(), made, strict=True)):
            if isinstance(found, Exception):
                pytest.fail(f"preprocess_many refuses item {position}, and preprocess takes it: {found}")
            check_same(position, alone, list(islice(found, MOST_SAMPLES)), "in preprocess_many, beside others")

    def test_preprocessing_in_threads_gives_the_same(self, bench: EncoderBench) -> None:
        expected, interval = bench.prepared(), sys.getswitchinterval()
        places = [place for _ in range(4) for place in range(len(bench.items))]
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                for place, found in zip(places, pool.map(lambda place: bench.prepare(bench.items[place]), places), strict=True):
                    check_same(
                        place, expected[place], found, "in several threads: preprocess keeps its work on the object (self)"
                    )
        finally:
            sys.setswitchinterval(interval)

    def test_what_is_given_is_left_as_it_was(self, bench: EncoderBench) -> None:
        before = [item.copy() if isinstance(item, np.ndarray) else item for item in bench.items]
        samples = [sample for some in bench.prepared() for sample in some]
        for position, (item, kept) in enumerate(zip(bench.items, before, strict=True)):
            if isinstance(item, np.ndarray):
                np.testing.assert_array_equal(item, np.asarray(kept), f"preprocess changed the array of item {position}")
        inputs = [{name: array.copy() for name, array in sample.inputs.items()} for sample in samples]
        for sample in samples:
            bench.encoder.collate([sample])
        for position, (sample, kept_inputs) in enumerate(zip(samples, inputs, strict=True)):
            for name, array in sample.inputs.items():
                assert np.array_equal(array, kept_inputs[name]), f"collate changed input {name!r} of sample {position}"

    def test_fingerprints_differ_by_tap(self, bench: EncoderBench) -> None:
        fingerprints = [info.fingerprint for info in bench.manifest.taps]
        assert len(set(fingerprints)) == len(fingerprints), f"two taps have one fingerprint: {fingerprints}"

    def test_another_export_has_the_same_fingerprints(self, bench: EncoderBench, home: Path) -> None:
        expected = {info.tap.name: info.fingerprint for info in bench.manifest.taps}
        found = export_fingerprints(bench.name, home)
        assert {tap: found.get(tap) for tap in expected} == expected, (
            "the same weights gave other fingerprints in another process: definition, preprocessing or the weights that export"
            " makes hold what changes (hash() of strings, a set's order, the time, a path, random numbers without a seed)"
        )

    def test_parity_was_measured(self, bench: EncoderBench) -> None:
        found, named = bench.manifest.numerics.parity, {info.tap.name for info in bench.manifest.taps}
        assert found >= parity.FP32_FLOOR, f"parity is {found}, and must be {parity.FP32_FLOOR} or more"
        assert set(bench.manifest.parity) == named, f"parity was measured of {set(bench.manifest.parity)}, and taps are {named}"
        assert len(set(bench.manifest.batches)) >= 2, (
            f"parity was measured at one shape, {bench.manifest.batches[:1]}: give examples that differ in size, or more of them"
        )

    def test_a_row_does_not_depend_on_its_batch_mates(self, bench: EncoderBench) -> None:
        taps = [info.tap for info in bench.manifest.taps]
        for group in bench.groups():
            check_invariance(bench, taps, group)

    def test_items_of_one_request_get_the_rows_that_they_get_alone(self, bench: EncoderBench) -> None:
        names = [info.tap.name for info in bench.manifest.taps]
        together = bench.embed(bench.items, *names)
        for position, item in enumerate(bench.items):
            alone = bench.embed([item], *names)
            for one, many in zip(alone.taps, together.taps, strict=True):
                _, cosine = parity.difference(one.rows, _rows_of_item(many, position))
                assert cosine >= INVARIANCE, (
                    f"item {position} alone and among {len(bench.items)} has a cosine of {cosine:.6f} in {one.tap.tap.name},"
                    f" and must have {INVARIANCE} or more: its rows depend on what is asked beside it"
                )

    def test_a_tap_does_not_depend_on_the_taps_beside_it(self, bench: EncoderBench) -> None:
        names = [info.tap.name for info in bench.manifest.taps]
        together = bench.embed(bench.items[:1], *names)
        for name, many in zip(names, together.taps, strict=True):
            alone = bench.embed(bench.items[:1], name).taps[0].rows
            np.testing.assert_allclose(alone, many.rows, rtol=1e-4, atol=1e-5, err_msg=f"{name} alone, and beside the other taps")

    def test_the_same_input_gives_the_same_rows(self, bench: EncoderBench) -> None:
        first, second = bench.embed(bench.items[:1]), bench.embed(bench.items[:1])
        np.testing.assert_array_equal(
            first.taps[0].rows, second.taps[0].rows, "the same item twice: preprocess or the graph draws random numbers"
        )

    def test_concurrent_callers_get_their_own_rows(self, bench: EncoderBench) -> None:
        async def crowd() -> list[EmbedResult]:
            asks = [
                bench.engine.embed(EmbedParams(server_pass(EncoderPass, bench.name)), [item])
                for item in bench.items
                for _ in range(3)
            ]
            return await asyncio.gather(*asks)

        alone = [bench.embed([item]).taps[0].rows for item in bench.items for _ in range(3)]
        for expected, found in zip(alone, bench.run(crowd()), strict=True):
            cosine = parity.difference(expected, found.taps[0].rows)[1]
            assert cosine >= INVARIANCE, f"among callers at once a row has a cosine of {cosine:.6f} to what it is alone"

    def test_a_caller_that_leaves_harms_nobody(self, bench: EncoderBench) -> None:
        async def leave_one() -> EmbedResult:
            leaver = asyncio.ensure_future(bench.engine.embed(EmbedParams(server_pass(EncoderPass, bench.name)), bench.items))
            stayer = asyncio.ensure_future(bench.engine.embed(EmbedParams(server_pass(EncoderPass, bench.name)), bench.items[:1]))
            await asyncio.sleep(0)
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            return await stayer

        expected = bench.embed(bench.items[:1]).taps[0].rows
        assert parity.difference(expected, bench.run(leave_one()).taps[0].rows)[1] >= INVARIANCE

    def test_a_wrong_item_is_named_by_its_position(self, bench: EncoderBench) -> None:
        wrong = bench.wrong
        check_refusal(refusal(bench, [bench.items[0], wrong]), wrong, 1)

    def test_a_bad_item_may_be_skipped(self, bench: EncoderBench) -> None:
        wrong = bench.wrong
        ask = EmbedParams(server_pass(EncoderPass, bench.name), skip_bad_items=True)
        found = bench.run(bench.engine.embed(ask, [wrong, bench.items[0]]))
        assert set(found.failures) == {0}, f"failures are of items {sorted(found.failures)}, and the wrong one is item 0"
        assert found.taps[0].counts[0] == 0
        np.testing.assert_array_equal(found.taps[0].rows, bench.embed(bench.items[:1]).taps[0].rows)

    def test_unknown_taps_and_options_are_refused_by_name(self, bench: EncoderBench) -> None:
        with pytest.raises(NotFound, match="no-such-tap"):
            bench.embed(bench.items[:1], "no-such-tap")
        with pytest.raises(InvalidInput, match="no_such_option"):
            bench.embed(bench.items[:1], no_such_option=1)


def _rows_of_item(found: TapRows, position: int) -> Any:
    start = int(found.counts[:position].sum())
    return found.rows[start : start + int(found.counts[position])]
