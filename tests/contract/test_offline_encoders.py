"""The contract over every encoder that works offline, with its real weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from one_other_process import SharesProcess
from topwork_server import Item, TextItem
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_api.plugin_registry import PluginRegistry

pytestmark = pytest.mark.weights


NAMES = ("all-minilm-l6-v2", "resnet50-thin", "efficientnet-lite0", "i3d-resnet50-thin", "glove-6b-50d")


class Offline(SharesProcess):
    names = NAMES
    #: The same weights give the same fingerprint on every machine. Another one here changes what stored features mean.
    fingerprint: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, weights_home: Path) -> Path:
        return weights_home

    def test_its_fingerprint_is_the_one_known(self, home: Path) -> None:
        catalog = Catalog(PluginRegistry.load(), home)
        manifest = catalog.entry(self.encoder).manifest
        assert manifest is not None
        default = manifest.tap(catalog.spec(self.encoder).default_tap)
        assert default is not None
        assert default.fingerprint == self.fingerprint


class TestMiniLM(Offline):
    encoder = "all-minilm-l6-v2"
    fingerprint = "d8f95463ed063aaf4df78ab550b601069cd2e5d8664f2601edfc7d732afd3671"


class TestResNet50Thin(Offline):
    encoder = "resnet50-thin"
    fingerprint = "42ed5c24c837d82614e36e139d86e0d883c06d9463c35ff5ecfa0e7fccb052b5"


class TestEfficientNetLite0(Offline):
    encoder = "efficientnet-lite0"
    fingerprint = "8cd0d50b97a5e908e47ad1fe3b44e2aad7b7c6f927e858db0f2aed1ae256182c"


class TestI3DResNet50Thin(Offline):
    encoder = "i3d-resnet50-thin"
    fingerprint = "d8a3d30a0885f2cb09cda63c416baca3f0f1be7c44b786042639e6d17939947b"

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        """A clip of one window, and a larger and longer one of two windows, which ends within the second."""
        return [example_inputs.clips(frames=16, size=128)[0], example_inputs.clips(frames=20, size=256)[1]]


class TestGlove(Offline):
    encoder = "glove-6b-50d"
    fingerprint = "6e25d7c247514612421feb20fdae175644c28cb89d82d78df6edb575bfa10658"

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [TextItem(text) for text in ("owls", "the red bird sat on a fence", "blue whales eat krill and little else")]
