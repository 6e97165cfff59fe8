"""Graphs whose weights lie beside them: small networks under a low limit, and with TOPWORK_WHOLE one of more than 2 GiB."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import sample_heads
import tiny_berts
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.heads.export.merge import merge_onnx
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.models import artifacts, fingerprint, onnx_files
from topwork_server.models.artifacts import DEFAULT, MODEL, PARITY_INPUTS, Manifest
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.gpu.optimized_graph import optimized_graph
from topwork_server.runtime.parity import difference, saved_inputs
from topwork_server.runtime.providers import Device
from topwork_server.runtime.quantization.quantize import quantize
from topwork_server.runtime.session import Session
from toys import DynamoLetters, letters_spec

DATA = f"{MODEL}.data"


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "EXTERNAL_FROM", 1000)
    monkeypatch.setattr(onnx_files, "SMALL_CONSTANT", 64)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_berts.write(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def large(source: Path, tmp_path: Path, low_limit: None) -> Path:
    """The artifact of a small BERT that counts as large here."""
    return _exported(source, tmp_path / "large")


def _exported(source: Path, out: Path) -> Path:
    out.mkdir()
    export_encoder(tiny_berts.spec_of(source), source, out)
    return out


def test_weights_beside_the_graph_are_the_same_encoder(source: Path, large: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.undo()
    small = _exported(source, tmp_path / "small")
    one, other = Manifest.read(small), Manifest.read(large)
    assert DATA not in one.files
    assert DATA in other.files
    assert other.taps == one.taps, "fingerprints do not know where weights lie"
    assert other.parameters == one.parameters
    assert (large / MODEL).stat().st_size < (small / MODEL).stat().st_size / 2
    assert (large / DEFAULT).stat().st_size < (small / DEFAULT).stat().st_size / 2, "it shares the weights of the whole graph"
    a, b = Session(small / MODEL), Session(large / MODEL)
    alone = Session(large / DEFAULT)
    for feeds in saved_inputs(large / PARITY_INPUTS):
        for tap, x, y in zip(a.outputs, a.run(a.outputs, feeds), b.run(a.outputs, feeds), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=tap)
        np.testing.assert_array_equal(a.run(["pooled"], feeds)[0], alone.run(["pooled"], feeds)[0])


def test_damaged_weights_are_refused(large: Path) -> None:
    content = bytearray((large / DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (large / DATA).write_bytes(content)
    with pytest.raises(NotReady, match=r"model\.onnx\.data"):
        artifacts.verify(large, Manifest.read(large))


def test_both_exporters_write_weights_beside_the_graph(tmp_path: Path, low_limit: None) -> None:
    export_encoder(letters_spec(encoder=DynamoLetters), Path(), tmp_path)
    feeds = {"codes": np.array([[65, 66, 0]]), "mask": np.array([[1, 1, 0]], np.float32)}
    assert (tmp_path / DATA).exists()
    assert Session(tmp_path / MODEL).run(["mean"], feeds)[0].shape == (1, 8)


def test_a_saved_model_can_be_saved_again(large: Path, tmp_path: Path) -> None:
    model = onnx.load(str(large / MODEL))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        onnx_files.save(model, tmp_path / name / MODEL)
    assert fingerprint.graph_digest(tmp_path / "second" / MODEL) == fingerprint.graph_digest(large / MODEL)
    assert (tmp_path / "first" / DATA).read_bytes() == (tmp_path / "second" / DATA).read_bytes()


def _head(manifest: Manifest):  # type: ignore[no-untyped-def]
    tap = manifest.tap("pooled")
    assert tap is not None
    made = sample_heads.head(task=Task.CLASSIFICATION, tap=tap, pooling=Pooling.ROW, dim=tap.tap.dim, names=("a", "b", "c"))
    return replace(made, encoder="tiny")


def test_a_head_is_exported_with_its_large_trunk(large: Path, tmp_path: Path) -> None:
    head = _head(Manifest.read(large))
    (tmp_path / "head.onnx").write_bytes(sample_heads.graph(head))
    data, _ = merge_onnx(large / MODEL, tmp_path / "head.onnx", head)
    whole = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for feeds in saved_inputs(large / PARITY_INPUTS):
        rows = Session(large / MODEL).run(["pooled"], feeds)[0]
        scores = onnxruntime.InferenceSession((tmp_path / "head.onnx").read_bytes()).run(["scores"], {"rows": rows})[0]
        np.testing.assert_allclose(whole.run(["scores"], feeds)[0], scores, rtol=1e-4, atol=1e-5)


def test_a_trunk_that_no_single_file_holds_is_not_exported(large: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_files, "LARGEST_FILE", 65 << 20)
    monkeypatch.setattr("topwork_server.heads.export.merge.ROOM_FOR_HEAD", (65 << 20) - 1000)
    head = _head(Manifest.read(large))
    (tmp_path / "head.onnx").write_bytes(sample_heads.graph(head))
    with pytest.raises(NotReady, match=r"tiny has .* GB of weights below pooled"):
        merge_onnx(large / MODEL, tmp_path / "head.onnx", head)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_large_graph_is_optimized_for_a_gpu(large: Path, precision: str) -> None:
    made = optimized_graph(large / MODEL, Device("cuda", precision))
    assert onnx_files.data_of(made).exists()
    assert not list(large.glob(".*"))
    plain, session = Session(large / MODEL), Session(made)
    for feeds in saved_inputs(large / PARITY_INPUTS):
        (a,), (b,) = plain.run(["pooled"], feeds), session.run(["pooled"], feeds)
        assert difference(a, b)[1] > 0.999


def test_a_large_graph_is_not_quantized(large: Path, tmp_path: Path, source: Path) -> None:
    entry = CatalogEntry(tiny_berts.spec_of(source), "bert", EncoderState.READY, "", Manifest.read(large), large)
    with pytest.raises(InvalidInput, match="tiny is too large"):
        quantize(entry, None, 0.99, tmp_path / "out.onnx", print)  # type: ignore[arg-type]


@pytest.mark.skipif(not os.environ.get("TOPWORK_WHOLE"), reason="takes minutes and 10 GB: `make test-all`")
def test_an_encoder_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    """Of positions, so that little is computed."""
    source = tiny_berts.write(tmp_path / "source", hidden_size=256, num_hidden_layers=1, max_position_embeddings=2_300_000)
    folder = _exported(source, tmp_path / "out")
    assert (folder / DATA).stat().st_size > onnx_files.LARGEST_FILE
    assert (folder / MODEL).stat().st_size < 32 << 20
    assert Manifest.read(folder).numerics.parity > 0.9999
