"""A machine on which OpenVINO's plugin is installed and finds no CPU, as on an AMD: said once, and nothing is measured on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from topwork import Client
from topwork_server.errors import StartError
from topwork_server.runtime import openvino_session, providers

#: Stands before the real plugin on the path. Listing is what fails on such a machine, not the import.
LISTS_NO_CPU = """
import onnxruntime
onnxruntime.register_execution_provider_library = lambda name, path: None
onnxruntime.get_ep_devices = lambda: []
def get_library_path(): return "a library"
"""
CANNOT_BE_LOADED = "raise OSError('libopenvino.so: cannot open shared object file')"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "onnxruntime_ep_openvino.py").write_text(LISTS_NO_CPU)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.weights
@pytest.mark.skipif(providers.has_nvidia_gpu(), reason="auto takes the GPU")
def test_the_server_computes_on_the_cpu_and_says_so_once(environment: dict[str, str], weights_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "topwork.cli", "serve", "--listen", "127.0.0.1:0", "--json"]
    environment |= {"TOPWORK_HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    for folder in ("artifacts", "packages"):
        (tmp_path / "home" / folder).symlink_to(weights_home / folder)
    pipes = {"stdout": subprocess.PIPE, "stderr": log.open("w")}
    with pipes["stderr"], subprocess.Popen(command, env=environment, text=True, **pipes) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        with Client(ready["address"]) as client:
            assert client.embed("all-minilm-l6-v2", ["a red bird"]).numerics.provider == "cpu"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert ready["provider"] == "cpu"
    lines = [line for line in log.read_text().splitlines() if "openvino" in line]
    assert len(lines) == 1, lines
    assert "finds no CPU" in lines[0]
    assert "measuring" not in log.read_text()


@pytest.mark.skipif(providers.has_nvidia_gpu(), reason="auto takes the GPU")
def test_doctor_says_why_it_is_left_out(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "topwork.cli", "doctor", "--json"]
    environment |= {"TOPWORK_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout, done.stderr
    [finding] = [f for f in json.loads(done.stdout) if "ran a graph" in f["detail"]]
    assert finding["grade"] == "ok", finding
    assert "finds no CPU" in finding["detail"]


def test_asked_for_by_name_it_ends_the_start(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "topwork.cli", "serve", "--listen", "127.0.0.1:0", "--provider", "openvino"]
    environment |= {"TOPWORK_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "finds no CPU" in done.stderr
    assert "--provider cpu" in done.stderr


def test_a_plugin_that_cannot_be_loaded_is_left_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime_ep_openvino.py").write_text(CANNOT_BE_LOADED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(providers, "openvino_installed", lambda: True)
    monkeypatch.setattr(providers, "openvino_fault", providers.openvino_fault.__wrapped__)
    assert not providers.has_openvino()
    assert "libopenvino.so" in providers.openvino_fault()


@pytest.mark.skipif(not providers.openvino_installed(), reason="the plugin is not installed")
def test_asking_twice_registers_the_library_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
    for _ in range(2):
        with pytest.raises(StartError, match="finds no CPU"):
            openvino_session._cpu()
