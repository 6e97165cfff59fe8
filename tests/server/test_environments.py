"""Environments of other libraries, made by pip of wheels that lie in a folder of the test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from topwork_server import Environment
from topwork_server.errors import DiskFull, NotReady
from topwork_server.plugin_api import environments

TINY = Environment("tiny", ("tiny_library==1.0",), download=1, megabytes=1)
MAKE = """
import sys
from pathlib import Path
from topwork_server import Environment
Environment("tiny", ("tiny_library==1.0",), download=1, megabytes=1).make(Path(sys.argv[1]), lambda done, total: None)
"""


def write_wheel(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "tiny_library-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_library.py", "ANSWER = 42\n")
        wheel.writestr("tiny_library-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-library\nVersion: 1.0\n")
        wheel.writestr("tiny_library-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny_library-1.0.dist-info/RECORD", "")


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip finds wheels in; it asks no index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("TOPWORK_HOME", str(tmp_path / "home"))
    write_wheel(tmp_path / "wheels")
    return tmp_path / "wheels"


def make(home: Path) -> None:
    TINY.make(home, lambda done, total: None)


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "environments").iterdir())


def answer() -> str:
    """Return what the environment's Python prints of the library, from where it lies now."""
    code = "import tiny_library; print(tiny_library.ANSWER)"
    return subprocess.run([TINY.python(), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_made_once_beside_ours(tmp_path: Path, wheels: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(NotReady, match="an environment with tiny") as caught:
        TINY.python()
    assert "topwork pull" in caught.value.remedy
    make(home)
    assert answer() == "42"
    for path in wheels.iterdir():
        path.unlink()
    make(home)  # asks pip for nothing
    assert left(home) == [TINY.folder(home).name]
    with pytest.raises(ImportError):
        __import__("tiny_library")


def test_other_packages_are_another_environment(tmp_path: Path) -> None:
    newer = Environment("tiny", ("tiny_library==2.0",), download=1, megabytes=1)
    assert newer.folder(tmp_path) != TINY.folder(tmp_path)


def test_a_package_that_is_not_to_be_had(tmp_path: Path, wheels: Path) -> None:
    next(wheels.iterdir()).unlink()
    with pytest.raises(NotReady, match=r"No matching distribution found for tiny_library==1\.0"):
        make(tmp_path / "home")
    assert left(tmp_path / "home") == []


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "1", "no_proxy": "*"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(NotReady, match=r"it has no connection: .*refused") as caught:
        make(tmp_path / "home")
    assert "copy $TOPWORK_HOME/environments" in caught.value.remedy
    assert left(tmp_path / "home") == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Could not install packages due to an OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(environments, "run_pip", lambda *arguments: words)
    with pytest.raises(DiskFull, match="the environment tiny"):
        make(tmp_path / "home")
    assert left(tmp_path / "home") == []


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_one_that_is_killed_is_made_again(tmp_path: Path, wheels: Path, how: str) -> None:
    home = tmp_path / "home"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = {"PIP_INDEX_URL": f"http://127.0.0.1:{mute.getsockname()[1]}/simple", "no_proxy": "*"}
        environment = {name: value for name, value in os.environ.items() if name not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
        with subprocess.Popen([sys.executable, "-c", MAKE, home], env=environment | settings) as maker:
            mute.settimeout(60)
            connection, _ = mute.accept()  # pip waits for an answer
            children = psutil.Process(maker.pid).children()
            getattr(maker, how)()
        assert children
        assert not psutil.wait_procs(children, 20)[1]
        connection.close()
    assert any(name.endswith(".part") for name in left(home))
    make(home)
    assert answer() == "42"
    assert [name for name in left(home) if not name.endswith(".lock")] == [TINY.folder(home).name]


def test_pip_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topwork_server.plugin_api.pip_command.PATIENCE", 2.0)
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{mute.getsockname()[1]}/simple")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        with pytest.raises(NotReady, match="pip took more than 2 s"):
            make(tmp_path / "home")
    assert time.monotonic() - begun < 15
