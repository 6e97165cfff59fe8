"""int8 encoders: what is refused, how ranges and islands are found, and a whole one, made, exported and forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from small_nets import as_on_the_hub, random_net
from topwork import cli
from topwork_server.commands import quantize_encoder
from topwork_server.models import artifacts, unfinished
from topwork_server.models.artifacts import MODEL, Manifest
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.quantization.calibration_ranges import BINS, Histogram
from topwork_server.runtime.quantization.quantize import fp32_prefixes
from topwork_server.runtime.session import Session
from topwork_server.types import Numerics


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 crops of real photographs, and what is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    photographs = [Image.open(BytesIO(picture.data)).convert("RGB") for picture in example_inputs.pictures()]
    for i in range(40):
        photograph = photographs[i % len(photographs)]
        side = min(photograph.size) // 2
        x, y = (int(chance.integers(0, length - side + 1)) for length in photograph.size)
        photograph.crop((x, y, x + side, y + side)).save(folder / f"{i:02}.jpg")
    (folder / "notes.txt").write_text("no picture")
    (folder / "00-broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    return folder


#: Of timm's own small network for tests.
CONVOLUTIONS = 15


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the encoder `small`, exported here: a process of its own would first have to import torch."""
    folder = tmp_path_factory.mktemp("home")
    weights = as_on_the_hub(random_net("test_resnet"), tmp_path_factory.mktemp("weights") / "small")
    catalog = Catalog(PluginRegistry.load(), folder)
    catalog.add(f"file:{weights}", "small")
    spec = catalog.spec("small")
    artifacts.publish(folder, spec, partial(export_encoder, spec, weights))
    return folder


