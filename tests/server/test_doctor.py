"""The doctor: each grade for its cause, and the exit status that follows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import certificates
import fake_engine
import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from topwork_server.commands import doctor, doctor_provider
from topwork_server.commands import doctor_checks as checks
from topwork_server.commands.doctor_checks import Finding, Grade
from topwork_server.commands.doctor_provider import provider
from topwork_server.home_lock import HomeLock
from topwork_server.runtime import providers
from topwork_server.runtime.providers import has_nvidia_gpu


def test_a_whole_installation_has_nothing_to_mend(tmp_path):
    questions = [
        checks.python,
        checks.packages,
        checks.one_onnxruntime,
        checks.video,
        checks.sound,
        checks.pictures,
        checks.plugins,
        checks.faiss,
    ]
    findings = doctor.examine({question.__name__: question for question in questions})
    assert [(f.name, f.grade, f.remedy) for f in findings] == [(q.__name__, Grade.OK, "") for q in questions]


def test_two_runtimes_in_one_folder_are_found(monkeypatch):
    monkeypatch.setattr(checks, "_version", lambda name: "1.31.1")
    finding = checks.one_onnxruntime()
    assert finding.grade is Grade.FAIL
    assert "pip uninstall" in finding.remedy


def test_a_missing_and_an_old_package_are_named(monkeypatch):
    found = {"pluggy": None, "numpy": "1.0"}
    really = checks._version
    monkeypatch.setattr(checks, "_version", lambda name: found[name] if name in found else really(name))
    finding = checks.packages()
    assert finding.grade is Grade.FAIL
    assert "pluggy missing" in finding.detail
    assert "numpy 1.0 (needs ==" in finding.detail


@pytest.mark.skipif(has_nvidia_gpu(), reason="this machine has a GPU")
def test_a_provider_that_only_claims_to_be_there_fails():
    assert provider("cpu") == Finding(Grade.OK, "cpu fp32 ran a graph")
    finding = provider("cuda")
    assert finding.grade is Grade.FAIL
    assert "cuda" in finding.detail
    assert "--provider cpu" in finding.remedy
    assert provider("warp").detail == "there is no provider 'warp'"


def test_of_the_candidates_of_auto_one_must_work(monkeypatch):
    reasons = {"openvino bf16": "no plugin", "openvino fp32": "no plugin", "cpu fp32": ""}
    monkeypatch.setattr(doctor_provider, "imports", lambda code, asked: Finding(Grade.OK, json.dumps(reasons)))
    finding = provider("auto")
    assert (finding.grade, finding.detail) == (Grade.WARN, "cpu fp32 ran a graph; no plugin")
    assert "pip install onnxruntime-ep-openvino" in finding.remedy
    del reasons["cpu fp32"]
    assert provider("openvino").grade is Grade.FAIL


def test_a_processor_that_could_do_more_is_told_of(monkeypatch):
    monkeypatch.setattr(doctor_provider, "imports", lambda code, asked: Finding(Grade.OK, json.dumps({"cpu fp32": ""})))
    monkeypatch.setattr(providers, "openvino_installed", lambda: False)
    monkeypatch.setattr(providers, "has_nvidia_gpu", lambda: False)
    for flags, grade in (({"amx_bf16"}, Grade.WARN), (set(), Grade.OK)):
        monkeypatch.setattr(providers, "cpu_flags", lambda flags=flags: flags)
        assert provider("auto").grade is grade
        assert provider("cpu").grade is Grade.OK, "who asks for it has it"


def test_a_home_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").touch()
    assert checks.home(tmp_path / "file" / "home").grade is Grade.FAIL
    assert checks.home(tmp_path / "new").grade is not Grade.FAIL


def test_lance_is_tried_in_the_home_and_leaves_nothing(tmp_path):
    finding = checks.lance(tmp_path / "home")
    assert finding.grade is Grade.OK, finding
    assert re.fullmatch(r"lance [\d.]+ and pyarrow [\d.]+ wrote, merged and filtered a set", finding.detail)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_library_that_is_not_there_is_to_be_installed(tmp_path, monkeypatch):
    for name in ("lance", "faiss"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError('No module named it')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for finding in (checks.faiss(), checks.lance(tmp_path)):
        assert finding.grade is Grade.FAIL
        assert "pip install topwork-server" in finding.remedy


def test_a_home_where_lance_cannot_write_is_to_be_moved(tmp_path, monkeypatch):
    (tmp_path / "lance.py").write_text("__version__ = '1'\ndef write_dataset(*arguments): raise OSError('not supported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = checks.lance(tmp_path / "home")
    assert (finding.grade, finding.detail) == (Grade.FAIL, "OSError: not supported")
    assert "--home" in finding.remedy


def test_a_home_says_whose_it_is(tmp_path):
    assert checks.lock(tmp_path / "new") == Finding(Grade.OK, f"no server runs on {tmp_path / 'new'}")
    with HomeLock(tmp_path) as held:
        held.listening("127.0.0.1:1")
        finding = checks.lock(tmp_path)
    assert finding.grade is Grade.OK
    assert f"the server with pid {os.getpid()} (listening on 127.0.0.1:1)" in finding.detail
    assert "no server" in checks.lock(tmp_path).detail


def test_a_disk_without_locks_fails(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(95, "Operation not supported")

    (tmp_path / "server.lock").touch()
    monkeypatch.setattr("topwork_server.home_lock.fcntl.flock", unsupported)
    finding = checks.lock(tmp_path)
    assert (finding.grade, finding.detail) == (Grade.FAIL, "server.lock cannot be locked: Operation not supported")
    assert "local disk" in finding.remedy


def test_a_hub_that_is_off_is_fine_and_said(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    finding = checks.hub()
    assert finding.grade is Grade.OK
    assert "off" in finding.detail


def test_a_hub_that_does_not_answer_is_fine_and_said(monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    finding = checks.hub()
    assert finding.grade is Grade.OK
    assert "not reachable" in finding.detail


@pytest.mark.parametrize(("reachable", "grade"), [(True, Grade.OK), (False, Grade.FAIL)])
def test_weights_that_pip_cannot_fetch_fail_where_nothing_is_ready(monkeypatch, tmp_path, reachable, grade):
    asked = []
    monkeypatch.setattr(checks, "_registry_has", lambda package: asked.append(package) or reachable)
    finding = checks.weights(tmp_path)
    assert finding.grade is grade
    assert "absent" in finding.detail
    assert len(asked) == 1
    assert "=" not in asked[0]


def test_the_server_that_clients_are_sent_to_is_looked_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("TOPWORK_SERVER", target)
    finding = doctor._address(None)()
    assert finding.grade is Grade.WARN
    assert target in finding.detail
    assert "TOPWORK_SERVER" in finding.detail
    assert "is free" in doctor._address(target)().detail


async def test_a_server_with_tls_is_looked_for_as_clients_do(monkeypatch, tmp_path):
    made = certificates.pair(tmp_path / "tls")
    async with fake_engine.served(tmp_path / "home", **made.settings) as server:
        monkeypatch.setenv("TOPWORK_SERVER", f"https://{server.ready.address}")
        monkeypatch.delenv("TOPWORK_CA", raising=False)
        finding = await asyncio.to_thread(doctor._address(None))
        assert finding.grade is Grade.WARN
        assert "authority" in finding.detail
        assert "TOPWORK_CA" in finding.remedy
        monkeypatch.setenv("TOPWORK_CA", str(made.ca))
        assert (await asyncio.to_thread(doctor._address(None))).grade is Grade.OK


def test_an_address_is_free_taken_or_ours(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        taken = checks.address(address)
        assert taken.grade is Grade.FAIL
        assert "--listen" in taken.remedy
    assert checks.address(address).grade is Grade.OK
    server = grpc.server(pool := ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("topwork.v1.Encoders", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ours = checks.address(f"127.0.0.1:{port}")
    server.stop(None).wait()
    pool.shutdown()
    assert ours.grade is Grade.OK
    assert "Topwork server answers" in ours.detail


def test_the_address_of_http_is_off_free_or_taken():
    assert checks.http_address("off").grade is Grade.OK
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        stranger.listen()
        threading.Thread(target=_answer_with_nonsense, args=[stranger], daemon=True).start()
        taken = checks.http_address(address)
        assert (taken.grade, "--http" in taken.remedy) == (Grade.FAIL, True)
    assert "is free" in checks.http_address(address).detail


def test_the_usual_address_of_http_may_be_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as stranger, socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = (f"127.0.0.1:{one.getsockname()[1]}" for one in (stranger, other))
        other.close()
        threading.Thread(target=_answer_with_nonsense, args=[stranger], daemon=True).start()
        monkeypatch.setattr(checks, "USUAL_HTTP", (taken, free))
        found = checks.http_address("")
    assert (found.grade, taken in found.detail, "next free port" in found.remedy) == (Grade.WARN, True, True)


def _answer_with_nonsense(server):
    caller, _ = server.accept()
    with caller:
        caller.recv(1000)
        caller.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]")


def test_a_check_that_breaks_is_a_finding():
    def broken():
        raise ValueError("boom")

    assert doctor.examine({"x": broken}) == [Finding(Grade.FAIL, "ValueError: boom", name="x")]


@pytest.mark.parametrize(("grade", "status"), [(Grade.OK, 0), (Grade.WARN, 0), (Grade.FAIL, 1)])
def test_the_worst_finding_decides_the_exit_status(monkeypatch, capsys, tmp_path, grade, status):
    monkeypatch.setattr(doctor, "examine", lambda questions: [Finding(grade, "[detail]", "fix [it]", "thing")])
    arguments = SimpleNamespace(home=tmp_path, listen=None, provider="auto", json=True)
    assert doctor.run(arguments) == status
    assert json.loads(capsys.readouterr().out) == [
        {"grade": grade.value, "detail": "[detail]", "remedy": "fix [it]", "name": "thing"}
    ]
    arguments.json = False
    assert doctor.run(arguments) == status
    shown = capsys.readouterr().out
    assert "[detail]" in shown
    assert "fix [it]" in shown
