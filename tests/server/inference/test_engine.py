from __future__ import annotations

import asyncio
import errno
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from passes import of_encoder
from topwork_server import EncoderSpec, Granularity, Item, Modality, Sample, Tap, TextItem
from topwork_server.config import Config
from topwork_server.errors import ExportFailed, InvalidInput, NotFound, NotReady, Overloaded, TooLarge, TopworkError
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.inference.preprocessing import AHEAD
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.export import export_encoder
from toys import DIM, FakePlugins, Gate, Letters, letters_spec

GATE = Gate()


class Gated(Letters):
    """Preprocesses only when the gate is open."""

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if isinstance(item, TextItem) and item.text == "wait":
            GATE.wait()
        return super().preprocess(item, options)


class Broken(Letters):
    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if item == TextItem("a"):
            raise KeyError("a bug of the author's")
        if item == TextItem("b"):
            sys.exit(3)
        if item == TextItem("d"):
            raise MemoryError
        if item == TextItem("e"):
            raise InvalidInput("the text is damaged", remedy="send all of it") from OSError(errno.EMFILE, "Too many open files")
        return super().preprocess(item, options)

    def collate(self, samples: Any) -> Any:
        if any(sample.inputs["codes"].tolist() == [ord("c")] for sample in samples):
            raise KeyboardInterrupt
        return super().collate(samples)


class Film(Letters):
    """A long item: one sample a letter, made lazily, as a video's windows are."""

    pads = False
    alive = 0
    most = 0

    def preprocess(self, item: Item, options: Any) -> Iterator[Sample]:  # type: ignore[override]
        assert isinstance(item, TextItem)
        for i, letter in enumerate(item.text):
            if letter == "!":
                raise InvalidInput("the film is torn", remedy="splice it")
            if letter == "#":
                raise SystemExit("the film burns")
            Film.alive += 1
            Film.most = max(Film.most, Film.alive)
            (sample,) = super().preprocess(TextItem(letter), options)
            yield Sample(sample.inputs, sample.tokens, window=(float(i), float(i + 1)))

    def collate(self, samples: Any) -> Any:
        Film.alive -= len(samples)
        return super().collate(samples)


