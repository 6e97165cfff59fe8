"""Trainings and probes as they are: real jobs, in their own processes, with the trainers that Topwork brings."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from heads_harness import open_heads, words
from passes import of_head
from topwork_server import TextItem
from topwork_server.heads.head_status import HeadState
from topwork_server.heads.head_types import TrainRequest
from topwork_server.heads.serving.predictor import Predictor, PredictParams
from topwork_server.jobs.job_records import JobRecords, JobState
from topwork_server.jobs.manager import JobManager
from topwork_server.plugin_api.plugin_registry import PluginRegistry

KINDS = PluginRegistry.load()


@asynccontextmanager
async def real(home):
    async with open_heads(home, JobManager(home / "jobs", 1), KINDS) as w:
        yield w


async def test_a_server_that_ends_ends_its_trainings_and_says_so(home):
    async with real(home) as w:
        await w.fill(count=60)
        begun = await w.heads.train(TrainRequest("birds", "label", kind="prototype"))
        assert begun.state is HeadState.TRAINING
    async with real(home) as w:
        [found] = await w.heads.list()
        assert (found.state, found.job.state) == (HeadState.FAILED, JobState.FAILED)
        assert found.detail == "the last training failed: the server stopped while it ran"
        assert w.pins() == {}
        again = await w.heads.train(TrainRequest("birds", "label", kind="prototype"))
        assert (await w.jobs.wait(again.job.id)).state is JobState.DONE


@pytest.mark.parametrize("moment", ["publishing", "published"])
async def test_a_training_whose_server_was_killed_as_it_published_is_done(home, moment):
    async with real(home) as w:
        await w.fill(count=60)
        begun = await w.heads.train(TrainRequest("birds", "label", kind="prototype"))
        done = await w.jobs.wait(begun.job.id)
        await w.heads.wait_until_trained(of_head(begun.name))
    JobRecords(home / "jobs").save(replace(done, state=JobState.RUNNING, fraction=0.97, ended=0.0, result={}))
    if moment == "publishing":
        [version] = (home / "heads" / begun.name).iterdir()
        (home / "heads" / f".{begun.name}.publishing").mkdir()
        version.rename(home / "heads" / f".{begun.name}.publishing" / begun.name)
    async with real(home) as w:
        [found] = await w.heads.list()
        assert (found.state, found.detail, found.job.state) == (HeadState.READY, "", JobState.DONE)
        assert (found.job.error, found.job.result) == ("", done.result)
    JobRecords(home / "jobs").save(replace(done, created=done.created + 1000, state=JobState.RUNNING, result={}))
    async with real(home) as w:
        [found] = await w.heads.list()
        assert (found.state, found.job.state) == (HeadState.READY, JobState.FAILED)
        assert found.detail == "the last training failed: the server ended while it ran; the head from before serves"


@pytest.mark.parametrize("task", ["multi-label", "regression", "tagging"])
async def test_other_tasks(home, task):
    async with real(home) as w:
        feature_set = w.make("birds", ("mean", "letters"))
        texts, classes = words(60)
        columns = {
            "multi-label": [[name, "all"] if i % 2 else [name] for i, name in enumerate(classes)],
            "regression": [float(sum(letter in "aeiou" for letter in text)) for text in texts],
            "tagging": [[f"{i}:{i + 1}:V" for i, letter in enumerate(text) if letter in "ae"] for text in texts],
        }
        await w.write(feature_set, texts, ("mean", "letters"), target=columns[task])
        taps = ("letters",) if task == "tagging" else ("mean",)
        begun = await w.heads.train(TrainRequest("birds", "target", taps=taps, folds=2))
        assert begun.definition.task == task
        job = await w.jobs.wait(begun.job.id)
        assert job.state is JobState.DONE, job.error
        head = (await w.heads.wait_until_trained(of_head(begun.name))).head
        predictor = Predictor(w.engine, w.catalog, w.heads.store, 1)
        [output] = (await predictor.predict([of_head(begun.name)], PredictParams(), [TextItem("aabbe"), TextItem("bcd")])).outputs
        match task:
            case "multi-label":
                assert output.probabilities.shape == (2, 4)
            case "regression":
                assert output.values[0] > output.values[1]
            case "tagging":
                assert [(span.start, span.end) for span in output.spans[0]] != []
                assert head.metrics[0].value > 0.5
        assert await asyncio.to_thread(w.heads.store.report, begun.name)