def topwork(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    status = cli.main([*map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_an_int8_encoder_is_made_served_and_forgotten(home: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = topwork(capsys, "quantize", "small", "--calibrate", pictures, "--home", home, "--parity", "0.9")
    assert status == 0, answer
    assert (answer["name"], answer["learned_from"], answer["evaluated_on"]) == ("small-int8", 30, 10)
    assert list(answer["refused"]) == [str(pictures / "00-broken.jpg")]
    catalog = Catalog(PluginRegistry.load(), home)
    made, base = catalog.entry("small-int8"), catalog.entry("small")
    assert made.state is EncoderState.READY
    assert made.folder
    assert base.folder
    _check_apart(Manifest.read(made.folder), Manifest.read(base.folder))
    _check_integers(made.folder / MODEL, CONVOLUTIONS - answer["fp32_convolutions"])
    assert _agreement(base.folder, made.folder) > 0.9

    assert topwork(capsys, "quantize", "small", "--calibrate", pictures, "--home", home)[1]["code"] == "ALREADY_EXISTS"
    again = topwork(capsys, "quantize", "small-int8", "--calibrate", pictures, "--home", home)[1]
    assert "is int8 already" in again["message"]
    assert "stand the encoder small-int8" in topwork(capsys, "forget", "small", "--home", home)[1]["message"]
    assert topwork(capsys, "forget", "small-int8", "--yes", "--home", home) == (0, {"forgotten": "small-int8"})
    assert catalog.names()[-1] == "small"
    assert [path.name for path in home.rglob("*int8*")] == []


def _check_apart(made: Manifest, base: Manifest) -> None:
    assert made.numerics.provider == "cpu"
    assert made.numerics.precision == "int8"
    assert made.numerics.mixes
    assert 0.5 < made.numerics.parity < 0.99999
    assert made.reference == base.reference
    assert made.parameters == base.parameters
    assert [info.tap for info in made.taps] == [info.tap for info in base.taps]
    assert not {info.fingerprint for info in made.taps} & {info.fingerprint for info in base.taps}
    assert made.bytes < base.bytes / 2


def _check_integers(model: Path, convolutions: int) -> None:
    graph = onnx.load(str(model)).graph
    kinds = [node.op_type for node in graph.node]
    assert convolutions > CONVOLUTIONS / 2
    assert kinds.count("QuantizeLinear") >= convolutions
    int8 = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4]
    assert len(int8) == convolutions, "the weights are stored in 8 bits"


def _agreement(base: Path, made: Path) -> float:
    """Least cosine of `pooled` on the inputs that the export kept."""
    with np.load(base / "parity.npz") as kept:
        feeds = [{"pictures": kept[key]} for key in kept]
    sessions = [Session(folder / MODEL, 1) for folder in (base, made)]
    pairs = [[session.run(["pooled"], feed)[0][0] for session in sessions] for feed in feeds]
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)


def test_a_failed_export_leaves_no_name(
    home: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Catalog.export

    def export(self: Catalog, name: str, **kwargs: Any) -> Path:
        if name == "doomed":
            raise KeyboardInterrupt
        return real(self, name, **kwargs)

    monkeypatch.setattr(Catalog, "export", export)
    monkeypatch.setattr(quantize_encoder, "quantize", _fake_make)
    words = ("quantize", "small", "--name", "doomed", "--calibrate", pictures, "--home", home, "--json")
    assert cli.main([str(word) for word in words]) == 130
    capsys.readouterr()
    assert "doomed" not in Catalog(PluginRegistry.load(), home).names()
    assert list(home.rglob("doomed*")) == []


#: `topwork quantize`, up to where the encoder is remembered and being exported.
HELD = """
import sys, tempfile, threading
from types import SimpleNamespace
from topwork import cli
from topwork_server.commands import quantize_encoder
from topwork_server.models.catalog import Catalog
from topwork_server.runtime.parity import ParityRecord
from topwork_server.types import Numerics

def make(entry, material, floor, out, say):
    out.write_bytes(b"graph")
    tempfile.mkdtemp()
    parity = ParityRecord(Numerics("cpu", "int8", 0.99, 0.1), {"pooled": {"min_cosine": 0.99, "max_abs_error": 0.1}})
    return SimpleNamespace(parity=parity, fp32_convolutions=0, convolutions=9, narrow=False)

def export(self, name):
    print("exporting", flush=True)
    threading.Event().wait()

quantize_encoder._ready = lambda catalog, name, say: SimpleNamespace(spec=catalog.spec(name))
quantize_encoder._material = lambda entry, arguments, say: SimpleNamespace(calibration=(), evaluation=(), refused={})
quantize_encoder.quantize, Catalog.export = make, export
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_killed_leaves_neither_an_encoder_nor_files(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    command = [sys.executable, "-c", HELD, "quantize", "small", "--calibrate", tmp_path, "--home", home, "--name", "killed"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "exporting\n"
        assert "killed" in Catalog(PluginRegistry.load(), home).names()
        process.send_signal(number)
        assert process.wait(60) != 0
    assert cli.main(["prune", "--dry-run", "--home", str(home)]) == 0  # any verb that looks at encoders
    capsys.readouterr()
    assert "killed" not in Catalog(PluginRegistry.load(), home).names()
    assert [path for path in home.rglob("*") if "killed" in path.name or path.name.startswith(unfinished.MAKING)] == []
    assert list(tmp_path.iterdir()) == []


def _fake_make(entry: Any, material: Any, floor: float, out: Path, say: Callable[[str], None]) -> Any:
    from topwork_server.runtime.parity import ParityRecord
    from topwork_server.runtime.quantization.quantize import QuantizationResult

    out.write_bytes(b"graph")
    return QuantizationResult(
        ParityRecord(Numerics("cpu", "int8", 0.99, 0.1), {"pooled": {"min_cosine": 0.99, "max_abs_error": 0.1}}), 1.0, 0, 9, False
    )


def test_a_parity_that_cannot_be_reached_is_refused_with_the_best(
    home: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = topwork(capsys, "quantize", "small", "--calibrate", pictures, "--home", home, "--parity", "0.99999")
    assert status == 1
    assert "at best, and 0.99999 was asked for" in answer["message"]
    assert "small-int8" not in Catalog(PluginRegistry.load(), home).names()


@pytest.mark.parametrize(
    ("encoder", "files", "message"),
    [
        ("all-minilm-l6-v2", 0, "all-minilm-l6-v2 reads text, and int8 is for convolutional networks"),
        ("glove-6b-50d", 0, "glove-6b-50d reads text"),
        ("small", None, "is not a folder"),
        ("small", 0, "has no pictures"),
        ("small", 5, "has 0 pictures that can be read, and 32 are the fewest; refused were 0.png (4 bytes are not a picture"),
        ("nothing", 0, "there is no encoder 'nothing'"),
    ],
)
def test_what_cannot_be_quantized_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoder: str, files: int | None, message: str
) -> None:
    folder = tmp_path / "pictures"
    if files is not None:
        folder.mkdir()
    for i in range(files or 0):
        (folder / f"{i}.png").write_bytes(b"none")
    status, error = topwork(capsys, "quantize", encoder, "--calibrate", folder, "--home", home)
    assert (status, error["remedy"] != "") == (1, True)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--name", "a b/c"), "'a b/c' cannot name an encoder"), (("--most", "5"), "5 pictures are too few")],
)
def test_what_is_asked_is_checked_before_anything_is_made(
    home: Path, pictures: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str], message: str
) -> None:
    status, error = topwork(capsys, "quantize", "small", "--calibrate", pictures, "--home", home, *words)
    assert (status, error["message"]) == (1, message)


def test_two_at_once_take_turns(home: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    other = ExitStack()
    other.enter_context(unfinished.quantization_lock(home / "encoders", lines.append))

    def say(text: str) -> None:
        lines.append(text)
        other.close()  # the other ends

    with unfinished.quantization_lock(home / "encoders", say):
        assert lines == ["waiting for another `topwork quantize` to end"]
    with unfinished.quantization_lock(home / "encoders", lines.append):
        assert len(lines) == 1


def test_a_range_leaves_rare_large_values_out_and_keeps_zero_in() -> None:
    chance = np.random.default_rng(0)
    values = np.append(np.abs(chance.standard_normal(300_000)), np.full(3, 60.0)).astype(np.float32)
    histogram = Histogram(float(values.min()), float(values.max()), np.zeros(BINS, np.int64))
    histogram.add(values)
    low, high = histogram.best_range()
    assert low == 0.0
    assert 3.0 < high < 55.0
    flat = Histogram(2.0, 2.0, np.zeros(BINS, np.int64))
    flat.add(np.full(9, 2.0, np.float32))
    assert flat.best_range()[0] <= 0.0 <= flat.best_range()[1]


def chain(path: Path, kinds: Sequence[tuple[str, list[str], str]]) -> Path:
    nodes = [helper.make_node(kind, inputs, [out], name=f"{i}.{kind}") for i, (kind, inputs, out) in enumerate(kinds)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", kinds[-1][2]))
    onnx.save(helper.make_model(helper.make_graph(nodes, "chain", [x], [y])), str(path))
    return path


def test_islands_end_where_one_tensor_goes_on(tmp_path: Path) -> None:
    stem = [("Conv", ["x", "w"], "a"), ("Relu", ["a"], "b"), ("MaxPool", ["b"], "c")]
    block = [("Conv", ["c", "w"], "d"), ("Add", ["c", "d"], "e"), ("Relu", ["e"], "f")]
    rest = [("Conv", [f"f{i}" if i else "f", "w"], f"f{i + 1}") for i in range(4)]
    found = list(fp32_prefixes(chain(tmp_path / "chain.onnx", [*stem, *block, *rest]), "f4"))
    assert [len(names) for names in found] == [0, 2, 6], "not behind a pool, nor within a block, nor before its ReLU"
    assert found[1] == ["0.Conv", "1.Relu"]
