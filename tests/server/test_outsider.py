"""An outsider's encoder and kind of index, really pip-installed: found, served, batched, and held to the contracts."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from topwork import Client

OUTSIDER = Path(__file__).parents[1] / "outsider"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The plugin installed by pip into a folder of its own, which stands on the path as site-packages would."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*command, str(OUTSIDER)], check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": str(site), "TOPWORK_HOME": str(tmp_path_factory.mktemp("home"))}


def topwork(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "topwork.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_plugins_are_short() -> None:
    assert len((OUTSIDER / "colours.py").read_text().splitlines()) <= 36  # with its blank lines
    assert len((OUTSIDER / "brute.py").read_text().splitlines()) < 60


def test_they_are_found_with_their_distribution(environment: dict[str, str]) -> None:
    listed = topwork(environment, "plugins", "--json")
    found = {plugin["name"]: plugin for plugin in json.loads(listed.stdout)}
    assert found["colours"]["distribution"] == "topwork-colours"
    assert found["colours"]["version"] == "1.2.3"
    assert found["colours"]["encoders"] == ["colours"]
    assert found["resnet"]["distribution"] == "topwork-server"
    assert found["brute"]["distribution"] == "topwork-colours"
    assert (found["brute"]["hooks"], found["brute"]["indexes"]) == (["register_indexes"], ["brute"])
    assert found["colours"]["indexes"] == []


def test_the_table_names_what_each_brings(environment: dict[str, str]) -> None:
    shown = topwork({**environment, "COLUMNS": "200"}, "plugins").stdout
    [line] = [line for line in shown.splitlines() if line.startswith("brute ")]
    assert line.split() == ["brute", "topwork-colours", "1.2.3", "register_indexes", "-", "brute"]


def test_they_pass_the_contracts(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(OUTSIDER / "contract.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "52 passed" in done.stdout


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    command = [sys.executable, "-m", "topwork.cli", "serve", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["address"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def picture(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (90, 70), colour).save(file, "PNG")
    return file.getvalue()


def test_it_is_served_and_batched(address: str) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 20
    with Client(address) as client:
        found = client.embed("colours", [picture(colour) for colour in colours])
        np.testing.assert_allclose(np.asarray(found).reshape(-1, 3, 16).mean(-1), np.array(colours) / 255, atol=1e-5)
        counters = client.encoder("colours").counters
    assert counters["samples"] == 60
    assert counters["batches"] < 60
