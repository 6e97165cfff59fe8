"""The contract that every pretrainer keeps, as a pytest class. A plugin author subclasses it:

    from topwork_server.testing import PretrainerContract

    class TestMine(PretrainerContract):
        kind = "mine"

It learns a small encoder from sentences of two subjects that never mix.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api import options
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.pretrainer import BaseEncoder, PretrainResult
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.runtime.export import fingerprints
from topwork_server.testing.declared import check_options

SUBJECTS = (("red", "owl", "flies", "over", "trees"), ("blue", "whale", "swims", "under", "ice"))


def sentences(count: int) -> list[str]:
    """Sentences of ten words of one of two subjects."""
    chance = np.random.default_rng(0)
    return [" ".join(chance.choice(SUBJECTS[number % 2], 10)) for number in range(count)]


class PretrainerContract:
    """Set `kind`; `options` to those of a Pretrain; override `base` where it trains an encoder further."""

    kind: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    texts: ClassVar[Sequence[str]] = sentences(300)

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory: pytest.TempPathFactory) -> BaseEncoder | None:
        """The encoder that is trained further; None for none."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def progress(cls) -> list[tuple[float, str]]:
        return []

    @pytest.fixture(scope="class")
    @classmethod
    def learned(
        cls, base: BaseEncoder | None, progress: list[tuple[float, str]], tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[tuple[Path, PretrainResult]]:
        """A folder that was learned, and its result."""
        out = tmp_path_factory.mktemp("learned")
        yield out, cls.learn(cls.texts, base, out, progress)
        shutil.rmtree(out, ignore_errors=True)

    @classmethod
    def learn(
        cls, texts: Sequence[str], base: BaseEncoder | None, out: Path, progress: list[tuple[float, str]] | None = None
    ) -> PretrainResult:
        pretrainer, calls = PluginRegistry.load().pretrainer(cls.kind).pretrainer, [] if progress is None else progress
        chosen = options.parse(pretrainer.options, cls.options)
        pretrainer.check(base, chosen)
        return pretrainer.pretrain(texts, base, chosen, 7, 1, out, lambda done, words: calls.append((done, words)))

    def test_its_options_say_what_they_are(self) -> None:
        check_options(PluginRegistry.load().pretrainer(self.kind).pretrainer.options)

    def test_its_family_reads_what_it_writes(self, learned: tuple[Path, PretrainResult]) -> None:
        assert self.prints(*learned)

    def test_the_same_arguments_give_the_same_encoder(
        self, learned: tuple[Path, PretrainResult], base: BaseEncoder | None, tmp_path: Path
    ) -> None:
        again = self.learn(self.texts, base, tmp_path)
        assert self.prints(tmp_path, again) == self.prints(*learned), "the seed must decide all that is random"

    def test_it_says_how_far_it_is(self, learned: tuple[Path, PretrainResult], progress: list[tuple[float, str]]) -> None:
        assert progress, "report is never called"
        done = [fraction for fraction, _ in progress]
        assert done == sorted(done), "the fraction must not fall"
        assert all(0 <= fraction <= 1 for fraction in done)

    def test_its_report_is_json(self, learned: tuple[Path, PretrainResult]) -> None:
        _, result = learned
        json.dumps([list(result.history), [asdict(one) for one in result.measures], dict(result.settings)], allow_nan=False)

    def test_texts_without_anything_to_learn_are_refused(self, base: BaseEncoder | None, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput):
            self.learn(["..."], base, tmp_path)

    @staticmethod
    def prints(folder: Path, result: PretrainResult) -> dict[str, str]:
        """The fingerprints by tap of the encoder in a folder."""
        found = PluginRegistry.load().resolve_source("learned", SourceUri.parse(f"file:{folder}", result.family))
        assert found is not None, f"{result.family} does not read what was written"
        return fingerprints(found.spec, folder)
