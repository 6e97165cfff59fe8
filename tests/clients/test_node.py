"""The example in Node: what the protos and the docs say is all that a client in another language needs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import real_server
import sets_harness
import topwork
from toys import FakePlugins

NODE = Path(__file__).parents[2] / "clients" / "node"


@pytest.mark.skipif(not shutil.which("node") or not shutil.which("npm"), reason="Node is not here")
def test_the_example_in_node_embeds_and_reads_the_details_of_an_error(tmp_path):
    assert (NODE / "node_modules").exists(), "run `make node`"
    home = sets_harness.lent(tmp_path / "home", sets_harness.export(tmp_path / "exported"))
    with real_server.served(home, FakePlugins(sets_harness.SPECS)) as address, topwork.Client(address) as client:
        command = ["node", str(NODE / "embed.mjs"), address, "letters"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        embedded, refused = (json.loads(line) for line in ended.stdout.splitlines())
        row = client.embed("letters", ["a red bird"])
    assert embedded["shape"] == [2, 8]
    assert embedded["first"] == pytest.approx(float(row[0][0]))
    assert refused["code"] == 5
    assert refused["details"][0]["reason"] == "NotFound"
    assert refused["details"][0]["domain"] == "topwork"
