"""The server is killed, or its disk fills up, while it gives a trunk a text side: head and encoder are both there, or neither."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from captioned_pictures import CAPTIONS, means_net, picture, word_vectors
from servers import kill, start
from test_disk_full import small_disk  # noqa: F401 (a fixture)
from topwork import Client
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

KILLS = int(os.environ.get("TOPWORK_KILLS", "2"))
OPTIONS = {"text_encoder": "words"}
LONGEST = 1.0  # second from the encoder's record to the kill


def align(client: Client, *, wait: bool) -> str:
    return client.train("shades", target="caption", kind="align", name="searcher", options=OPTIONS, replace=True, wait=wait).state


def furnish(home: Path, sources: Path) -> None:
    """Add and export the trunk `graph` and the text encoder `words`."""
    catalog = Catalog(PluginRegistry.load(), home)
    catalog.add(f"file:{word_vectors(sources / 'words.txt')}", "words")
    catalog.add(f"onnx:{means_net(sources / 'graph.onnx')}", "graph")
    for name in catalog.added():
        catalog.export(name)


def write(client: Client) -> None:
    client.write("shades", [picture(caption, 0) for caption in CAPTIONS], CAPTIONS, {"caption": CAPTIONS}, encoder="graph")


def made(home: Path) -> set[str]:
    """The encoders, and the files of maps, that are there."""
    files = {path.name.removesuffix(".map.onnx") for path in (home / "encoders").glob("*.map.onnx")}
    return files | set(Catalog(PluginRegistry.load(), home).fine_tuned())


def standing(client: Client) -> set[str]:
    """The encoder of the head, where it serves; it embeds both."""
    encoders = {str(head.chosen["encoder"]) for head in client.heads() if head.kind == "align" and head.state == "ready"}
    for encoder in encoders:
        for items in ([picture(CAPTIONS[0], 1)], [CAPTIONS[0]]):
            assert client.embed(encoder, items).rows.shape == (1, 10)
    return encoders


@pytest.mark.timeout(240 + 60 * KILLS)
def test_head_and_encoder_are_both_there_or_neither(tmp_path: Path) -> None:
    random = np.random.default_rng(int(os.environ.get("TOPWORK_SEED", "0")))
    home = tmp_path / "home"
    furnish(home, tmp_path)
    server, address = start(home)
    try:
        with Client(address) as client:
            write(client)
        for _ in range(KILLS):
            before = made(home)
            with Client(address) as client:
                align(client, wait=False)
                while made(home) == before:
                    time.sleep(0.01)
            time.sleep(float(random.uniform(0, LONGEST)))  # the moment of the kill is what is random here
            kill(server)
            server, address = start(home)
            with Client(address) as client:
                assert made(home) == standing(client)
        with Client(address) as client:
            assert align(client, wait=True) == "ready"
            assert made(home) == standing(client)
            client.drop_head("searcher")
            assert made(home) == set()
    finally:
        kill(server)


def test_a_full_disk_fails_the_job_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:  # noqa: F811
    """The disk is full as soon as the encoder's record is there: the export, or the head, finds no room."""
    furnish(small_disk, tmp_path)
    server, address = start(small_disk)
    try:
        with Client(address) as client:
            write(client)
            artifacts = set((small_disk / "artifacts").iterdir())
            job = client.train("shades", target="caption", kind="align", name="searcher", options=OPTIONS, wait=False).job
            while not made(small_disk):
                time.sleep(0.005)
            ballast = fill_up(small_disk)
            *_, ended = client.watch_job(job.id)
            assert (ended.state, "disk is full" in (ended.error or "")) == ("failed", True), ended
            assert client.health() == "serving"
            assert (made(small_disk), set((small_disk / "artifacts").iterdir())) == (set(), artifacts)
            ballast.unlink()
            assert align(client, wait=True) == "ready"
            assert made(small_disk) == standing(client)
    finally:
        kill(server)


def fill_up(folder: Path) -> Path:
    """A file that takes all room that is left."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path
