"""An outsider's encoder, kind of index and trainer, really pip-installed: found, served, batched, and held to the contracts."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from passes import of_set
from PIL import Image
from topwork import Client
from topwork_server import Granularity, Metric, Tap
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import ItemBatch, SetDefinition
from topwork_server.features import TapRows
from topwork_server.indexes.index_manager import IndexManager
from topwork_server.indexes.index_types import CreateIndexParams, IndexDescription, IndexState, SearchHits, SearchQuery
from topwork_server.jobs.job_records import JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.types import FingerprintedTap

OUTSIDER = Path(__file__).parents[1] / "outsider"
#: Of the machine, and nothing of this repository.
STRANGERS = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The plugin installed by pip into a folder of its own, which stands on the path as site-packages would."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*command, str(OUTSIDER)], check=True, timeout=120)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "TOPWORK_HOME": str(tmp_path_factory.mktemp("home"))}


def topwork(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "topwork.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_plugins_are_short() -> None:
    assert len((OUTSIDER / "colors.py").read_text().splitlines()) <= 36  # with its blank lines
    assert len((OUTSIDER / "brute.py").read_text().splitlines()) < 60
    assert len((OUTSIDER / "means.py").read_text().splitlines()) < 60


def test_they_are_found_with_their_distribution(environment: dict[str, str]) -> None:
    listed = topwork(environment, "plugins", "--json")
    found = {plugin["name"]: plugin for plugin in json.loads(listed.stdout)}
    assert found["colors"]["distribution"] == "topwork-colors"
    assert found["colors"]["version"] == "1.2.3"
    assert found["colors"]["encoders"] == ["colors"]
    assert found["resnet"]["distribution"] == "topwork-server"
    assert found["brute"]["distribution"] == "topwork-colors"
    assert (found["brute"]["hooks"], found["brute"]["indexes"]) == (["register_indexes"], ["brute"])
    assert (found["means"]["hooks"], found["means"]["trainers"]) == (["register_trainers"], ["nearest-mean"])
    assert found["mlp"]["trainers"] == ["mlp"]
    assert found["colors"]["indexes"] == found["colors"]["trainers"] == []


def test_the_list_names_what_each_brings(environment: dict[str, str]) -> None:
    shown = topwork({**environment, "COLUMNS": "80"}, "plugins").stdout
    assert "brute (topwork-colors 1.2.3)\n  indexes: brute\n  hooks: register_indexes\n" in shown
    assert "means (topwork-colors 1.2.3)\n  trainers: nearest-mean\n  hooks: register_trainers\n" in shown


@pytest.mark.parametrize(
    ("mode", "which"),
    [("prepend", ()), ("importlib", ("-k", "not another_export"))],  # another process imports nothing by pytest's mode
    ids=["prepend", "importlib"],
)
def test_they_pass_the_contracts(environment: dict[str, str], tmp_path: Path, mode: str, which: Sequence[str]) -> None:
    """They are run as a stranger runs them: in a copy of the folder elsewhere, with pytest's own defaults and another of its
    import modes. The first of the tests here that needs the export makes it."""
    folder = Path(shutil.copytree(OUTSIDER, tmp_path / "outsider"))
    stranger = {name: value for name, value in environment.items() if name in STRANGERS}
    stranger |= {"TOPWORK_HOME": environment["TOPWORK_HOME"], "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "pytest", "-q", f"--import-mode={mode}", *which, "contract.py"]
    done = subprocess.run(command, cwd=folder, env=stranger, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout), done.stdout
    assert "skipped" not in done.stdout


def test_what_comes_to_stand_beside_it_in_site_packages_leaves_it_ready(environment: dict[str, str]) -> None:
    ask = """
import os; from pathlib import Path; from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
print(Catalog(PluginRegistry.load(), Path(os.environ["TOPWORK_HOME"])).entry("colors").state)
"""
    command = [sys.executable, "-c", ask]
    assert topwork(environment, "pull", "colors").returncode == 0
    (Path(environment["PYTHONPATH"].split(os.pathsep)[0]) / "unrelated.py").touch()
    assert subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout == "ready\n"


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    command = [sys.executable, "-m", "topwork.cli", "serve", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["address"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_its_kind_of_index_is_built_measured_and_searched(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: asyncio.Runner
) -> None:
    """By what a server is composed of; the build's own process finds the plugin where this one does."""
    monkeypatch.syspath_prepend(environment["PYTHONPATH"].split(os.pathsep)[0])
    tap = FingerprintedTap(Tap("pooled", 8, Granularity.ITEM), "a" * 64)
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)

    async def through() -> tuple[IndexDescription, SearchHits]:
        sets, jobs = FeatureSets(tmp_path / "sets"), JobManager(tmp_path / "jobs", threads=1)
        kept = sets.create(SetDefinition("birds", (tap,)))
        kept.write(ItemBatch([f"bird {i}" for i in range(300)], (TapRows(tap, rows, np.ones(300, np.int64)),))).result()
        indexes = IndexManager(tmp_path / "indexes", sets, jobs, PluginRegistry.load(), 1, lambda: False)
        job = (await indexes.create(CreateIndexParams(of_set("birds"), kind="brute", metric=Metric.L2))).job
        assert (await jobs.wait(job)).state is JobState.DONE
        described, live = await indexes.wait_for_build(of_set("birds")), await indexes.live(of_set("birds"))
        hits = live.search(SearchQuery(rows[7:8], np.zeros(1, np.int64), k=3))
        assert kept.ids_of(hits.keys)[0] == "bird 7"
        for closing in (indexes.close(), jobs.close(), asyncio.to_thread(sets.close)):
            await closing
        return described, hits

    described, hits = runner.run(asyncio.wait_for(through(), 60))
    assert described.state is IndexState.READY
    assert described.facts is not None
    assert (described.facts.kind, described.facts.built, described.facts.recall) == ("brute", "Brute", 1.0)
    np.testing.assert_allclose(hits.scores, np.sort(np.linalg.norm(rows - rows[7], axis=1))[:3], atol=1e-3)


def picture(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (90, 70), color).save(file, "PNG")
    return file.getvalue()


def test_it_is_served_and_batched(address: str) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 20
    with Client(address) as client:
        found = client.embed("colors", [picture(color) for color in colors])
        np.testing.assert_allclose(np.asarray(found).reshape(-1, 3, 16).mean(-1), np.array(colors) / 255, atol=1e-5)
        counters = client.encoder("colors").counters
    assert counters["samples"] == 60
    assert counters["batches"] < 60
