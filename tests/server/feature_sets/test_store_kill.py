"""kill -9 while writing: what was acknowledged is there once, nothing is half there, and the set takes writes again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from killed_writer import IN_FLIGHT, state
from passes import of_set
from sample_batches import DIM, everything, wanted
from topwork_server.feature_sets.set_registry import FeatureSets

ROUNDS = 4


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    sets = FeatureSets(tmp_path)
    sets.create(wanted("birds"))
    sets.close()
    done = 0
    for number in range(ROUNDS):
        acknowledged = write_until_killed(tmp_path, done, 10 + 7 * number)
        done = check(tmp_path, acknowledged + 1)


def write_until_killed(folder: Path, start: int, count: int) -> int:
    """The last operation that was acknowledged."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "killed_writer", str(folder), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        heard = [int(child.stdout.readline()) for _ in range(count)]
        child.kill()
        heard += [int(line) for line in child.stdout.read().splitlines()]
    assert heard == list(range(start, start + len(heard)))
    return heard[-1]


def check(folder: Path, acknowledged: int) -> int:
    """Operations are committed in their order, so the set is as some whole number of them left it: how many."""
    sets = FeatureSets(folder)
    birds = sets.get(of_set("birds"))
    found = everything(birds)
    numbers = {id: item["number"] for id, item in found.items()}
    possible = [count for count in range(acknowledged, acknowledged + IN_FLIGHT + 1) if state(range(count)) == numbers]
    assert possible, f"after {acknowledged} acknowledged operations: {numbers}"
    for id, item in found.items():
        np.testing.assert_array_equal(item["rows"], np.full((1, DIM), item["number"]), err_msg=id)
    assert sorted(birds.ids_of(birds.keys()[1]), key=str) == sorted(found)
    sets.close()
    return possible[0]
