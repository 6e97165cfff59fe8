"""A server for the tests of integrations, in a process of its own: their packages may be in another environment than its."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import topwork

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("LANGSMITH_TRACING", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


#: Tests of packages that are only in environments of `make test-integrations`.
OPTIONAL = {
    "test_langchain_standard.py": "langchain_tests",
    "test_llama_index.py": "llama_index",
    "test_llama_index_tei.py": "llama_index",
    "test_datasets.py": "datasets",
    "test_ray.py": "ray",
    "test_fiftyone.py": "secantus",
}
collect_ignore = [file for file, package in OPTIONAL.items() if find_spec(package) is None]
PAGE = Path(__file__).parents[2] / "docs/integrations.md"
#: What the toy server has instead of what the page shows.
NAMES = {"all-minilm-l6-v2": "letters", "clip-vit-base-patch32": "colors"}


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The addresses of a server with the encoders of toy_server.py, of gRPC and of HTTP; $TOPWORK_PYTHON is a Python that has the
    server."""
    command = [os.environ.get("TOPWORK_PYTHON", sys.executable), str(Path(__file__).with_name("toy_server.py"))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with (
        (tmp_path_factory.mktemp("server") / "log").open("w+") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        found = process.stdout.readline().split()
        log.seek(0)
        assert found, log.read()
        yield found
        process.stdin.close()


@pytest.fixture(scope="session")
def server(addresses: list[str]) -> str:
    return addresses[0]


@pytest.fixture(scope="session")
def http_server(addresses: list[str]) -> str:
    return f"http://{addresses[1]}"


@pytest.fixture
def client(server: str) -> Iterator[topwork.Client]:
    with topwork.Client(server) as client:
        yield client


@pytest.fixture
def shown(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Run what docs/integrations.md shows of a module; its variables."""

    def run(module: str) -> dict[str, Any]:
        monkeypatch.setenv("TOPWORK_SERVER", server)
        blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        [block] = [block for block in blocks if f"topwork.integrations.{module} " in block]
        for name, toy in {**NAMES, "127.0.0.1:50051": server}.items():
            block = block.replace(name, toy)
        found: dict[str, Any] = {}
        exec(block, found)
        return found

    return run
