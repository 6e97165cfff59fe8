"""Jobs: what a process of their own says, how it ends in each way, and what the disk remembers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from topwork_server.errors import NotFound, Unavailable
from topwork_server.jobs import job_process
from topwork_server.jobs import manager as jobs_module
from topwork_server.jobs.job_records import JobRecord, JobRecords, JobState
from topwork_server.jobs.manager import JobManager

TOYS = Path(__file__).parents[1]


@pytest.fixture
def run(runner):
    """run(coroutine): on the test's loop, with a limit."""
    return lambda coroutine: runner.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture
def jobs(tmp_path, run):
    jobs = JobManager(tmp_path / "jobs", threads=3)
    yield jobs
    run(jobs.close())


def start(jobs: JobManager, name: str, kind: str = "toy", subject: str = "birds/pooled", **arguments: object) -> JobRecord:
    return jobs.start(kind, subject, f"toy_jobs:{name}", arguments)


def asked(jobs: JobManager, name: str, **arguments: object):
    """The job that runs, and then has ended."""

    async def through():
        return await jobs.wait(start(jobs, name, **arguments).id)

    return through()


async def holding(jobs: JobManager, name: str = "hold", **arguments: object) -> tuple[JobRecord, list[int]]:
    """A job that holds for ever, and the pids that it tells."""
    job = start(jobs, name, **arguments)
    async with aclosing(jobs.watch(job.id)) as states:
        async for job in states:
            if job.message.startswith("holding"):
                return job, [int(pid) for pid in job.message.split()[1:]]
    raise AssertionError(job)


