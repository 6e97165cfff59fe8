"""A training whose job is killed, or its server, leaves all of its heads or none, and no encoder without its head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny_berts
import tiny_pictures
import toy_pictures
from fine_tuning_tasks import WORDS
from servers import kill, start
from topwork import Client, HeadInfo
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

COUNT = 24
TUNING = {"epochs": 8, "learning_rate": 1e-3, "head_learning_rate": 0.02}
DETECTION = {"epochs": 300, "width": 16, "layers": 1}


def write_texts(client: Client, home: Path) -> None:
    source = tiny_berts.write(home.parent / "tiny")
    Catalog(PluginRegistry.load(), home).add(f"file:{source}", "tiny")
    random = np.random.default_rng(0)
    items = [" ".join(random.choice(WORDS[n % 2], 4)) for n in range(COUNT)]
    rows = [{"side": "ab"[n % 2], "number": n % 2 + 0.1 * (n % 5), "n": n} for n in range(COUNT)]
    client.write("items", items, [str(n) for n in range(COUNT)], rows, encoder="tiny", keep_inputs=True)


def write_scenes(client: Client, home: Path) -> None:
    source = tiny_pictures.write(tiny_pictures.random_model("vit"), home.parent / "vit")
    Catalog(PluginRegistry.load(), home).add(f"file:{source}", "vit")
    pictures, boxes = toy_pictures.scenes(COUNT)
    client.write("items", pictures, [str(n) for n in range(COUNT)], {"boxes": boxes}, encoder="vit", taps=["patches"])


def tune(client: Client) -> HeadInfo:
    return client.train(
        "items", target="side", name="one", kind="fine-tune", also={"number": 1}, options=TUNING, test_where="n >= 18", wait=False
    )


def detect(client: Client) -> HeadInfo:
    return client.train("items", target="boxes", task="detection", name="one", options=DETECTION, folds=2, wait=False)


def workers(server: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(server).children(recursive=True) if "topwork_server.jobs.worker" in one.cmdline()]


def left(home: Path) -> list[str]:
    """List what there is of heads and of encoders, beside the records of what was added."""
    found = [*(home / "heads").glob("*"), *(home / "encoders").glob("*"), *(home / "jobs").glob("*.scratch")]
    found += [path for path in (home / "artifacts").glob("*") if "one-" in path.name]
    return sorted(path.name for path in found if path.name not in ("tiny.json", "vit.json"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("write", "begin", "moment"), [(write_texts, tune, "exporting"), (write_texts, tune, "epoch"), (write_scenes, detect, "")]
)
def test_a_killed_training_leaves_no_head_and_no_encoder(
    write: Callable[[Client, Path], None], begin: Callable[[Client], HeadInfo], moment: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    server, address = start(home)
    try:
        with Client(address) as client:
            write(client, home)
            job = begin(client).job
            assert job is not None
            assert any(state.fraction > 0.02 and moment in state.message for state in client.watch_job(job.id))
            workers(server.pid)[0].kill()
            assert [*client.watch_job(job.id)][-1].state == "failed"
            assert client.head("one").state == "failed"
            again = begin(client).job
            assert again is not None
            assert any(state.fraction > 0.02 and moment in state.message for state in client.watch_job(again.id))
            children = psutil.Process(server.pid).children(recursive=True)
            kill(server)
        assert psutil.wait_procs(children, timeout=30)[1] == []
        server, address = start(home)
        with Client(address) as client:
            assert {head.state for head in client.heads() if head.name.startswith("one")} == {"failed"}
            assert not {pin for version in client.versions("items") for pin in version.pins}
        assert left(home) == []
    finally:
        kill(server)
