"""A server trains on a tiny CLIP that was pulled from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import real_server
import tiny_clips
import topwork
from topwork_server.plugin_api.plugin_registry import PluginRegistry


def test_the_tower_of_pictures_is_fine_tuned_alone(tmp_path: Path) -> None:
    """What is tuned has left the space: it reads pictures alone."""
    random, classes = np.random.default_rng(0), np.arange(24) % 2
    pictures = random.integers(0, 60, (24, 32, 32, 3), np.uint8)
    pictures[classes == 1, :16] += 180
    ids, labels = [f"p{i}" for i in range(24)], [{"kind": "bright" if one else "dark"} for one in classes]
    with real_server.served(tiny_clips.pulled(tmp_path), PluginRegistry.load()) as address, topwork.Client(address) as client:
        client.write("squares", list(pictures), ids, labels, encoder="tiny", keep_inputs=True)
        head = client.train("squares", target="kind", kind="fine-tune", options={"epochs": 2})
        assert client.encoder(head.encoder).reads == "image"
        assert len(client.predict(head.name, list(pictures[:3])).labels) == 3
        with pytest.raises(topwork.InvalidInput):
            client.predict(head.name, ["a text"])
