"""Pipes, devices and sockets in place of files of the home: neither the start, nor a request, nor the doctor waits for them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import homes
import numpy as np
import pytest
import topwork
from topwork_server.commands.doctor_files import files

#: Seconds after which a call is taken for one that is never answered.
SECONDS = 60.0
ONE = np.ones((1, 8), np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("special") / "home"
    homes.fill(home)
    return home


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # its name may have 100 characters
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


MAKE: dict[str, Callable[[Path], Any]] = {
    "pipes": os.mkfifo,
    "devices": lambda path: path.symlink_to("/dev/zero"),
    "sockets": listen,
}
#: Files of the home but those of sets, and those of the set `birds`.
PARTS = {
    "all but sets": lambda path: path.parts[0] != "sets",
    "a set": lambda path: path.parts[:2] == ("sets", "birds.lance"),
}
ANSWERS = ("", "DataLoss", "NotReady", "NotFound")
CALLS: dict[str, Callable[[topwork.Client], Any]] = {
    "read": lambda c: c.read("birds"),
    "older": lambda c: c.read("birds", version=4),
    "pin": lambda c: c.read("birds", version="first"),
    "versions": lambda c: c.versions("birds"),
    "delete": lambda c: c.delete("birds", ids=["b1"]),
    "prune": lambda c: c.prune("birds", 0),
    "search": lambda c: c.search("birds", vectors=ONE, k=3),
    "index": lambda c: c.index("birds", "mean"),
    "embed": lambda c: c.embed("letters", ["abc"]),
    "predict": lambda c: c.predict("kinds", ["abc"]),
    "report": lambda c: c.report("kinds"),
    "jobs": lambda c: c.jobs(),
    "encoders": lambda c: c.encoders(),
    "heads": lambda c: c.heads(),
    "indexes": lambda c: c.indexes(),
    "sets": lambda c: c.sets(),
}


def outcome(call: Callable[[], Any]) -> str:
    """The class of the error that a call ends with, "" for none."""
    try:
        call()
    except topwork.TopworkError as error:
        return type(error).__name__
    return ""


@pytest.mark.timeout(500)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", MAKE)
def test_nothing_waits_for_what_is_no_file(kind: str, part: str, whole: Path, tmp_path: Path) -> None:
    home = homes.copied(whole, tmp_path / "home")
    for path in [path for path in home.rglob("*") if path.is_file()]:
        if PARTS[part](path.relative_to(home)) and (kind == "pipes" or path.suffix != ".lock"):
            path.unlink()
            MAKE[kind](path)
    files(home)
    with homes.served(home) as served, topwork.Client(served._connection.target, timeout=SECONDS, retry_for=0) as client:
        assert client.read("fish").ids == ["a", "b", "c", "d"]
        for name, call in CALLS.items():
            assert outcome(lambda call=call: call(client)) in ANSWERS, name
        client.write("fish", vectors=homes.FISH[:1], ids=["e"])
