"""Both towers of a tiny CLIP are held to the contract of encoders, each as the server runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_clips
from one_other_process import SharesProcess
from topwork_server import ImageItem, Item, Modality, TextItem
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import example_inputs


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.pulled(tmp_path_factory.mktemp("contract"))


class Tiny(SharesProcess):
    encoder = "tiny"
    names = ("tiny",)

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tiny_home: Path) -> Path:  # type: ignore[override]
        return tiny_home


class TestImages(Tiny):
    modality = Modality.IMAGE

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [ImageItem((example_inputs.FOLDER / "coffee.jpg").read_bytes()), *tiny_clips.photos()]


class TestTexts(Tiny):
    modality = Modality.TEXT

    @classmethod
    def items(cls, catalog: Catalog) -> Sequence[Item]:
        return [TextItem(text) for text in tiny_clips.TEXTS[:4]]
