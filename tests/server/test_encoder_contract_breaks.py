"""Each promise of an encoder, broken on purpose: the contract says which, with the item and what was expected."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_contracts import failures
from topwork_server import Encoder, ImageItem, Item, Sample, TextItem, TokenSpans, option
from topwork_server.config import Config
from topwork_server.inference.engine import Engine
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.runtime.export import export_encoder
from topwork_server.testing import EncoderContract
from topwork_server.testing import encoder as contract_module
from topwork_server.testing.bench import EncoderBench, plain_session
from topwork_server.types import Array, Modality
from toys import FakePlugins, Letters, letters_spec

ITEMS = [TextItem("owl"), TextItem("a kite"), TextItem("an albatross"), TextItem("wren")]


class Spoilt(Letters):
    """Letters with its samples changed by `spoil`."""

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        return [self.spoil(sample, item) for sample in super().preprocess(item, options)]

    def spoil(self, sample: Sample, item: Item) -> Any:
        return sample


class Salted(Spoilt):
    """Its salt is set after the export, as that of `hash()` is in another process."""

    salt = 0

    def spoil(self, sample: Sample, item: Item) -> Any:
        return replace(sample, inputs={"codes": (sample.inputs["codes"] + self.salt) % 128})


class RaisesLater(Spoilt):
    fails = False

    def spoil(self, sample: Sample, item: Item) -> Any:
        if self.fails:
            raise OSError("the vocabulary is gone")
        return sample


class Random(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        codes = sample.inputs["codes"]
        return replace(sample, inputs={"codes": np.random.default_rng().integers(33, 120, len(codes))})


class Remembers(Spoilt):
    seen = 0

    def spoil(self, sample: Sample, item: Item) -> Any:
        self.seen += len(sample.inputs["codes"])
        return replace(sample, inputs={"codes": (sample.inputs["codes"] + self.seen) % 128})


class SharesItsBuffer(Spoilt):
    buffer = np.zeros(4096, np.int64)

    def spoil(self, sample: Sample, item: Item) -> Any:
        part = self.buffer[: len(sample.inputs["codes"])]
        part[:] = sample.inputs["codes"]
        return replace(sample, inputs={"codes": part})


class WorksOnSelf(Letters):
    """Two items meet in `work` where they are prepared in two threads at once."""

    def __init__(self, spec: Any, folder: Path) -> None:
        super().__init__(spec, folder)
        self.together = threading.Barrier(2)

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if not isinstance(item, TextItem):
            return super().preprocess(item, options)
        self.work = item
        if threading.current_thread() is not threading.main_thread():
            try:
                self.together.wait(0.5)
            except threading.BrokenBarrierError:
                self.together.reset()
        return super().preprocess(self.work, options)


class SeveralAsOneLonger(Letters):
    def preprocess_many(self, items: Sequence[Item], options: Any) -> Iterator[Any]:
        longest = max(len(item.text) for item in items if isinstance(item, TextItem))
        for item in items:
            yield self.preprocess(TextItem(item.text.ljust(longest)) if isinstance(item, TextItem) else item, options)


class SeveralLoseOne(Letters):
    def preprocess_many(self, items: Sequence[Item], options: Any) -> Any:
        return list(super().preprocess_many(items, options))[1:]


class SeveralRefuse(Letters):
    def preprocess_many(self, items: Sequence[Item], options: Any) -> Any:
        return [ValueError("too many")] * len(items)


class NoSample(Letters):
    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        return [] if item == ITEMS[1] else super().preprocess(item, options)


class NotASample(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        return dict(sample.inputs)


class ListsForArrays(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        return replace(sample, inputs={"codes": sample.inputs["codes"].tolist()})


class NoSpans(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        return replace(sample, tokens=None)


class WideSpans(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        assert sample.tokens is not None
        return replace(sample, tokens=replace(sample.tokens, chars=sample.tokens.chars.astype(np.int64)))


class FlatSpans(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        assert sample.tokens is not None
        return replace(sample, tokens=replace(sample.tokens, chars=sample.tokens.chars[:, 0].copy()))


class BackwardSpans(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        spans = sample.tokens
        assert spans is not None
        return replace(sample, tokens=TokenSpans(spans.positions, spans.chars[:, ::-1].copy(), spans.parts))


class NotesAreWords(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        return replace(sample, notes={"unknown": "many"})


class WindowEndsFirst(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        return replace(sample, window=(2.0, 1.0))


class NoWindow(Spoilt):
    def spoil(self, sample: Sample, item: Item) -> Any:
        return replace(sample, window=(0.0, float("nan")))


class CostsNothing(Letters):
    def cost(self, sample: Sample) -> int:
        return 0


class CostsAFraction(Letters):
    def cost(self, sample: Sample) -> Any:
        return len(sample.inputs["codes"]) / 2

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        return Letters.collate(Letters(self.spec, self.folder), samples)


class Collates(Letters):
    """A subclass changes what the graph gets."""

    def collate(self, samples: Sequence[Sample]) -> Any:
        return self.spoilt(super().collate(samples))

    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return feeds


class DoubleMask(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return {**feeds, "mask": feeds["mask"].astype(np.float64)}


class NoMask(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return {"codes": feeds["codes"]}


class MisnamedInput(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return {"letters": feeds["codes"], "mask": feeds["mask"]}


class ATuple(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return tuple(feeds.values())


class PaddingCounts(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return {**feeds, "mask": np.ones_like(feeds["mask"])}


class TurnsTheBatch(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return {name: array[::-1].copy() for name, array in feeds.items()}


class CentersTheBatch(Collates):
    def spoilt(self, feeds: dict[str, Array]) -> Any:
        return {**feeds, "mask": feeds["mask"] * np.float32(1 + feeds["codes"].std()) - np.float32(feeds["codes"].std())}


class PadsInPlace(Letters):
    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        feeds = super().collate(samples)
        for sample in samples:
            sample.inputs["codes"][:] = 0
        return feeds


class TakesAnything(Letters):
    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        return super().preprocess(item if isinstance(item, TextItem) else TextItem("picture"), options)


class RaisesTypeError(Letters):
    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if isinstance(item, ImageItem):
            raise TypeError("expected str")
        return super().preprocess(item, options)


@dataclass
class Thawed:
    size: int = option(8, "columns")


@dataclass(frozen=True)
class Mute:
    size: int = 8


class ThawedOptions(Letters):
    options = Thawed


class MuteOptions(Letters):
    options = Mute


class NoDataclass(Letters):
    options = dict


BREAKS: dict[type[Encoder], tuple[str, str]] = {
    Salted: ("gave_the_export", r"input 'codes' has .* and had .*|hash"),
    RaisesLater: ("gave_the_export", "OSError: the vocabulary is gone"),
    Random: ("came_before", "item 0 gives another input 'codes'"),
    Remembers: ("came_before", "keeps something of earlier ones"),
    SharesItsBuffer: ("as_they_were_prepared", "one array for several items"),
    WorksOnSelf: ("in_threads", r"keeps its work on the object"),
    SeveralAsOneLonger: ("prepared_as_one", "beside others"),
    SeveralLoseOne: ("prepared_as_one", "3 results for 4 items"),
    SeveralRefuse: ("prepared_as_one", "refuses item 0"),
    NoSample: ("what_the_graph_reads", "item 1 gave no sample"),
    NotASample: ("what_the_graph_reads", "gave a dict"),
    ListsForArrays: ("what_the_graph_reads", "is a list"),
    NoSpans: ("what_the_graph_reads", "`tokens`"),
    WideSpans: ("what_the_graph_reads", r"TokenSpans.chars is int64, and must be int32"),
    FlatSpans: ("what_the_graph_reads", r"TokenSpans.chars is \(3,\), and must be \(3, 2\)"),
    BackwardSpans: ("shapes_and_spans", "ends before it starts"),
    NotesAreWords: ("what_the_graph_reads", "notes are counts"),
    WindowEndsFirst: ("what_the_graph_reads", "ends before it starts"),
    NoWindow: ("what_the_graph_reads", "not finite"),
    CostsNothing: ("what_the_graph_reads", "cost is 0"),
    CostsAFraction: ("what_the_graph_reads", "cost is 1.5"),
    DoubleMask: ("what_the_graph_reads", "'mask' is float64, and the graph reads float32"),
    NoMask: ("what_the_graph_reads", r"gave the inputs \['codes'\], and the graph reads"),
    MisnamedInput: ("what_the_graph_reads", r"gave the inputs \['letters', 'mask'\]"),
    ATuple: ("what_the_graph_reads", "gave a tuple"),
    PaddingCounts: ("batch_mates", r"the row of item \d at mean .* beside item 2 .* does not mask"),
    TurnsTheBatch: ("batch_mates", r"the row of item 0 .* beside item"),
    CentersTheBatch: ("batch_mates", r"cosine of"),
    PadsInPlace: ("left_as_it_was", "collate changed input 'codes' of sample 0"),
    TakesAnything: ("wrong_item", "an image was taken"),
    RaisesTypeError: ("wrong_item", "raise InvalidInput"),
    ThawedOptions: ("options_are_declared", "must be a frozen dataclass"),
    MuteOptions: ("options_are_declared", "'size' says nothing"),
    NoDataclass: ("options_are_declared", "must be a frozen dataclass"),
}
#: Set after the export, which runs in a process of its own.
LATER = {Salted: ("salt", 3), RaisesLater: ("fails", True)}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("letters")
    export_encoder(letters_spec("letters", Letters), Path(), folder)
    return folder


@contextmanager
def bench_of(kind: type[Encoder], artifact: Path, home: Path) -> Iterator[EncoderBench]:
    """`kind` on the graph of Letters."""
    spec = letters_spec("letters", kind)
    folder = artifacts.folder_of(home, spec)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(artifact)
    manifest = artifacts.Manifest.read(artifact)
    with asyncio.Runner() as runner:
        engine = Engine(Catalog(FakePlugins([spec]), home), Config(home=home, provider="cpu", threads=2))  # type: ignore[arg-type]
        session = plain_session(folder)
        yield EncoderBench(
            "letters", engine, kind(spec, folder), manifest, folder, contract_module.WRONG[Modality.TEXT], ITEMS, runner, session
        )
        runner.run(engine.close())


class Contract(EncoderContract):
    encoder = "letters"


def broken(kind: type[Encoder], artifact: Path, home: Path, only: str = "") -> dict[str, str]:
    with bench_of(kind, artifact, home) as bench:
        return failures(Contract, {"bench": bench, "home": home}, only)


def test_what_breaks_nothing_passes(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {info.tap.name: info.fingerprint for info in artifacts.Manifest.read(artifact).taps}
    monkeypatch.setattr(contract_module, "export_fingerprints", lambda name, home: expected)
    assert broken(Letters, artifact, tmp_path) == {}


@pytest.mark.parametrize("kind", BREAKS, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_told_in_words(
    kind: type[Encoder], artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in LATER:
        monkeypatch.setattr(kind, *LATER[kind])
    test, words = BREAKS[kind]
    caught = broken(kind, artifact, tmp_path, test)
    assert caught, "not caught there"
    assert any(re.search(words, message) for message in caught.values()), caught


def test_a_fingerprint_that_another_process_does_not_make_is_told(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract_module, "export_fingerprints", lambda name, home: {"mean": "0" * 64})
    caught = broken(Letters, artifact, tmp_path, "another_export")
    assert "other fingerprints in another process" in caught["test_another_export_has_the_same_fingerprints"]