def gone(pid: int) -> bool:
    """A zombie that was not waited for yet is gone too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except FileNotFoundError:
        return True


async def until_gone(*pids: int) -> None:
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        await asyncio.wait_for(ended.wait(), 20)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


def record(tmp_path: Path, job: JobRecord) -> dict[str, object]:
    return json.loads((tmp_path / "jobs" / f"{job.id}.json").read_text())


def test_a_result_comes_back_and_is_kept(jobs, run, tmp_path):
    before = jobs_module.time.time()
    done = run(asked(jobs, "add", numbers=[1, 2, 4]))
    assert (done.state, done.fraction, done.result, done.error) == (JobState.DONE, 1.0, {"sum": 7}, "")
    assert before <= done.created <= done.ended <= jobs_module.time.time()
    assert record(tmp_path, done)["result"] == {"sum": 7}
    assert jobs.get(done.id) == done
    assert JobManager(tmp_path / "jobs").list() == [done]


def test_its_process_is_its_own(jobs, run):
    found = run(asked(jobs, "surroundings")).result
    assert found["pid"] != os.getpid()
    assert found["niceness"] >= 10
    assert found["session"] == found["pid"]
    assert found["threads"] == "3"
    assert found["stdin"] == ""


def test_watchers_see_progress_and_the_end(jobs, run, tmp_path):
    os.mkfifo(tmp_path / "fifo")

    async def watch(id: str) -> list[JobRecord]:
        seen = []
        async for job in jobs.watch(id):
            seen.append(job)
            if job.message == "waiting":
                reader_is_there.set()
        return seen

    async def through():
        job = start(jobs, "until_told", fifo=str(tmp_path / "fifo"))
        watchers = [asyncio.create_task(watch(job.id)) for _ in range(3)]
        await reader_is_there.wait()
        assert jobs.get(job.id).fraction == 0.1
        await asyncio.to_thread((tmp_path / "fifo").write_text, "hello")
        return await asyncio.gather(*watchers)

    reader_is_there = asyncio.Event()
    for seen in run(through()):
        assert [job.state for job in seen[:-1]] == [JobState.RUNNING] * (len(seen) - 1)
        assert [job.fraction for job in seen] == sorted(job.fraction for job in seen)
        assert any(job.message == "waiting" for job in seen)
        assert seen[-1].result == {"heard": "hello"}


def test_of_too_many_reports_some_are_heard_and_the_last_arrives(jobs, run, tmp_path):
    os.mkfifo(tmp_path / "fifo")

    async def through() -> list[JobRecord]:
        seen = []
        started = start(jobs, "chatter", fifo=str(tmp_path / "fifo"))
        async for job in jobs.watch(started.id):
            seen.append(job)
            if job.message == "word 100000":
                await asyncio.to_thread((tmp_path / "fifo").write_text, "enough")
        return seen

    seen = run(through())
    assert seen[-1].state is JobState.DONE
    assert len(seen) < 200
    [last] = {job.fraction for job in seen if job.message == "word 100000"}
    assert last == 0.5


def test_the_time_that_is_left_is_told_while_it_runs(jobs, run):
    async def through():
        seen = {}
        async for job in jobs.watch(start(jobs, "creep").id):
            seen[job.message] = job
            if job.message == "crept":
                break
        return seen, await jobs.cancel(job.id)

    seen, ended = run(through())
    assert seen["creeping"].seconds_left == 0  # until then its process started, which says nothing of its pace
    assert 0 < seen["crept"].seconds_left < 60
    assert ended.seconds_left == 0


def test_a_slow_watcher_sees_the_latest_state_alone(jobs, run):
    async def through():
        job = start(jobs, "add", numbers=[1])
        async with aclosing(jobs.watch(job.id)) as states:
            first = await anext(states)
            await jobs.wait(job.id)
            return first, [job async for job in states]

    first, rest = run(through())
    assert first.state is JobState.RUNNING
    assert [job.state for job in rest] == [JobState.DONE]


def test_whoever_watches_what_has_ended_gets_that(jobs, run):
    done = run(asked(jobs, "add", numbers=[1]))

    async def watched():
        return [job async for job in jobs.watch(done.id)]

    assert run(watched()) == [done]
    assert run(jobs.wait(done.id)) == done


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("refuse", "that cannot be built (ask for less)"),
        ("crash", "ZeroDivisionError: by zero"),
        ("killed", "its process was killed by signal 9 (SIGKILL); the machine may have run out of memory: last words"),
        ("leaves", "its process ended with status 7"),
        ("nonsense", "TypeError: Object of type object is not JSON serializable"),
        ("no_such_function", "AttributeError: module 'toy_jobs' has no attribute 'no_such_function'"),
    ],
)
def test_a_failure_says_why(jobs, run, tmp_path, name, error):
    failed = run(asked(jobs, name))
    assert (failed.state, failed.error) == (JobState.FAILED, error)
    assert failed.ended >= failed.created
    assert record(tmp_path, failed)["error"] == error


def test_a_failure_says_how_far_it_came(jobs, run):
    assert run(asked(jobs, "refuse")).fraction == 0
    failed = run(asked(jobs, "falls_short"))
    assert (failed.fraction, failed.message) == (0.9, "the last step")


def test_a_process_that_is_killed_from_outside_is_a_failure(jobs, run):
    async def through():
        job, [pid] = await holding(jobs)
        os.kill(pid, signal.SIGSEGV)
        return await jobs.wait(job.id)

    failed = run(through())
    assert failed.state is JobState.FAILED
    assert "killed by signal 11 (SIGSEGV)" in failed.error
    assert "memory" not in failed.error


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_ends_the_process_and_those_that_it_started(jobs, run, tmp_path, monkeypatch, deaf):
    monkeypatch.setattr(job_process, "GRACE", 0.1 if deaf else 60)

    async def through():
        job, pids = await holding(jobs, child=True, deaf=deaf)
        cancelled = await jobs.cancel(job.id)
        assert gone(pids[0])
        await until_gone(*pids)
        assert len(pids) == 2
        return cancelled, await jobs.cancel(job.id)

    cancelled, again = run(through())
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.error == ""
    assert cancelled.ended > 0
    assert again == cancelled
    assert record(tmp_path, cancelled)["state"] == "cancelled"


def test_cancel_of_what_is_done_changes_nothing(jobs, run):
    done = run(asked(jobs, "add", numbers=[1]))
    assert run(jobs.cancel(done.id)) == done


def test_cancel_at_once_leaves_no_process(jobs, run, tmp_path):
    async def through():
        job = start(jobs, "hold", pids=str(tmp_path / "pids"))
        await asyncio.sleep(0)  # its process is being started
        return await jobs.cancel(job.id)

    assert run(through()).state is JobState.CANCELLED
    assert not (tmp_path / "pids").exists() or all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_temporary_files_go_with_the_job_however_it_ends(jobs, run, tmp_path):
    async def through():
        job, _ = await holding(jobs, scratch=True)
        [scratch] = (tmp_path / "jobs").glob("*.scratch")
        assert len(list(scratch.iterdir())) == 1
        await jobs.cancel(job.id)

    run(through())
    assert list((tmp_path / "jobs").glob("*.scratch")) == []
    (tmp_path / "jobs" / "killed.scratch").mkdir()  # as a server that was killed leaves it
    JobManager(tmp_path / "jobs")
    assert list((tmp_path / "jobs").glob("*.scratch")) == []


def test_what_a_process_left_behind_is_ended_with_it(jobs, run, tmp_path):
    run(asked(jobs, "leaves", pids=str(tmp_path / "pids")))
    run(until_gone(int((tmp_path / "pids").read_text())))


def test_jobs_of_a_kind_wait_in_line(jobs, run):
    async def through():
        first, _ = await holding(jobs)
        second = start(jobs, "add", numbers=[1])
        third = start(jobs, "add", numbers=[2])
        other = start(jobs, "add", kind="other", numbers=[3])
        assert (second.state, second.message) == (JobState.WAITING, "waiting for another job")
        assert (await jobs.wait(other.id)).state is JobState.DONE
        assert jobs.get(second.id).message == "waiting for another job"
        cancelled = await jobs.cancel(second.id)
        assert cancelled.state is JobState.CANCELLED
        assert jobs.get(third.id).state is JobState.WAITING
        await jobs.cancel(first.id)
        return await jobs.wait(third.id)

    assert run(through()).result == {"sum": 2}


def test_a_small_job_does_not_wait_for_a_large_one(jobs, run):
    async def through():
        large, _ = await holding(jobs)
        waits = start(jobs, "add", numbers=[1])
        small = jobs.start("toy", "birds/pooled", "toy_jobs:add", {"numbers": [2]}, small=True)
        assert (waits.state, small.state) == (JobState.WAITING, JobState.RUNNING)
        assert (await jobs.wait(small.id)).result == {"sum": 2}
        assert jobs.get(waits.id).state is JobState.WAITING
        async with aclosing(jobs.watch(waits.id)) as states:
            assert (await anext(states)).state is JobState.WAITING
            await jobs.cancel(large.id)
            return [job.state async for job in states]

    seen = run(through())
    assert (seen[0], seen[-1]) == (JobState.RUNNING, JobState.DONE)
    assert JobState.WAITING not in seen


def test_two_at_once_where_two_are_allowed(tmp_path, run):
    jobs = JobManager(tmp_path / "jobs", at_once=2)

    async def through():
        await asyncio.gather(holding(jobs), holding(jobs))
        await jobs.close()

    run(through())
    assert {job.error for job in jobs.list()} == {"the server stopped while it ran"}


def test_close_ends_what_runs_and_says_so(tmp_path, run):
    jobs = JobManager(tmp_path / "jobs")

    async def through():
        job, pids = await holding(jobs)
        waiting = start(jobs, "add", numbers=[1])
        watcher = asyncio.create_task(jobs.wait(job.id))
        await jobs.close()
        assert all(gone(pid) for pid in pids)
        return await watcher, jobs.get(waiting.id)

    for job, when in zip(run(through()), ("while it ran", "before its turn came"), strict=True):
        assert (job.state, job.error, job.interrupted) == (JobState.FAILED, f"the server stopped {when}", True)
        assert record(tmp_path, job)["state"] == "failed"
    with pytest.raises(Unavailable, match="stopping"):
        start(jobs, "add")
    run(jobs.close())


SERVER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from topwork_server.jobs.manager import JobManager

async def main():
    jobs = JobManager(Path(sys.argv[1]))
    job = jobs.start("toy", "birds", "toy_jobs:hold", {"child": True})
    async for job in jobs.watch(job.id):
        if job.message.startswith("holding"):
            print(job.id, *job.message.split()[1:], flush=True)

asyncio.run(main())
"""


