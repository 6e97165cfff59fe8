"""SavedModels without TensorFlow: what is read of them, how a conversion is adopted and compared, what is refused. The conversion
is a stand-in's (fake_tensorflow.py); real ones are in test_saved_model_tensorflow.py."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny_saved_models as tiny
from topwork_plugins.saved_model import canonical, converter, plugin
from topwork_plugins.saved_model.converter import TENSORFLOW
from topwork_server import (
    Encoder,
    EncoderSpec,
    Granularity,
    InvalidInput,
    Modality,
    SourceUri,
    TextItem,
    TopworkError,
)
from topwork_server.errors import ExportFailed, NotReady
from topwork_server.features import rows_of
from topwork_server.models.artifacts import Manifest
from topwork_server.plugin_api import sources
from topwork_server.runtime.export import export_encoder, fingerprints
from topwork_server.runtime.session import Session
from topwork_server.types import Array, Item

FLOATS = ("float32", [-1, 4])
PIXELS = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
Made = tuple[Encoder, Manifest, Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose environment has a stand-in for TensorFlow."""
    folder = tmp_path / "home"
    tiny.fake_environment(folder)
    monkeypatch.setenv("TOPWORK_HOME", str(folder))
    return folder


def resolved(folder: Path, **settings: object) -> EncoderSpec:
    spec = plugin.resolve_source("tiny", replace(SourceUri.parse(f"file:{folder}"), settings=settings))
    assert spec is not None
    return replace(spec, settings=settings)


def exported(folder: Path, **settings: object) -> Made:
    out = folder.with_suffix(".artifact")
    out.mkdir()
    spec = resolved(folder, **settings)
    manifest = export_encoder(spec, folder, out)
    return spec.encoder(spec, out), manifest, out


def rows(made: Made, item: Item, tap: str) -> Array:
    encoder, manifest, folder = made
    info = manifest.tap(tap)
    assert info is not None
    (sample,) = encoder.preprocess(item, encoder.options())
    (output,) = Session(folder / "model.onnx").run([tap], encoder.collate([sample]))
    return rows_of(info.tap, output[0], sample)


def taps(made: Made) -> dict[str, tuple[int, Granularity]]:
    return {info.tap.name: (info.tap.dim, info.tap.granularity) for info in made[1].taps}


def test_pictures_are_rgb_from_0_to_1_of_the_signatures_size(tmp_path: Path) -> None:
    made = exported(tiny.pictures(tmp_path / "net", 8))
    item, cell = Granularity.ITEM, Granularity.CELL
    assert taps(made) == {"pooled": (3, item), "default": (3, item), "map": (3, cell)}
    expected = PIXELS.reshape(64, 3) / np.float32(127.5)
    np.testing.assert_allclose(rows(made, PIXELS, "map"), expected, atol=1e-6)
    for tap in ("pooled", "default"):
        np.testing.assert_allclose(rows(made, PIXELS, tap), [expected.mean(0)], atol=1e-6)
    assert made[1].reference == "TensorFlow's own output (tensorflow-cpu 0.1 and tf2onnx 0.2)"


def test_settings_say_what_the_signature_does_not(tmp_path: Path) -> None:
    made = exported(tiny.pictures(tmp_path / "net"), size=[8, 8], white=255, mean=[1, 2, 3], std=2)
    expected = PIXELS.reshape(64, 3).astype(np.float32) - [1, 2, 3]
    np.testing.assert_allclose(rows(made, PIXELS, "map"), expected, atol=1e-4)


def test_texts_by_the_vocabulary_of_the_assets(tmp_path: Path) -> None:
    made = exported(tiny.texts(tmp_path / "net"))
    item, token = Granularity.ITEM, Granularity.TOKEN
    assert taps(made) == {"pooled": (6, item), "pooled_output": (6, item), "sequence_output": (6, token)}
    ids = [tiny.WORDS.index(word) for word in ("red", "owl", "##s")]
    np.testing.assert_allclose(rows(made, TextItem("Red OWLs"), "sequence_output"), tiny.TABLE[ids], atol=1e-6)
    np.testing.assert_allclose(rows(made, TextItem("the bird"), "pooled"), tiny.TABLE[[2]], atol=1e-6)
    with pytest.raises(InvalidInput, match="the limit is 32"):  # the longest of those tried that its 40 places hold
        rows(made, TextItem("a " * 40), "pooled")


