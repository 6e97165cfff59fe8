"""A server that is killed while it pretrains, or whose disk is full, has nothing of the encoder afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from servers import kill, start
from test_disk_full import small_disk  # noqa: F401 (a fixture)
from topwork import Client, JobFailed, NotFound, cli
from topwork_server.jobs.job_records import JobRecords, JobState
from topwork_server.testing.pretrainer import sentences


def remains(home: Path) -> list[Path]:
    """What is left of an encoder, or of its texts."""
    places = ("encoders", "spool", "scratch", "artifacts")
    left = [path for place in places if (home / place).is_dir() for path in (home / place).rglob("*")]
    return [*left, *(home / "jobs").glob("*.scratch")]


def test_a_killed_server_leaves_nothing_half_made(tmp_path: Path) -> None:
    server, address = start(tmp_path)
    with Client(address) as client:
        job = client.pretrain("words", sentences(300), name="mine", options={"min_count": 1, "epochs": 10_000}, wait=False)
        assert any("epoch" in state.message for state in client.watch_job(job.id) if "epoch" in state.message)
        children = psutil.Process(server.pid).children(recursive=True)
        kill(server)
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert remains(tmp_path)  # which the next start deletes
    server, address = start(tmp_path)
    try:
        with Client(address) as client:
            assert client.job(job.id).state == "failed"
            with pytest.raises(NotFound):
                client.encoder("mine")
    finally:
        kill(server)
    assert remains(tmp_path) == []


def test_an_encoder_that_was_ready_when_its_server_was_killed_has_a_job_that_is_done(tmp_path: Path) -> None:
    server, address = start(tmp_path)
    with Client(address) as client:
        client.pretrain("words", sentences(300), name="mine", options={"dim": 8, "epochs": 1, "min_count": 1})
        [done] = client.jobs()
        kill(server)
    records = JobRecords(tmp_path / "jobs")
    [record] = records.load()
    records.save(replace(record, state=JobState.RUNNING, ended=0.0, result={}))
    server, address = start(tmp_path)
    try:
        with Client(address) as client:
            [found] = client.jobs()
            assert (found.state, found.error, found.result) == ("done", "", done.result)
    finally:
        kill(server)


def test_a_full_disk_fails_the_job_and_leaves_nothing(small_disk: Path) -> None:  # noqa: F811
    server, address = start(small_disk)
    try:
        with Client(address) as client:
            texts = [" ".join(f"word{n + i}" for i in range(100)) for n in range(0, 5000, 100)]
            options = {"min_count": 1, "epochs": 1, "dim": 2000}
            with pytest.raises(JobFailed, match="disk is full"):
                client.pretrain("words", texts, name="large", options=options)
            assert client.health() == "serving"
            client.pretrain("words", sentences(300), name="small", options={"dim": 8, "epochs": 1})
            assert np.asarray(client.embed("small", "owl")).shape == (1, 8)
        assert [path for path in remains(small_disk) if "large" in path.name] == []
    finally:
        kill(server)
    assert cli.main(["forget", "small", "--yes", "--home", str(small_disk)]) == 0
    assert [path for path in remains(small_disk) if "small" in path.name] == []
