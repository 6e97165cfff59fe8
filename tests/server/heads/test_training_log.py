"""Records of trainings: what a killed server or a full disk leaves of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from topwork_server.heads.head_types import HeadDefinition, Task
from topwork_server.heads.training_log import TrainingLog, TrainingRecord
from topwork_server.types import Modality

DEFINITION = HeadDefinition("one", "birds", 1, "/sets/birds", "label", "linear", Task.CLASSIFICATION, "", {}, Modality.TEXT, ())
PLAIN = TrainingRecord(DEFINITION, "7c41")


def test_a_record_is_read_again_and_what_a_killed_server_left_is_gone(tmp_path: Path) -> None:
    kept = TrainingLog(tmp_path)
    kept.add(PLAIN)
    kept.save("one")
    (tmp_path / ".two.json.7.part").write_text("{")
    again = TrainingLog(tmp_path)
    assert again.names() == ["one"]
    assert again.get("one") == PLAIN
    assert os.listdir(tmp_path) == ["one.json"]


def test_a_full_disk_costs_the_record_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = TrainingLog(tmp_path)
    kept.add(PLAIN)
    monkeypatch.setattr("os.fsync", full)
    kept.save("one")
    assert kept.get("one") == PLAIN
    assert os.listdir(tmp_path) == []