SPECS = [
    letters_spec(),
    letters_spec("gated", Gated),
    letters_spec("broken", Broken),
    letters_spec("film", Film),
    letters_spec("second", seed=2),
    EncoderSpec("absent", Letters, "file:/nowhere/at/all", Modality.TEXT),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of all toys, exported in this process."""
    home = tmp_path_factory.mktemp("home")
    for spec in SPECS[:-1]:
        artifacts.publish(home, spec, lambda scratch, spec=spec: export_encoder(spec, Path(), scratch))  # type: ignore[misc]
    return home


def engine(home: Path, **settings: Any) -> Engine:
    return Engine(Catalog(FakePlugins(SPECS), home), Config(home=home, provider="cpu", threads=2, **settings))  # type: ignore[arg-type]


@pytest.fixture
def ready(home: Path, runner: asyncio.Runner) -> Iterator[Engine]:
    made = engine(home)
    yield made
    runner.run(made.close())


def texts(*given: str) -> list[Item]:
    return [TextItem(one) for one in given]


def test_rows_notes_spans_and_counts(ready: Engine, runner: asyncio.Runner) -> None:
    found = runner.run(ready.embed(EmbedParams(of_encoder("letters"), ("letters", "mean")), texts("a b", "hello")))
    tokens, mean = found.taps
    assert tokens.counts.tolist() == [3, 5]
    assert tokens.rows.shape == (8, DIM)
    assert tokens.spans is not None
    assert tokens.spans.values[3:].tolist() == [[i, i + 1] for i in range(5)]
    assert mean.counts.tolist() == [1, 1]
    np.testing.assert_allclose(mean.rows[1], tokens.rows[3:].mean(0), rtol=1e-5)
    assert found.notes == {0: {"spaces": 1}}
    assert found.timings.compute > 0


def test_many_items_come_back_in_order(ready: Engine, runner: asyncio.Runner) -> None:
    given = [chr(97 + i % 26) * (1 + i % 7) for i in range(300)]
    together = runner.run(ready.embed(EmbedParams(of_encoder("letters")), texts(*given))).taps[0].rows
    for i in (0, 31, 32, 150, 299):
        alone = runner.run(ready.embed(EmbedParams(of_encoder("letters")), texts(given[i]))).taps[0].rows
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5)


def test_no_items_give_no_rows(ready: Engine, runner: asyncio.Runner) -> None:
    found = runner.run(ready.embed(EmbedParams(of_encoder("letters")), [])).taps[0]
    assert found.rows.shape == (0, DIM)
    assert found.counts.tolist() == []


def test_options_reach_the_encoder(ready: Engine, runner: asyncio.Runner) -> None:
    upper = runner.run(ready.embed(EmbedParams(of_encoder("letters"), options={"case": "lower"}), texts("ABC"))).taps[0].rows
    lower = runner.run(ready.embed(EmbedParams(of_encoder("letters")), texts("abc"))).taps[0].rows
    np.testing.assert_array_equal(upper, lower)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [({"casing": "x"}, "unknown option 'casing'"), ({"case": "up"}, "'case' is 'up'"), ({"repeat": "2"}, "'repeat' is '2'")],
)
def test_wrong_options_are_named(ready: Engine, runner: asyncio.Runner, options: dict[str, Any], pattern: str) -> None:
    with pytest.raises(InvalidInput, match=pattern) as caught:
        runner.run(ready.embed(EmbedParams(of_encoder("letters"), options=options), texts("a")))
    assert caught.value.remedy


def test_a_bad_item_is_named_by_its_position_in_the_whole_request(ready: Engine, runner: asyncio.Runner) -> None:
    with pytest.raises(InvalidInput, match="the text is empty") as caught:
        runner.run(ready.embed(EmbedParams(of_encoder("letters")), texts(*["ok"] * 70, "", "ok")))
    assert caught.value.item == 70


def test_an_encoders_own_bug_is_an_internal_error_of_that_item(ready: Engine, runner: asyncio.Runner) -> None:
    with pytest.raises(TopworkError, match="a bug of the author's") as caught:
        runner.run(ready.embed(EmbedParams(of_encoder("broken")), texts("a")))
    assert (type(caught.value), caught.value.item) == (TopworkError, 0)


@pytest.mark.parametrize("text", ["d", "e"])
def test_an_item_is_not_blamed_for_what_the_server_ran_out_of(ready: Engine, runner: asyncio.Runner, text: str) -> None:
    for skip in (False, True):
        with pytest.raises(Overloaded, match="no room left") as caught:
            runner.run(ready.embed(EmbedParams(of_encoder("broken"), skip_bad_items=skip), texts("ok", text)))
        assert caught.value.item is None


@pytest.mark.parametrize(("encoder", "text"), [("broken", "b"), ("broken", "c"), ("film", "#"), ("film", "abababababab#")])
def test_an_encoder_that_would_end_the_process_costs_its_item(
    ready: Engine, runner: asyncio.Runner, encoder: str, text: str
) -> None:
    with pytest.raises(TopworkError, match="would have ended the process") as caught:
        runner.run(ready.embed(EmbedParams(of_encoder(encoder)), texts(text)))
    assert caught.value.item == 0
    assert runner.run(ready.embed(EmbedParams(of_encoder(encoder)), texts("ok"))).taps[0].counts.size


def test_a_long_item_streams_in_bounded_memory(ready: Engine, runner: asyncio.Runner) -> None:
    Film.alive = Film.most = 0
    found = runner.run(ready.embed(EmbedParams(of_encoder("film")), texts("ab" * 200))).taps[0]
    assert found.counts.tolist() == [400]
    np.testing.assert_array_equal(found.rows[0], found.rows[398])
    assert Film.most <= 3 * AHEAD


def test_a_long_item_that_breaks_midway_is_named(ready: Engine, runner: asyncio.Runner) -> None:
    with pytest.raises(InvalidInput, match="the film is torn") as caught:
        runner.run(ready.embed(EmbedParams(of_encoder("film")), texts("ab", "abababababab!")))
    assert caught.value.item == 1
    found = runner.run(ready.embed(EmbedParams(of_encoder("film"), skip_bad_items=True), texts("abababababab!", "ab")))
    assert found.taps[0].counts.tolist() == [0, 2]
    assert set(found.failures) == {0}


def test_past_its_bound_the_queue_refuses_at_once_and_streams_wait(home: Path, runner: asyncio.Runner) -> None:
    async def go() -> None:
        small = engine(home, queue=4)
        await small.embed(EmbedParams(of_encoder("gated")), texts("warm"))
        GATE.open.clear()
        GATE.reached.clear()
        held = asyncio.create_task(small.embed(EmbedParams(of_encoder("gated")), texts("wait", "b", "c")))
        await asyncio.to_thread(GATE.reached.wait, 30)
        with pytest.raises(Overloaded, match="3 of 4"):
            await small.embed(EmbedParams(of_encoder("gated")), texts("d", "e"))
        patient = asyncio.create_task(small.embed(EmbedParams(of_encoder("gated"), wait=True), texts("d", "e")))
        await asyncio.sleep(0)
        GATE.open.set()
        assert len((await held).taps[0].rows) == 3
        assert len((await patient).taps[0].rows) == 2
        await small.close()

    runner.run(go())


def test_a_waiting_stream_that_is_cancelled_gives_its_place_back(home: Path, runner: asyncio.Runner) -> None:
    async def go() -> None:
        small = engine(home, queue=1)
        await small.embed(EmbedParams(of_encoder("gated")), texts("warm"))
        GATE.open.clear()
        GATE.reached.clear()
        held = asyncio.create_task(small.embed(EmbedParams(of_encoder("gated")), texts("wait")))
        await asyncio.to_thread(GATE.reached.wait, 30)
        leaver = asyncio.create_task(small.embed(EmbedParams(of_encoder("gated"), wait=True), texts("d")))
        patient = asyncio.create_task(small.embed(EmbedParams(of_encoder("gated"), wait=True), texts("e")))
        await asyncio.sleep(0)
        leaver.cancel()
        GATE.open.set()
        await held
        assert len((await asyncio.wait_for(patient, 10)).taps[0].rows) == 1
        await small.close()

    runner.run(go())


def test_a_passed_deadline_is_counted_and_computes_nothing(ready: Engine, runner: asyncio.Runner) -> None:
    async def go() -> None:
        await ready.embed(EmbedParams(of_encoder("letters")), texts("warm"))
        loaded = ready.loaded_encoder("letters")
        assert loaded is not None
        before = loaded.counters["samples"]
        with pytest.raises(TopworkError, match="deadline"):
            await ready.embed(EmbedParams(of_encoder("letters"), deadline=time.monotonic() - 1), texts("late"))
        assert loaded.counters["samples"] == before
        assert loaded.counters["expired"] == 1

    runner.run(go())


def test_idle_encoders_are_unloaded_and_come_back(home: Path, runner: asyncio.Runner) -> None:
    async def go() -> None:
        brief = engine(home, idle_seconds=0.02)
        first = await brief.embed(EmbedParams(of_encoder("letters")), texts("a"))
        async with asyncio.timeout(10):
            while brief.loaded_encoder("letters"):
                await asyncio.sleep(0.005)
        again = await brief.embed(EmbedParams(of_encoder("letters")), texts("a"))
        np.testing.assert_array_equal(first.taps[0].rows, again.taps[0].rows)
        await brief.close()

    runner.run(go())


def test_the_longest_idle_makes_room(home: Path, runner: asyncio.Runner) -> None:
    async def go() -> None:
        size = Catalog(FakePlugins(SPECS), home).entry("letters").manifest.bytes  # type: ignore[arg-type, union-attr]
        tight = engine(home, memory_budget=int(size * 1.5))
        await tight.embed(EmbedParams(of_encoder("letters")), texts("a"))
        await tight.embed(EmbedParams(of_encoder("second")), texts("a"))
        assert tight.loaded_encoder("letters") is None
        assert tight.loaded_encoder("second") is not None
        with pytest.raises(TooLarge, match="all encoders together may take 0"):
            await engine(home, memory_budget=10).embed(EmbedParams(of_encoder("letters")), texts("a"))
        await tight.close()

    runner.run(go())


def test_unknown_and_absent_encoders(ready: Engine, runner: asyncio.Runner) -> None:
    with pytest.raises(NotFound, match="did you mean letters"):
        runner.run(ready.embed(EmbedParams(of_encoder("leters")), texts("a")))
    with pytest.raises(NotReady, match="topwork pull absent"):
        runner.run(ready.embed(EmbedParams(of_encoder("absent")), texts("a")))
    with pytest.raises(NotFound, match="its taps are mean, letters"):
        runner.run(ready.embed(EmbedParams(of_encoder("letters"), ("pooled",)), texts("a")))


def test_a_damaged_artifact_is_refused(home: Path, runner: asyncio.Runner, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(home, tmp_path / "copy")
    model = artifacts.folder_of(tmp_path / "copy", SPECS[0]) / artifacts.MODEL
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    broken = engine(tmp_path / "copy")
    with pytest.raises(NotReady, match="topwork export letters --force"):
        runner.run(broken.embed(EmbedParams(of_encoder("letters")), texts("a")))
    runner.run(broken.close())


def test_weights_that_cannot_be_exported_are_not_the_requests_fault(runner: asyncio.Runner, tmp_path: Path) -> None:
    weights = tiny_berts.write(tmp_path / "cut", "bert") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    catalog = Catalog(PluginRegistry.load(), tmp_path / "home")
    catalog.add(f"file:{weights.parent}")
    broken = Engine(catalog, Config(home=tmp_path / "home", provider="cpu"))
    with pytest.raises(ExportFailed, match=r"cut cannot be exported: .*model.safetensors is cut off"):
        runner.run(broken.embed(EmbedParams(of_encoder("cut")), texts("a")))
    runner.run(broken.close())


def test_a_caller_that_leaves_does_not_stop_the_load(ready: Engine, runner: asyncio.Runner) -> None:
    async def go() -> None:
        first = asyncio.create_task(ready.embed(EmbedParams(of_encoder("second")), texts("a")))
        await asyncio.sleep(0)
        first.cancel()
        assert len((await ready.embed(EmbedParams(of_encoder("second")), texts("a"))).taps[0].rows) == 1

    runner.run(go())


def test_a_window_tap_has_seconds() -> None:
    from topwork_server.features import spans_of

    spans = spans_of(Tap("w", 1, Granularity.WINDOW), [Sample({}, window=(0.0, 0.5)), Sample({}, window=(0.5, 1.0))])
    assert spans is not None
    assert (spans.kind, spans.values.tolist()) == ("seconds", [[0, 0.5], [0.5, 1]])


def test_the_server_process_holds_no_torch(home: Path) -> None:
    """A fresh process loads, embeds, and has imported none of the exporters' libraries."""
    import subprocess
    import sys

    code = f"""
import asyncio, sys
sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]!r}
from pathlib import Path
import toys
from passes import of_encoder
from topwork_server import TextItem
from topwork_server.config import Config
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
async def go():
    home = Path({str(home)!r})
    engine = Engine(Catalog(toys.FakePlugins([toys.letters_spec()]), home), Config(home=home, provider="cpu"))
    print(len((await engine.embed(EmbedParams(of_encoder("letters")), [TextItem("a")])).taps[0].rows))
    await engine.close()
asyncio.run(go())
print([name for name in ("torch", "transformers", "timm", "onnx") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "[]"]
