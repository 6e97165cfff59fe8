"""A home on a small disk that fills up: writes are refused, nothing that was acknowledged is lost, and the server goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from servers import kill, start
from topwork import Client, DiskFull, cli

ROWS, DIM = 2000, 256


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(client: Client, name: str) -> tuple[int, DiskFull]:
    """Write until the disk is full; how many items were acknowledged, and the refusal."""
    rng = np.random.default_rng(0)
    for done in range(0, 1_000_000, ROWS):
        try:
            ids = [str(i) for i in range(done, done + ROWS)]
            client.write(name, vectors=rng.standard_normal((ROWS, DIM), np.float32), ids=ids)
        except DiskFull as error:
            return done, error
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("room", [0, 60 << 10])
def test_a_pull_says_where_it_is_full(small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], room: int) -> None:
    words, home = tmp_path / "words.vec", small_disk / "home"
    words.write_text("\n".join(["2000 32", *[f"word{i} {' '.join(['0.5'] * 32)}" for i in range(2000)]]))
    home.mkdir()
    with (small_disk / "filler").open("wb") as filler:
        free = shutil.disk_usage(small_disk).free
        os.posix_fallocate(filler.fileno(), 0, free - room)
    assert cli.main(["pull", f"file:{words}", "--name", "mine", "--home", str(home)]) == 1
    told = capfd.readouterr().err
    assert "the disk is full" in told
    assert str(home) in told
    assert "Traceback" not in told
    assert [path for path in home.rglob("*") if path.is_file()] == []
    (small_disk / "filler").unlink()
    assert cli.main(["pull", f"file:{words}", "--name", "mine", "--home", str(home)]) == 0


def test_a_full_disk_refuses_writes_and_nothing_else(small_disk: Path) -> None:
    server, address = start(small_disk)
    try:
        with Client(address) as client:
            first = np.eye(8, DIM, dtype=np.float32)
            client.write("kept", vectors=first, ids=list("abcdefgh"))
            client.create_index("kept", kind="flat")
            done, refusal = fill(client, "filler")
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert done > 0
            assert client.set("filler").items == done
            assert client.search("kept", vectors=first[3], k=1).ids == ["d"]
            assert sorted(client.read("kept").ids) == list("abcdefgh")
            assert client.health() == "serving"
            client.drop_set("filler")
            client.write("kept", vectors=np.full((1, DIM), 1, np.float32), ids=["new"])
            assert client.search("kept", vectors=np.full(DIM, 1, np.float32), k=1).ids == ["new"]
        kill(server)
        server, address = start(small_disk)
        with Client(address) as client:
            assert sorted(client.read("kept").ids) == [*"abcdefgh", "new"]
            assert client.search("kept", vectors=np.full(DIM, 1, np.float32), k=1).ids == ["new"]
    finally:
        kill(server)
