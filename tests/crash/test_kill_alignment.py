"""The server is killed while it gives a trunk a text side: the head and its encoder are both there, or nothing of either is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from captioned_pictures import CAPTIONS, means_net, picture, word_vectors
from servers import kill, start
from topwork import Client
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

KILLS = int(os.environ.get("TOPWORK_KILLS", "2"))
LONGEST = 1.0  # second from the encoder's record to the kill


def align(client: Client, *, wait: bool) -> str:
    options = {"text_encoder": "words"}
    return client.train("shades", target="caption", kind="align", name="searcher", options=options, replace=True, wait=wait).state


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
    catalog = Catalog(PluginRegistry.load(), home)
    catalog.add(f"file:{word_vectors(tmp_path / 'words.txt')}", "words")
    catalog.add(f"onnx:{means_net(tmp_path / 'graph.onnx')}", "graph")
    for name in catalog.added():
        catalog.export(name)
    server, address = start(home)
    try:
        with Client(address) as client:
            pictures = [picture(caption, 0) for caption in CAPTIONS]
            client.write("shades", pictures, CAPTIONS, {"caption": CAPTIONS}, encoder="graph")
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
