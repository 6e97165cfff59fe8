"""The Jobs service over a wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from fake_engine import refusal
from topwork.v1 import jobs_pb2 as pb
from topwork.v1 import jobs_pb2_grpc
from topwork_server.access.gate import Gate
from topwork_server.jobs.job_records import JobRecord, JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.services.interceptor import RequestInterceptor
from topwork_server.services.jobs import STATES, JobsService, job_message
from topwork_server.services.request_tracker import RequestTracker


@dataclass
class ServedJobs:
    jobs: JobManager
    stub: jobs_pb2_grpc.JobsStub
    requests: RequestTracker

    def start(self, name: str, **arguments: object) -> str:
        return self.jobs.start("toy", "birds/pooled", f"toy_jobs:{name}", arguments).id


@asynccontextmanager
async def served(tmp_path) -> AsyncIterator[ServedJobs]:
    jobs, requests = JobManager(tmp_path / "jobs"), RequestTracker(Gate(tmp_path))
    server = grpc.aio.server(interceptors=[RequestInterceptor(requests)])
    jobs_pb2_grpc.add_JobsServicer_to_server(JobsService(jobs), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ServedJobs(jobs, jobs_pb2_grpc.JobsStub(channel), requests)
    await jobs.close()
    await server.stop(None)


def test_every_state_and_field_has_its_place():
    assert set(STATES) == set(JobState)
    assert len(set(STATES.values())) == len(JobState)
    job = JobRecord("id", "index", "birds/pooled", 1.5, JobState.FAILED, 0.5, "adding", 2.5, 3.5, "it broke")
    message = job_message(job)
    assert message.state == pb.JOB_STATE_FAILED
    for field in set(pb.Job.DESCRIPTOR.fields_by_name) - {"state", "result"}:
        assert getattr(message, field) == getattr(job, field)


async def test_a_job_is_watched_to_its_end(tmp_path):
    async with served(tmp_path) as server:
        id = server.start("add", numbers=[1, 2])
        seen = [job async for job in server.stub.WatchJob(pb.WatchJobRequest(id=id))]
        assert seen[-1].state == pb.JOB_STATE_DONE
        assert json.loads(seen[-1].result) == {"sum": 3}
        assert {job.result for job in seen[:-1]} == {""}
        assert {job.state for job in seen[:-1]} == {pb.JOB_STATE_RUNNING}
        assert seen[-1] == await server.stub.GetJob(pb.GetJobRequest(id=id))
        assert [job async for job in server.stub.WatchJob(pb.WatchJobRequest(id=id))] == seen[-1:]


async def test_a_job_is_cancelled_under_its_watchers(tmp_path):
    async with served(tmp_path) as server:
        id = server.start("hold")
        cancelled = None
        async for job in server.stub.WatchJob(pb.WatchJobRequest(id=id)):
            if job.message.startswith("holding"):
                cancelled = await server.stub.CancelJob(pb.CancelJobRequest(id=id))
        assert job == cancelled
        assert job.state == pb.JOB_STATE_CANCELLED
        assert job.ended > job.created


async def test_a_watcher_that_leaves_is_let_go(tmp_path):
    async with served(tmp_path) as server:
        id = server.start("hold")
        call = server.stub.WatchJob(pb.WatchJobRequest(id=id))
        await call.read()
        call.cancel()
        await asyncio.wait_for(server.requests.idle(), 20)
        assert server.jobs.get(id).state is JobState.RUNNING


async def test_watchers_are_told_that_the_server_stops(tmp_path):
    async with served(tmp_path) as server:
        states = aiter(server.stub.WatchJob(pb.WatchJobRequest(id=server.start("hold"))))
        await anext(states)
        await server.jobs.close()
        last = [job async for job in states][-1]
        assert last.state == pb.JOB_STATE_FAILED
        assert last.error == "the server stopped while it ran"


async def test_lists_newest_first(tmp_path):
    async with served(tmp_path) as server:
        ids = [server.start("hold"), server.jobs.start("index", "fish", "toy_jobs:hold", {}).id]
        listed = await server.stub.ListJobs(pb.ListJobsRequest())
        assert [job.id for job in listed.jobs] == ids[::-1]
        listed = await server.stub.ListJobs(pb.ListJobsRequest(kind="toy"))
        assert [job.subject for job in listed.jobs] == ["birds/pooled"]
        listed = await server.stub.ListJobs(pb.ListJobsRequest(subject="fish", kind="toy"))
        assert not listed.jobs


async def test_what_is_not_there_is_not_found(tmp_path):
    async with served(tmp_path) as server:
        get, cancel = server.stub.GetJob(pb.GetJobRequest(id="nope")), server.stub.CancelJob(pb.CancelJobRequest(id="nope"))
        for call in (get, cancel, server.stub.WatchJob(pb.WatchJobRequest(id="nope")).read()):
            code, message, _ = await refusal(call)
            assert code is grpc.StatusCode.NOT_FOUND
            assert "'nope'" in message
