"""Every snippet of docs/doors.md runs as it is written and prints what the page shows, with the packaged weights."""

from __future__ import annotations

import asyncio
import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fake_engine
import pytest
import real_server
from topwork_server.app import ReadyMessage
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_api.plugin_registry import PluginRegistry

PAGE = Path(__file__).parents[1] / "docs/doors.md"
SNIPPETS = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
#: A Python that has Triton's client, which needs another protobuf than the server.
TRITONCLIENT = os.environ.get("TRITONCLIENT")
#: Lines that start, install and fetch what is there when the others run.
THERE = re.compile(r"^(topwork serve|topwork pull|pip install) .*\n", re.MULTILINE)
Start = Callable[[str], ReadyMessage]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the snippets run, with two pictures."""
    folder = tmp_path_factory.mktemp("page")
    for name, picture in (("cat", "chelsea"), ("dog", "coffee")):
        shutil.copy(example_inputs.FOLDER / f"{picture}.jpg", folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def start(weights_home: Path, folder: Path) -> Iterator[Start]:
    """start(default encoder): what a server with the packaged weights says of itself."""
    running: dict[str, ReadyMessage] = {}
    with ExitStack() as stack:

        def start(default: str) -> ReadyMessage:
            if default not in running:
                home = folder / f"home-{default}"
                home.mkdir()
                for part in ("artifacts", "packages"):
                    (home / part).symlink_to(weights_home / part)
                served = real_server.started(home, PluginRegistry.load(), http="127.0.0.1:0", default_encoder=default)
                running[default] = stack.enter_context(served)
            return running[default]

        yield start


def run(number: int, ready: ReadyMessage, folder: Path) -> None:
    """Run a snippet, and compare what it prints with what the page says behind `print`, or in lines of comments of a shell."""
    language, snippet = SNIPPETS[number]
    assert ready.http
    code = snippet.replace("127.0.0.1:8080", ready.http).replace("127.0.0.1:50051", ready.address)
    code = re.sub("^curl ", "curl -sS --fail-with-body ", THERE.sub("", code), flags=re.MULTILINE)
    python = str(TRITONCLIENT) if "tritonclient" in snippet else sys.executable
    command = [python, "-c", code] if language == "python" else ["bash", "-euc", code]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = r"^print\(.*\)  # (.*)$" if language == "python" else r"^# (.*)$"
    expected = "\n".join(re.findall(found, snippet, re.MULTILINE))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert expected, "the page does not say what it prints"
    assert doctest.OutputChecker().check_output(expected, done.stdout, flags), done.stdout


#: Those of hosts that are nowhere; tests/server/doors has what they do.
FETCH = [number for number, (_, snippet) in enumerate(SNIPPETS) if "images.example.com" in snippet]
RANKS = [number for number, (_, snippet) in enumerate(SNIPPETS) if "/rerank" in snippet]


@pytest.mark.weights
@pytest.mark.parametrize("number", [number for number in range(len(SNIPPETS)) if number not in RANKS + FETCH])
def test_a_snippet_prints_what_the_page_shows(number: int, folder: Path, start: Start) -> None:
    _, snippet = SNIPPETS[number]
    if "tritonclient" in snippet and not TRITONCLIENT:
        pytest.skip("$TRITONCLIENT names no Python that has tritonclient: `make test-tritonclient`")
    pictures = "lightly" in snippet or "/v1/embed/" in snippet
    run(number, start("efficientnet-lite0" if pictures else "all-minilm-l6-v2"), folder)


async def test_the_snippet_that_ranks_is_understood(tmp_path: Path) -> None:
    [number] = RANKS  # its model is on the hub: the fake's scores are lengths
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        server.catalog.add_ranker()
        await asyncio.to_thread(run, number, server.ready, tmp_path)
