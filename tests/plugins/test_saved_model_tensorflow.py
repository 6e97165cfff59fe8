"""Real SavedModels through a real TensorFlow: `make test-tensorflow`. The rest of the tests do without (test_saved_model.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from topwork_plugins.saved_model import plugin
from topwork_plugins.saved_model.converter import TENSORFLOW
from topwork_server import Encoder, Granularity, ImageItem, InvalidInput, Sample, SourceUri, TextItem
from topwork_server.models.artifacts import Manifest
from topwork_server.runtime.export import export_encoder, fingerprints
from topwork_server.runtime.session import Session
from topwork_server.types import Array, EncoderSpec

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(3600)]  # the first makes the environment

Exported = tuple[Encoder, Manifest, Path]


@pytest.fixture(scope="session")
def models(weights_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small SavedModels; the environment is made where it is missing."""
    TENSORFLOW.make(weights_home, lambda done, total: None)
    os.environ["TOPWORK_HOME"] = str(weights_home)
    folder = tmp_path_factory.mktemp("saved_models")
    script = Path(__file__).parents[1] / "tensorflow_models.py"
    done = subprocess.run([TENSORFLOW.python(), script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def spec_of(folder: Path, **settings: object) -> EncoderSpec:
    spec = plugin.resolve_source("tiny", replace(SourceUri.parse(f"file:{folder}"), settings=settings))
    assert spec is not None
    return replace(spec, settings=settings)


@pytest.fixture
def exported(models: Path, tmp_path: Path) -> Callable[..., Exported]:
    def export(name: str, **settings: object) -> Exported:
        spec = spec_of(models / name, **settings)
        manifest = export_encoder(spec, models / name, tmp_path)
        assert manifest.reference == "TensorFlow's own output (tensorflow-cpu 2.21.0 and tf2onnx 1.17.0)"
        assert manifest.numerics.parity > 0.999999
        return spec.encoder(spec, tmp_path), manifest, tmp_path

    return export


def taps(made: Exported) -> dict[str, tuple[int, Granularity]]:
    return {info.tap.name: (info.tap.dim, info.tap.granularity) for info in made[1].taps}


def output(made: Exported, tap: str, items: list[object]) -> tuple[Array, list[Sample]]:
    encoder, _, folder = made
    samples = [next(iter(encoder.preprocess(item, encoder.options()))) for item in items]  # type: ignore[arg-type]
    return Session(folder / "model.onnx").run([tap], encoder.collate(samples))[0], samples


def test_pictures(models: Path, exported: Callable[..., Exported]) -> None:
    made = exported("pictures")
    item, cell = Granularity.ITEM, Granularity.CELL
    assert taps(made) == {"pooled": (16, item), "default": (16, item), "map": (8, cell)}
    expected = np.load(models / "expected.npz")
    rows, _ = output(made, "pooled", list(expected["pixels"].astype(np.uint8)))
    np.testing.assert_allclose(rows, expected["pictures"], atol=1e-5)
    assert fingerprints(made[0].spec, models / "pictures") == {info.tap.name: info.fingerprint for info in made[1].taps}


def test_texts(models: Path, exported: Callable[..., Exported]) -> None:
    made = exported("texts")
    token = Granularity.TOKEN
    assert taps(made) == {
        "pooled": (16, Granularity.ITEM),
        "pooled_output": (16, Granularity.ITEM),
        "sequence_output": (16, token),
    }
    words = (models / "texts" / "assets" / "vocab.txt").read_text().split()
    _, (sample,) = output(made, "pooled", [TextItem("The red owls, and a BIRD")])
    found = [words[id] for id in sample.inputs["input_ids"]]
    assert found == ["[CLS]", "the", "red", "owl", "##s", ",", "and", "a", "bird", "[SEP]"]
    with pytest.raises(InvalidInput, match="the limit is 32"):  # its table has 40 positions
        output(made, "pooled", [TextItem("a " * 40)])
    expected = np.load(models / "expected.npz")
    feeds = {"input_ids": expected["ids"].astype(np.int64)}
    feeds |= {"attention_mask": np.ones_like(feeds["input_ids"]), "token_type_ids": np.zeros_like(feeds["input_ids"])}
    (rows,) = Session(made[2] / "model.onnx").run(["sequence_output"], feeds)
    np.testing.assert_allclose(rows, expected["texts"], atol=1e-5)


def test_texts_that_keep_their_capitals(exported: Callable[..., Exported]) -> None:
    made = exported("long_ids", max_tokens=40)
    _, (sample,) = output(made, "pooled", [TextItem("the OWL")])
    assert 1 in sample.inputs["input_ids"]  # [UNK]
    with pytest.raises(InvalidInput, match="the limit is 40"):
        output(made, "pooled", [TextItem("a " * 40)])


def test_texts_of_a_fixed_length(exported: Callable[..., Exported]) -> None:
    made = exported("fixed_texts")
    alone, _ = output(made, "pooled", [TextItem("a red owl")])
    both, _ = output(made, "pooled", [TextItem("a red owl"), TextItem("the bird sat and the owl sat")])
    np.testing.assert_allclose(alone[0], both[0], atol=1e-5)
    with pytest.raises(InvalidInput, match="the limit is 24"):
        output(made, "pooled", [TextItem("a " * 30)])


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("any_size", {"size": 48}, {"pooled": 16, "default": 16, "map": 8}),
        ("bytes", {}, {"pooled": 16, "default": 16, "map": 8}),
        ("keras", {}, {"pooled": 16, "output_0": 16}),
        ("version_1", {}, {"pooled": 16, "default": 16}),
        ("arrays", {}, {"pooled": 16, "steps": 16, "x": 16}),
        ("two_signatures", {}, {"pooled": 16, "steps": 16, "x": 16}),
    ],
)
def test_others(exported: Callable[..., Exported], name: str, settings: dict[str, object], found: dict[str, int]) -> None:
    assert {tap: dim for tap, (dim, _) in taps(exported(name, **settings)).items()} == found


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("any_size", {}, "reads pictures of any size"),
        ("strange", {}, "operators of TensorFlow that ONNX does not have: BesselI0e"),
        ("texts", {"max_tokens": 41}, "texts cannot be read: "),
        ("pictures", {"size": 16}, "--set size: the signature serving_default says"),
        ("pictures", {"sise": 16}, r"unknown field image\.sise"),
        ("pictures", {"signature": "other"}, "no signature 'other'"),
    ],
)
def test_what_is_refused_at_the_export(models: Path, tmp_path: Path, name: str, settings: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        export_encoder(spec_of(models / name, **settings), models / name, tmp_path)
    print(caught.value, file=sys.stderr)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strings", r"strings \(inputs\), .* StringLower, StringSplitV2, StringToHashBucketFast"),
        ("no_signature", "it has none at all"),
        ("no_vocabulary", "has no tokenizer"),
        ("one_by_one", "batches of one size only"),
        ("files", "WriteFile"),
    ],
)
def test_what_is_refused_without_tensorflow(models: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        spec_of(models / name)


def test_variables_that_are_damaged(models: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(models / "keras", tmp_path / "damaged"))
    next(copy.glob("variables/*.data*")).write_bytes(b"")
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInput, match="TensorFlow cannot load it") as caught:
        export_encoder(spec_of(copy), copy, tmp_path / "out")
    assert "copy" in caught.value.remedy


def test_the_type_of_items(exported: Callable[..., Exported]) -> None:
    with pytest.raises(InvalidInput, match="array"):
        output(exported("arrays"), "pooled", [ImageItem(b"")])
