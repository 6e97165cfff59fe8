"""The contract over every encoder that works offline, with its real weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from topwork_server import Item, Text
from topwork_server.catalogue import Catalogue
from topwork_server.plugins import Plugins
from topwork_server.testing import EncoderContract

pytestmark = pytest.mark.weights


class Offline(EncoderContract):
    fingerprint: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, weights_home: Path) -> Path:
        return weights_home

    def test_its_fingerprint_is_the_one_known(self, home: Path) -> None:
        catalogue = Catalogue(Plugins.load(), home)
        manifest = catalogue.entry(self.encoder).manifest
        assert manifest is not None
        default = manifest.tap(catalogue.spec(self.encoder).default_tap)
        assert default is not None
        assert default.fingerprint == self.fingerprint


class TestMiniLM(Offline):
    encoder = "all-minilm-l6-v2"
    fingerprint = ""


class TestResNet50Thin(Offline):
    encoder = "resnet50-thin"
    fingerprint = ""


class TestEfficientNetLite0(Offline):
    encoder = "efficientnet-lite0"
    fingerprint = ""


class TestI3DResNet50Thin(Offline):
    encoder = "i3d-resnet50-thin"
    fingerprint = ""


class TestGlove(Offline):
    encoder = "glove-6b-50d"
    fingerprint = ""

    @classmethod
    def items(cls, catalogue: Catalogue) -> Sequence[Item]:
        return [Text(text) for text in ("owls", "the red bird sat on a fence", "blue whales eat krill and little else")]
