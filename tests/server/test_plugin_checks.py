"""A value that a plugin returns against its contract is reported as its fault, to that caller alone, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passes import of_encoder
from topwork_server import Item, Metric, Sample, Target, TextItem
from topwork_server.config import Config
from topwork_server.errors import PluginFault
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models import artifacts
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.result_checks import fit_heads, search_index
from topwork_server.runtime.export import export_encoder
from topwork_server.testing.problems import problem
from topwork_server.types import Array
from toys import FakePlugins, Letters, letters_spec
from toys_index import Rows
from toys_trainers import NearestMean, Shrinking


class Faulty(Letters):
    """Does what a text asks for."""

    def preprocess(self, item: Item, options: Any) -> Iterable[Any]:
        [sample] = super().preprocess(item, options)
        if item == TextItem("a dict"):
            return [dict(sample.inputs)]
        if item == TextItem("a list"):
            return [Sample({"codes": [1, 2]})]  # type: ignore[dict-item]
        return [sample]

    def cost(self, sample: Sample) -> Any:
        return {ord("#"): 0, ord("%"): 2.5}.get(int(sample.inputs["codes"][0]), super().cost(sample))

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        feeds = super().collate(samples)
        odd = any((sample.inputs["codes"] == ord("~")).any() for sample in samples)
        return {**feeds, "mask": feeds["mask"].astype(np.float64)} if odd else feeds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, spec = tmp_path_factory.mktemp("home"), letters_spec("faulty", Letters)
    folder = artifacts.folder_of(home, letters_spec("faulty", Faulty))
    folder.mkdir(parents=True)
    export_encoder(spec, Path(), folder)
    return home


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a dict", "preprocess gave a dict; its contract asks for Samples"),
        ("a list", "the input 'codes' of a sample is a list"),
        ("# costs nothing", "the cost of a sample is 0"),
        ("% costs a part", "the cost of a sample is 2.5"),
        ("odd~", "double"),
    ],
)
def test_a_fault_of_an_encoder_is_told_and_others_are_served(home: Path, text: str, words: str) -> None:
    async def both() -> tuple[Any, Any]:
        engine = Engine(Catalog(FakePlugins([letters_spec("faulty", Faulty)]), home), Config(home=home, provider="cpu"))
        try:
            asks = [engine.embed(EmbedParams(of_encoder("faulty")), [TextItem(one)]) for one in (text, "owl")]
            return tuple(await asyncio.gather(*asks, return_exceptions=True))  # type: ignore[return-value]
        finally:
            await engine.close()

    refused, served = asyncio.run(both())
    assert isinstance(refused, PluginFault), refused
    assert words in refused.message
    assert "author" in refused.remedy
    assert served.taps[0].rows.shape == (1, 8)


class Doubles(Rows):
    def search(self, queries: Array, k: int, **more: Any) -> Any:
        scores, positions = super().search(queries, k, **more)
        return scores.astype(np.float64), positions


class Beyond(Rows):
    def search(self, queries: Array, k: int, **more: Any) -> Any:
        scores, positions = super().search(queries, k, **more)
        return scores, positions + self.count


@pytest.mark.parametrize(("index", "words"), [(Doubles, "scores of float64"), (Beyond, "positions of .*0 to 3")])
def test_a_fault_of_an_index_names_it_and_what_it_gave(index: type[Rows], words: str) -> None:
    built = index(np.eye(4, dtype=np.float32), Metric.L2)
    with pytest.raises(PluginFault, match=words) as caught:
        search_index(built, np.eye(4, dtype=np.float32), 2, effort=0, threads=1)
    assert index.__name__ in caught.value.message


class TooFew(NearestMean):
    @classmethod
    def fit(cls, *arguments: Any) -> Any:
        return super().fit(*arguments)[1:]


def test_a_fault_of_a_trainer_names_it_and_what_it_gave() -> None:
    examples = problem(Target.CLASSES)
    subsets = [np.arange(60), np.arange(120)]
    with pytest.raises(PluginFault, match="TooFew: fit returned 1 heads; its contract asks for 2 heads"):
        fit_heads(TooFew, examples, subsets, Shrinking(), 7, 1, lambda *_: None)
    assert len(fit_heads(NearestMean, examples, subsets, Shrinking(), 7, 1, lambda *_: None)) == 2
