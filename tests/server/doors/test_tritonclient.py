"""The Open Inference Protocol by Triton's own client. It needs another protobuf: `make test-tritonclient` gives it a Python."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import door_heads
import fake_engine
import pytest

PYTHON = os.environ.get("TRITONCLIENT")
SCRIPT = Path(fake_engine.__file__).with_name("triton_calls.py")


@pytest.mark.skipif(not PYTHON, reason="$TRITONCLIENT names no Python that has tritonclient: `make test-tritonclient`")
async def test_both_wires_of_the_client(tmp_path):
    door_heads.publish(tmp_path / "home")
    async with fake_engine.served(tmp_path / "home", http="127.0.0.1:0") as server:
        door_heads.bring(server, tmp_path / "artifact", "mood")
        command = [PYTHON, str(SCRIPT), server.ready.address, server.ready.http]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert [params.role for params, _ in server.engine.asked if params.role] == ["query", "document"] * 2
    for wire, missing, invalid in (("grpc", "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"), ("http", "404", "400")):
        one = told[wire]
        assert one["ready"] == [True, True, True, False]
        assert one["usual"] == [5, 1]
        assert one["shapes"] == [[2, 2, fake_engine.DIM], [2, fake_engine.DIM]]
        assert (one["no model"][0], "nosuch" in one["no model"][1]) == (missing, True)
        assert one["bad"] == [invalid, "item 1: the text is bad (send a good one)"]
        assert (one["roles"], one["no role"][0], "passage" in one["no role"][1]) == ([1, 1], invalid, True)
        assert (one["classes"][0], "classes" in one["classes"][1]) == (invalid, True)
        head = one["head"]
        assert head["labels"] == ["long", "short"]
        assert [row.index(max(row)) for row in head["probabilities"]] == [1, 0]
        assert [found.split(":")[1:] for found in head["ranked"]] == [["1", "long"], ["0", "short"]]
        assert (head["counts"], head["value"], head["answer"]) == ([2, 0], [11], [[[0, 1]]])
        assert (head["ready"], head["pretrained"]) == ([True, True, True], "long")
        assert head["outputs"] == ["probabilities", "labels"]
        assert (head["no output"][0], "labels" in head["no output"][1]) == (missing, True)
    assert [told[wire]["head"]["counted"] for wire in ("grpc", "http")] == [4, 8]
    assert (told["streamed"][0], told["streamed"][2]) == (3, 1)
    assert "the text is bad" in told["streamed"][1]