@pytest.mark.parametrize("how", ["a capital letter in the vocabulary", "--set lowercase"])
def test_texts_that_keep_their_capitals(tmp_path: Path, how: str) -> None:
    words = [*tiny.WORDS[:-1], "Owl" if how.startswith("a") else "to"]
    made = exported(tiny.texts(tmp_path / "net", words), **({} if how.startswith("a") else {"lowercase": False}), max_tokens=40)
    (sample,) = made[0].preprocess(TextItem("the OWL"), made[0].options())
    assert sample.inputs["input_ids"].tolist() == [2, 5, 1, 3]
    assert sample.notes == {"unknown_tokens": 1}


def test_a_tokenizer_file_goes_before_a_vocabulary(tmp_path: Path) -> None:
    folder = tiny.texts(tmp_path / "net")
    reversed_words = [*tiny.WORDS[:5], *tiny.WORDS[:4:-1]]
    other = tiny.texts(tmp_path / "other", reversed_words)
    exported(other)
    (other.with_suffix(".artifact") / "tokenizer.json").rename(folder / "tokenizer.json")
    made = exported(folder)
    np.testing.assert_allclose(
        rows(made, TextItem("owl"), "sequence_output"), tiny.TABLE[[reversed_words.index("owl")]], atol=1e-6
    )


def test_arrays_of_any_length_by_the_signature_that_can_be_served(tmp_path: Path) -> None:
    made = exported(tiny.arrays(tmp_path / "net"))
    assert made[0].spec.modality is Modality.TENSOR
    item = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.testing.assert_allclose(rows(made, item, "pooled"), [2 * item.mean(0)], rtol=1e-6)


def test_an_archive_and_a_name_are_read_as_their_folder(tmp_path: Path, home: Path) -> None:
    folder = tiny.pictures(tmp_path / "net", 8)
    source = sources.with_files(SourceUri.parse(f"file:{tiny.packed(folder, tmp_path / 'net.tar.gz')}"), home)
    spec = plugin.resolve_source("packed", source)
    assert spec is not None
    assert spec.modality is Modality.IMAGE
    unpacked = sources.fetch(source, home)
    assert fingerprints(spec, unpacked) == {info.tap.name: info.fingerprint for info in exported(folder)[1].taps}
    with pytest.raises(InvalidInput, match="the files of tfhub:google/net/1 are not here"):
        plugin.resolve_source("mine", SourceUri.parse("tfhub:google/net/1"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "operators", "said"),
    [
        (
            {"text": ("string", [-1])},
            {"y": FLOATS},
            ["SentencepieceOp", "StringJoin", "Mul"],
            r"strings \(text\).*: SentencepieceOp \(take",
        ),
        ({"jpeg": ("string", [-1])}, {"y": FLOATS}, ["DecodeJpeg"], "DecodeJpeg"),
        ({"x": FLOATS}, {"y": ("int64", [-1])}, [], r"no rows of floating-point numbers \(it gives y: int64 \[any\]\)"),
        ({"x": FLOATS}, {"y": ("float32", None)}, [], "of any rank"),
        ({"x": FLOATS, "z": FLOATS}, {"y": FLOATS}, [], r"reads 2 inputs \(x: float32 \[any, 4\], z"),
        ({"wave": ("float32", [-1])}, {"y": FLOATS}, [], "no batch of pictures"),
        ({"x": ("float32", [1, 8, 8, 3])}, {"y": FLOATS}, [], r"batches of one size only \(x: float32 \[1, 8, 8, 3\]\)"),
        ({"input_ids": ("int32", [-1, -1]), "mask": ("int32", [-1, -1])}, {"y": FLOATS}, [], "no tokenizer"),
        ({"x": FLOATS}, {"y": FLOATS}, ["PyFunc", "WriteFile"], "runs PyFunc, WriteFile"),
    ],
)
def test_signatures_that_are_refused(
    tmp_path: Path, inputs: tiny.Tensors, outputs: tiny.Tensors, operators: list[str], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        resolved(tiny.write(tmp_path / "net", {"serving_default": (inputs, outputs)}, operators))
    assert caught.value.remedy


def test_a_model_without_signatures(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="it has none at all"):
        resolved(tiny.write(tmp_path / "net", {}))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "text"])
