"""The Jobs service: lists, watches and cancels jobs."""

from __future__ import annotations

import json
from contextlib import aclosing

from topwork.v1 import jobs_pb2, jobs_pb2_grpc

from topwork_server.access.caller import AccessRole, check_role, current_caller, not_for_caller
from topwork_server.jobs.job_records import JobRecord, JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.services.request_checks import Context

STATES = {
    JobState.WAITING: jobs_pb2.JOB_STATE_WAITING,
    JobState.RUNNING: jobs_pb2.JOB_STATE_RUNNING,
    JobState.DONE: jobs_pb2.JOB_STATE_DONE,
    JobState.FAILED: jobs_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: jobs_pb2.JOB_STATE_CANCELLED,
}


def job_message(job: JobRecord) -> jobs_pb2.Job:
    return jobs_pb2.Job(
        id=job.id,
        kind=job.kind,
        subject=job.subject,
        state=STATES[job.state],
        fraction=job.fraction,
        message=job.message,
        created=job.created,
        ended=job.ended,
        seconds_left=job.seconds_left,
        error=job.error,
        result=json.dumps(dict(job.result)) if job.state is JobState.DONE else "",
    )


class JobsService(jobs_pb2_grpc.JobsServicer):
    def __init__(self, jobs: JobManager) -> None:
        self._jobs = jobs

    async def ListJobs(  # noqa: N802
        self, request: jobs_pb2.ListJobsRequest, context: Context
    ) -> jobs_pb2.ListJobsResponse:
        found = filter(_is_visible, self._jobs.list(request.kind, request.subject))
        return jobs_pb2.ListJobsResponse(jobs=[job_message(job) for job in found])

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.Job:  # noqa: N802
        return job_message(self._job(request.id))

    async def WatchJob(self, request: jobs_pb2.WatchJobRequest, context: Context) -> None:  # noqa: N802
        self._job(request.id)
        async with aclosing(self._jobs.watch(request.id)) as states:
            async for job in states:
                await context.write(job_message(job))

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.Job:  # noqa: N802
        caller = current_caller()
        if self._job(request.id).owner != caller.name:
            check_role(caller, AccessRole.ADMIN, "cancelling another caller's job")
        return job_message(await self._jobs.cancel(request.id))

    def _job(self, id: str) -> JobRecord:
        """The job of a request. Refused (PERMISSION_DENIED) where it is not for the caller to see, or there is none such."""
        if current_caller().is_scoped and id not in {job.id for job in self._jobs.list() if _is_visible(job)}:
            raise not_for_caller("job", id)
        self._jobs.check(id)
        return self._jobs.get(id)


def _is_visible(job: JobRecord) -> bool:
    """Tell whether the caller may see a job: of those who may not use all sets and encoders, its owner alone."""
    caller = current_caller()
    return not caller.is_scoped or job.owner == caller.name
