"""Records of indexes and jobs that are damaged: listed, refused with DATA_LOSS, kept, and repaired by a drop or a build."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import homes
import numpy as np
import pytest
from homes import lost, serving
from topwork_server.commands.doctor_checks import Grade
from topwork_server.commands.doctor_files import files

ROWS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("records") / "home"
    with homes.served(home) as client:
        client.write("fish", vectors=ROWS, ids=range(12))
        client.create_index("fish", name="one", kind="flat")
        client.create_index("fish", name="two", kind="flat")
    return home


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def another_kind(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "format": 7}))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "another number": another_kind,
    "gone": Path.unlink,
    "another index's": lambda path: path.write_bytes((path.parent.parent / "two" / path.name).read_bytes()),
    "a pipe": pipe_instead,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_definition_of_an_index_is_listed_and_dropped(how: str, whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    path = home / "indexes" / "fish" / "one" / "definition.json"
    DAMAGES[how](path)
    assert str(path) in files(home).detail
    with homes.served(home) as client:
        assert [(one.name, one.state, bool(one.damage)) for one in client.indexes("fish")] == [
            ("one", "failed", True),
            ("two", "ready", False),
        ]
        assert str(path) in client.index("fish", "one").damage
        assert client.set("fish").indexes == ("one", "two")
        assert not serving(client, "index/fish/one")
        assert serving(client, "index/fish/two")
        assert str(path) in lost(lambda: client.search("fish", vectors=ROWS[:1], index="one")).message
        lost(lambda: client.rebuild_index("fish", "one"))
        assert client.search("fish", vectors=ROWS[:1], index="two", k=1)[0].ids == ["0"]
        assert client.search("fish", vectors=ROWS[:1], k=1)[0].ids == ["0"]
        if how == "empty":
            client.create_index("fish", name="one", kind="flat")
            assert client.search("fish", vectors=ROWS[:1], index="one", k=1)[0].ids == ["0"]
        client.drop_index("fish", "one")
        assert [one.name for one in client.indexes("fish")] == ["two"]
    assert files(home).grade is Grade.OK


@pytest.mark.parametrize("how", ["empty", "another number", "a pipe"])
def test_a_damaged_record_of_a_job_is_set_aside(how: str, whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    path = sorted((home / "jobs").glob("*.json"))[0]
    DAMAGES[how](path)
    assert str(path) in files(home).detail
    with homes.served(home) as client:
        assert path.stem not in [job.id for job in client.jobs()]
        assert len(client.jobs()) == 1
        assert str(path) in lost(lambda: client.job(path.stem)).message
        assert [one.state for one in client.indexes("fish")] == ["ready", "ready"]
    aside = path.with_name(f"{path.name}.damaged")
    assert os.path.lexists(aside)
    assert not os.path.lexists(path)
    assert str(aside) in files(home).detail
    assert files(home).grade is Grade.WARN
