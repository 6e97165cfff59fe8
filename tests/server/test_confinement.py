"""Tests what child processes have of this machine: which variables, how much memory, no network, how long."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from topwork import cli
from topwork_server.jobs import confinement
from topwork_server.jobs.child_processes import ChildProcesses, python

SECRETS = {
    "TOPWORK_API_KEY": "key",
    "AWS_SECRET_ACCESS_KEY": "key",
    "HF_TOKEN": "key",
    "GOOGLE_APPLICATION_CREDENTIALS": "/keys.json",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=key",
    "HTTPS_PROXY": "http://user:key@proxy",
    "PIP_INDEX_URL": "https://user:key@registry/simple",
    "SSH_AUTH_SOCK": "/run/agent",
}
GIB = 1 << 30

#: Tries of a child, and of one that it starts: what each says of its sockets.
TRIES = """
import json, socket, subprocess, sys
def tried(call):
    try:
        call()
    except OSError as error:
        return type(error).__name__
    return "done"
port = int(sys.argv[1])
found = {
    "a server here": tried(lambda: socket.create_connection(("127.0.0.1", port), 5)),
    "a server by IPv6": tried(lambda: socket.socket(socket.AF_INET6).connect(("::1", port))),
    "a name of the hub": tried(lambda: socket.create_connection(("huggingface.co", 443), 5)),
    "a datagram": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))),
    "another process": tried(lambda: socket.socketpair()),
}
if len(sys.argv) == 2:
    again = subprocess.run([sys.executable, __file__, str(port), "inner"], capture_output=True, text=True)
    found["inner"] = json.loads(again.stdout or again.stderr)
print(json.dumps(found))
"""


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """module(code): the name of a module of that code, which children find."""

    def write(code: str) -> str:
        (tmp_path / "confined_module.py").write_text(code)
        return "confined_module"

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return write


def run(module: str, *words: str, memory: int = 0) -> Any:
    ended = ChildProcesses().run([*python(module, memory), *words], seconds=100)
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


def test_children_get_no_keys_and_no_proxies(module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = module("import json, os; print(json.dumps(dict(os.environ)))")
    found = run(told)
    assert not SECRETS.keys() & found.keys()
    assert {"PATH", "HOME", "PYTHONPATH", "OMP_NUM_THREADS"} <= found.keys()
    assert found["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv(confinement.PASSED_ON, "AWS_SECRET_ACCESS_KEY NOT_THERE")
    assert SECRETS.keys() & run(told).keys() == {"AWS_SECRET_ACCESS_KEY"}, "a plugin that needs one may have it"


def test_a_confined_child_has_no_network(module: Callable[[str], str], listener: int) -> None:
    tries = module(TRIES)
    found = run(tries, str(listener), memory=GIB)
    inner = found.pop("inner")
    assert inner == found
    assert found.pop("another process") == "done"
    assert "done" not in found.values(), found
    assert run(tries, str(listener))["a server here"] == "done", "others have it"


def test_where_the_system_has_no_filter_python_connects_to_nothing(module: Callable[[str], str], listener: int) -> None:
    guarded = (
        f"from topwork_server.jobs import confinement; confinement.refuse_sockets = lambda: False; confinement.confine({GIB})"
    )
    found = run(module(f"{guarded}\n{TRIES}"), str(listener), "inner")
    assert found.pop("another process") == "done"
    assert "done" not in found.values(), found


def test_a_confined_child_has_so_much_memory(module: Callable[[str], str]) -> None:
    takes = module(
        "import json\ntry: print(json.dumps(len(bytearray(700 << 20))))\nexcept MemoryError: print(json.dumps('too little'))"
    )
    assert run(takes, memory=GIB) == 700 << 20
    assert run(takes, memory=GIB // 2) == "too little"
    reserves = module("import json, mmap; mmap.mmap(-1, 8 << 30, prot=mmap.PROT_READ); print(json.dumps('reserved'))")
    assert run(reserves, memory=GIB) == "reserved", "address space is no memory"


def graph(path: Path, *nodes: onnx.NodeProto, **constants: Any) -> Path:
    """An ONNX file of arrays (batch, 4) to `y`, with its description."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    path.with_suffix(".toml").write_text('modality = "tensor"\n[taps.y]\noutput = "y"\n')
    return path


def refused(uri: str, home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str, str]:
    """The code, the message and the remedy of a pull; nothing of it is left."""
    assert cli.main(["pull", uri, "--home", str(home), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert [str(path) for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    return record["code"], record["message"], record["remedy"]


def test_an_export_that_asks_for_more_memory_than_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of 300 bytes that fills 64 GiB: it ends the export and no other process."""
    monkeypatch.setenv("TOPWORK_EXPORT_MEMORY", "2GiB")
    net = graph(
        tmp_path / "bomb.onnx",
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        shape=np.array([1 << 17, 1 << 17]),
    )
    code, message, remedy = refused(f"onnx:{net}", tmp_path / "home", capsys)
    assert code == "INTERNAL"
    assert "bomb.onnx needs more memory than 2.0 GiB" in message
    assert "TOPWORK_EXPORT_MEMORY" in remedy


def test_an_export_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A loop of a thousand million million steps."""
    monkeypatch.setenv("TOPWORK_EXPORT_SECONDS", "20")
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
    )
    net = graph(
        tmp_path / "endless.onnx",
        helper.make_node("Loop", ["steps", "", "x"], ["y"], body=body),
        steps=np.array(10**15),
        one=np.float32(1),
    )
    code, message, remedy = refused(f"onnx:{net}", tmp_path / "home", capsys)
    assert code == "INTERNAL"
    assert "endless.onnx took more than 20 s" in message
    assert "TOPWORK_EXPORT_SECONDS" in remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOPWORK_EXPORT_MEMORY", value) for value in ("much", "0", "16GB", "-1GiB")]
    + [("TOPWORK_EXPORT_SECONDS", value) for value in ("long", "0", "nan", "inf")],
)
def test_bounds_that_are_none_are_named(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = graph(tmp_path / "net.onnx", helper.make_node("Neg", ["x"], ["y"]))
    monkeypatch.setenv(name, value)
    code, message, _ = refused(f"onnx:{net}", tmp_path / "home", capsys)
    assert code == "INVALID_ARGUMENT"
    assert f"${name} is {value!r}" in message


def test_jobs_get_no_keys_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: Any) -> None:
    from topwork_server.jobs.job_process import JobProcess

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    process = JobProcess("toy_jobs:environment", {}, 1, lambda fraction, message: None, tmp_path / "scratch")
    found = runner.run(process.run()).result
    assert not SECRETS.keys() & found.keys()
    assert found["TMPDIR"] == str(tmp_path / "scratch")
    assert found["HOME"] == os.environ["HOME"]
