"""A pin whose file is not what was written: named, believed in nothing, and nothing is pruned until it is removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import homes
import pytest
import topwork
from homes import lost, serving
from topwork_server.commands.doctor_checks import Grade
from topwork_server.commands.doctor_files import files
from topwork_server.feature_sets import lance_layout

IDS = ["a", "b", "c", "d"]


def another_version(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "version": 4}))


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def no_folder(path: Path) -> None:
    for pin in path.parent.iterdir():
        pin.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "another version": another_version,
    "a version that is not there": lambda path: path.write_text('{"version": 99}'),
    "empty": lambda path: path.write_bytes(b""),
    "open": lambda path: path.write_text("{"),
    "gone": Path.unlink,
    "another pin's": lambda path: path.write_bytes(path.with_name("later.json").read_bytes()),
    "a pipe": pipe_instead,
    "a folder": folder_instead,
    "a file for the folder": no_folder,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of versions 1 to 6, of which 2 is pinned as `first` and 3 as `later`."""
    home = tmp_path_factory.mktemp("pins") / "home"
    with homes.served(home) as client:
        client.write("fish", vectors=homes.FISH, ids=IDS)
        client.pin("fish", "first")
        for id in IDS[:3]:
            client.delete("fish", ids=[id])
            if id == "a":
                client.pin("fish", "later")
        client.write("fowl", vectors=homes.FISH, ids=IDS)
    return home


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return DAMAGES[request.param]


def pin_of(home: Path) -> Path:
    return home / "sets" / "fish.lance" / lance_layout.tag_file("first")


def check_named(client: topwork.Client, home: Path) -> None:
    error = lost(lambda: client.read("fish", version="first"))
    assert str(pin_of(home)) in error.message
    assert "'first'" in error.message
    assert "UnpinVersion(fish, first)" in error.remedy
    listed = {info.version: info.damaged_pins for info in client.versions("fish")}
    assert listed[2][:1] == ("first",)
    assert all("first" not in info.pins for info in client.versions("fish"))
    assert "first" in client.set("fish").damage
    assert not serving(client, "set/fish")
    assert serving(client, "set/fowl")


def test_a_damaged_pin_is_named_and_keeps_what_it_kept(damage: Callable[[Path], Any], whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    damage(pin_of(home))
    assert str(pin_of(home)) in files(home).detail
    assert files(home).grade is Grade.FAIL
    with homes.served(home) as client:
        check_named(client, home)
        assert "'first'" in lost(lambda: client.prune("fish", 0)).message
        assert client.read("fish", version=2).ids == IDS
        assert client.read("fish").ids == ["d"]
        client.write("fish", vectors=homes.FISH[:1], ids=["e"])
        client.pin("fish", "new")
        assert client.read("fish", version="new").ids == ["d", "e"]
        for pin in [pin for info in client.versions("fish") for pin in info.damaged_pins]:
            client.unpin("fish", pin)
        client.pin("fish", "first", 2)
        client.prune("fish", 0)
        assert client.read("fish", version="first").ids == IDS
        assert serving(client, "set/fish")
    assert files(home).grade is Grade.OK


def test_a_pin_that_is_damaged_under_a_server_is_found_by_the_next_call(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    with homes.served(home) as client:
        assert client.read("fish", version="first").ids == IDS
        kept = pin_of(home).read_bytes()
        another_version(pin_of(home))
        check_named(client, home)
        lost(lambda: client.prune("fish", 0))
        pin_of(home).write_bytes(kept)
        assert client.read("fish", version="first").ids == IDS
        assert serving(client, "set/fish")


def test_a_pinned_version_whose_manifest_is_gone_is_damage_of_the_pin(whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    (home / "sets" / "fish.lance" / lance_layout.manifest_name(2)).unlink()
    with homes.served(home) as client:
        assert "version 2" in lost(lambda: client.read("fish", version="first")).message
        lost(lambda: client.prune("fish", 0))
        client.unpin("fish", "first")
        client.prune("fish", 0)
        assert client.read("fish").ids == ["d"]