def test_a_damaged_saved_model(tmp_path: Path, damage: str) -> None:
    path = tiny.pictures(tmp_path / "net", 8) / "saved_model.pb"
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-20], "noise": b"\xff" * 40, "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(InvalidInput, match=r"saved_model\.pb is damaged"):
        resolved(tmp_path / "net")


def test_a_folder_that_is_none_is_left_to_others(tmp_path: Path) -> None:
    source = SourceUri.parse(f"file:{tmp_path}")
    assert plugin.resolve_source("x", source) is None
    refusal = plugin.refuse_source(source)
    assert refusal is not None
    assert "saved_model.pb" in refusal.reason
    with pytest.raises(InvalidInput, match=r"has no saved_model\.pb"):
        plugin.resolve_source("x", SourceUri.parse(f"file:{tmp_path}", family="saved_model"))


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("refused", InvalidInput, "net cannot be read: .*BesselI0e"),
        ("broken", TopworkError, "ended with status 1: ImportError: libtensorflow"),
        ("killed", TopworkError, "was killed by signal 9"),
        ("dies", TopworkError, "ended with status 1: no more memory"),
        ("one by one", InvalidInput, "net cannot be read: ValueError: the batch is 1"),
        ("another", ExportFailed, "is not the network: .* against TensorFlow's own output"),
    ],
)
def test_conversions_that_fail(tmp_path: Path, fault: str, error: type[Exception], said: str) -> None:
    folder = tiny.pictures(tmp_path / "net", 8)
    (folder / "fault").write_text(fault)
    with pytest.raises(error, match=said):
        exported(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "reads pictures of any size"),
        ({"size": 0}, "--set: image.size is 0"),
        ({"size": 8, "wite": 255}, r"unknown field image\.wite"),
        ({"size": 8, "signature": "training"}, "no signature 'training'"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        exported(tiny.pictures(tmp_path / "net"), **settings)
    assert caught.value.remedy


def test_other_settings_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--set size: the signature serving_default says"):
        exported(tiny.pictures(tmp_path / "fixed", 8), size=16)
    with pytest.raises(InvalidInput, match="texts cannot be read"):  # it has 40 places
        exported(tiny.texts(tmp_path / "texts"), max_tokens=41)
    with pytest.raises(InvalidInput, match=r"lacks \[CLS\]"):
        exported(tiny.texts(tmp_path / "words", ["[PAD]", "[UNK]", "[SEP]", "owl"]))


def test_several_signatures(tmp_path: Path) -> None:
    """One of them is named, and says what is read, unless one has the usual name."""
    pixels: tiny.Tensors = {"x": ("float32", [-1, 8, 8, 3])}
    both = {"a": ({"x": FLOATS}, {"y": FLOATS}), "b": (pixels, {"y": FLOATS})}
    folder = tiny.write(tmp_path / "both", both)
    with pytest.raises(
        InvalidInput, match=r"several signatures.*: a reads tensor and gives y; b reads image and gives y"
    ) as caught:
        resolved(folder)
    assert "--set signature=a" in caught.value.remedy
    assert resolved(folder, signature="a").modality is Modality.TENSOR
    assert resolved(folder, signature="b").modality is Modality.IMAGE
    usual = tiny.write(tmp_path / "usual", {**both, "serving_default": (pixels, {"y": FLOATS})})
    assert "serving_default" in resolved(usual).description
    with pytest.raises(InvalidInput, match="no signature 'c'") as caught:
        resolved(folder, signature="c")
    assert "a, b" in caught.value.remedy


def test_arrays_of_a_shape_that_is_said(tmp_path: Path) -> None:
    made = exported(tiny.arrays(tmp_path / "net"), shape=[5, 4])
    rows(made, np.ones((5, 4), np.float32), "pooled")
    with pytest.raises(InvalidInput, match="array"):
        rows(made, np.ones((6, 4), np.float32), "pooled")
    with pytest.raises(InvalidInput, match=r"tensor\.shape"):
        exported(tiny.arrays(tmp_path / "wrong"), shape=[5, 3])


def test_a_conversion_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.pictures(tmp_path / "net", 8)
    (folder / "fault").write_text("slow")
    monkeypatch.setattr(converter, "CONVERSION_PATIENCE", 3.0)
    with pytest.raises(TopworkError, match="took more than 3 s"):
        exported(folder)


def test_a_conversion_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    folder = tiny.pictures(tmp_path / "net", 8)
    (folder / "fault").write_text("slow")
    code = "from pathlib import Path; from topwork_plugins.saved_model import converter, reading, signatures;"
    code += "model = signatures.read(Path({!r})); converter.Converter(model, reading.choose(model, {{}}), Path({!r}))"
    pid_file = tmp_path / "net.pid"
    with subprocess.Popen([sys.executable, "-c", code.format(str(folder), str(tmp_path / "net.onnx"))]) as parent:
        while not (pid_file.exists() and pid_file.read_text()):
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    ended = psutil.wait_procs(
        [psutil.Process(int(pid_file.read_text()))] if psutil.pid_exists(int(pid_file.read_text())) else [], 20
    )
    assert not ended[1]


def test_without_the_environment_nothing_is_downloaded(tmp_path: Path, home: Path) -> None:
    (TENSORFLOW.folder(home) / "bin" / "python").unlink()
    with pytest.raises(NotReady, match="an environment with tensorflow, which is not here") as caught:
        exported(tiny.pictures(tmp_path / "net", 8))
    assert "topwork pull" in caught.value.remedy


def test_equal_graphs_get_equal_names(tmp_path: Path) -> None:
    """Whatever tensors and constants were called, and in which order nodes and constants stood."""
    from onnx import TensorProto, helper, numpy_helper

    def net(suffix: str, turned: bool) -> bytes:
        body_out = helper.make_tensor_value_info(f"in{suffix}", TensorProto.FLOAT, None)
        branch = helper.make_graph(
            [helper.make_node("Add", [f"a{suffix}", f"one{suffix}"], [f"in{suffix}"])], "b", [], [body_out]
        )
        nodes = [
            helper.make_node("Mul", ["x", f"two{suffix}"], [f"a{suffix}"], name=f"node{suffix}"),
            helper.make_node("Neg", ["x"], [f"b{suffix}"]),
            helper.make_node("If", [f"yes{suffix}"], [f"c{suffix}"], then_branch=branch, else_branch=branch),
            helper.make_node("Add", [f"c{suffix}", f"b{suffix}"], ["y"]),
        ]
        nodes = [nodes[1], nodes[0], *nodes[2:]] if turned else nodes
        values = {"two": np.float32(2), "one": np.float32(1), "yes": np.array(True)}
        constants = [numpy_helper.from_array(np.asarray(value), f"{name}{suffix}") for name, value in values.items()]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            constants[::-1] if turned else constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        canonical.rename(model)
        path = tmp_path / f"net{suffix}.onnx"
        path.write_bytes(model.SerializeToString())
        x = np.ones((1, 4), np.float32)
        np.testing.assert_array_equal(Session(path).run(["y"], {"x": x})[0], 2 * x + 1 - x)
        model.graph.initializer.sort(key=lambda tensor: tensor.name)
        return bytes(model.SerializeToString())

    assert net("", turned=False) == net("_7", turned=True)