def test_a_killed_server_leaves_no_process_and_a_true_record(tmp_path, run):
    command = [sys.executable, "-c", SERVER, str(tmp_path / "jobs"), str(TOYS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        id, *pids = server.stdout.readline().split()
        server.kill()
    run(until_gone(*map(int, pids)))
    assert len(pids) == 2
    again = JobManager(tmp_path / "jobs")
    assert (again.get(id).state, again.get(id).error) == (JobState.FAILED, "the server ended while it ran")
    assert again.get(id).ended > 0
    assert JobManager(tmp_path / "jobs").get(id) == again.get(id)


def published(path: Path):
    """Tells of a job what it left in a file."""
    return lambda job: {"left": path.read_text()} if path.exists() else None


@pytest.mark.parametrize("ending", ["killed", "canceled", "closed"])
def test_a_job_that_published_and_did_not_tell_is_done(tmp_path, run, ending):
    jobs, file = JobManager(tmp_path / "jobs"), tmp_path / "file"
    jobs.recognize(["toy"], published(file))

    async def through():
        if ending == "killed":
            return await asked(jobs, "publish_and_end", file=str(file))
        job, _ = await holding(jobs, "publish_and_end", file=str(file), held=True)
        if ending == "canceled":
            return await jobs.cancel(job.id)
        await jobs.close()
        return jobs.get(job.id)

    job = run(through())
    assert (job.state, job.error, job.result) == (JobState.DONE, "", {"left": "published"})
    assert record(tmp_path, job)["state"] == "done"
    run(jobs.close())


def test_jobs_of_a_server_that_was_killed_are_done_where_they_had_published(tmp_path):
    records = JobRecords(tmp_path / "jobs")
    for id, kind, state in (("a1", "toy", JobState.RUNNING), ("a2", "toy", JobState.FAILED), ("a3", "other", JobState.RUNNING)):
        records.save(JobRecord(id, kind, "birds", 1.0, state, error="its own" if state is JobState.FAILED else ""))
    (tmp_path / "file").write_text("published")
    jobs = JobManager(tmp_path / "jobs")
    jobs.recognize(["toy"], published(tmp_path / "file"))
    found = {job.id: (job.state, job.error, job.interrupted) for job in JobManager(tmp_path / "jobs").list()}
    ended = "the server ended while it ran"
    assert found == {"a1": ("done", "", False), "a2": ("failed", "its own", False), "a3": ("failed", ended, True)}


def test_the_newest_are_kept(tmp_path, run, monkeypatch):
    monkeypatch.setattr(jobs_module, "KEPT", 3)
    jobs = JobManager(tmp_path / "jobs")

    async def through():
        running, _ = await holding(jobs)
        for number in range(4):
            await jobs.wait(start(jobs, "add", kind="other", numbers=[number]).id)
        listed = jobs.list()
        assert listed[-1].id == running.id  # the oldest, but it runs
        assert [job.result["sum"] for job in listed[:-1]] == [3, 2, 1]
        await jobs.close()

    run(through())
    assert len(list((tmp_path / "jobs").iterdir())) == 3


def test_lists_by_kind_and_subject_newest_first(jobs, run):
    async def through():
        made = [
            start(jobs, "add", kind=kind, subject=subject, numbers=[1])
            for kind, subject in [("index", "a"), ("index", "b"), ("head", "a")]
        ]
        for job in made:
            await jobs.wait(job.id)
        return [job.id for job in made]

    ids = run(through())
    assert ids == sorted(ids)
    assert {len(id) for id in ids} == {8}
    assert [job.id for job in jobs.list()] == ids[::-1]
    assert [job.id for job in jobs.list("index")] == [ids[1], ids[0]]
    assert [job.id for job in jobs.list(subject="a")] == [ids[2], ids[0]]
    assert jobs.list("head", "b") == []


def test_an_unknown_job_is_not_found(jobs, run):
    for question in (jobs.wait, jobs.cancel):
        with pytest.raises(NotFound, match="no job 'nope'"):
            run(question("nope"))
    with pytest.raises(NotFound, match="no job 'nope'"):
        jobs.get("nope")


def test_arguments_that_are_not_json_are_refused_at_once(jobs, run):
    async def through():
        with pytest.raises(TypeError, match="JSON"):
            start(jobs, "add", numbers=object())

    run(through())
    assert jobs.list() == []


def test_damaged_records_are_no_obstacle(tmp_path, run):
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name, text in {"0000000a.json": "{", "0000000b.json": "[]", "notes.v2.json": "{}", ".0000000c.json.7.part": "{"}.items():
        (folder / name).write_text(text)
    jobs = JobManager(folder)
    assert jobs.list() == []
    aside = ["0000000a.json.damaged", "0000000b.json.damaged", "notes.v2.json.damaged"]
    assert sorted(path.name for path in folder.iterdir()) == aside


def test_ids_go_on_from_those_of_a_later_clock(tmp_path, run):
    jobs = JobManager(tmp_path / "jobs")

    async def through(jobs):
        return await asked(jobs, "add", numbers=[1])

    first = run(through(jobs))
    later = tmp_path / "jobs" / "zzzzzzz0.json"
    (tmp_path / "jobs" / f"{first.id}.json").rename(later)
    assert run(through(JobManager(tmp_path / "jobs"))).id == "zzzzzzz1"


def test_a_full_disk_costs_the_record_alone(tmp_path, run, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    jobs = JobManager(tmp_path / "jobs")
    done = run(asked(jobs, "add", numbers=[5]))
    assert done.result == {"sum": 5}
    assert jobs.get(done.id) == done
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    assert JobManager(tmp_path / "jobs").list() == []


def test_a_process_that_cannot_be_started_is_a_failure(jobs, run, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    failed = run(asked(jobs, "add", numbers=[1]))
    assert (failed.state, failed.error) == (JobState.FAILED, "its process could not be started: No such file or directory")
