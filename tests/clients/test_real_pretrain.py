"""Pretraining on a real server, in jobs of their own processes: uploads, sets, what it makes, cancellation and death."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import real_server
import tiny_berts
import tiny_clips
import tiny_pictures
from topwork import (
    AlreadyExists,
    AsyncClient,
    Client,
    InvalidInput,
    Job,
    JobFailed,
    NotFound,
    NotReady,
    PretrainReport,
    TopworkError,
)
from topwork.v1 import encoders_pb2, encoders_pb2_grpc
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.testing.pretrainer import sentences

SMALL = {"dim": 8, "min_count": 2, "epochs": 2}
#: A training that does not end by itself within a test.
LONG = {**SMALL, "epochs": 10_000}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a tiny BERT, which has no head over its vocabulary, a tiny CLIP and a tiny ViT."""
    home = tmp_path_factory.mktemp("home")
    folder = tiny_berts.write(tmp_path_factory.mktemp("models") / "tiny")
    catalog = Catalog(PluginRegistry.load(), home)
    catalog.add(f"file:{folder}", "tiny")
    catalog.add(f"file:{tiny_clips.write('clip', tmp_path_factory.mktemp('models') / 'clip')}", "tiny-clip")
    vit = tiny_pictures.write(tiny_pictures.random_model("vit"), tmp_path_factory.mktemp("models") / "vit")
    catalog.add(f"file:{vit}", "tiny-vit")
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with real_server.served(home, PluginRegistry.load()) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": n, "body": text}) + "\n" for n, text in enumerate(sentences(300)))
    return path


@pytest.fixture(scope="module")
def report(client: Client, corpus: Path) -> PretrainReport:
    seen: list[Job] = []
    made = client.pretrain("words", corpus, name="words-one", column="body", options=SMALL, progress=seen.append)
    assert isinstance(made, PretrainReport)
    assert [job.subject for job in seen] == ["words-one"] * len(seen)
    return made


@pytest.fixture(scope="module")
def sets(client: Client, report: PretrainReport) -> None:
    """Sets of vectors, of pictures alone, of pictures of an encoder of both, and of texts that are gone; `full` has texts."""
    client.write("vectors", vectors=[[1.0, 2.0]], ids=["one"])
    client.write("pictures", tiny_clips.photos()[:1], ids=["one"], encoder="tiny-vit", keep_inputs=True)
    client.write("photos", tiny_clips.photos()[:1], ids=["one"], encoder="tiny-clip", keep_inputs=True)
    client.write("full", ["red owl"], ids=["one"], encoder="words-one", keep_inputs=True)
    client.write("empty", ["red owl"], ids=["one"], encoder="words-one", keep_inputs=True)
    client.delete("empty", ["one"])


def nothing_of(home: Path, name: str) -> bool:
    """Tell whether nothing is left of a pretraining, once its job has been cleaned up."""
    deadline = time.monotonic() + 30
    while left := [path for path in _files(home) if name in path or ".making-" in path or path.startswith("spool/")]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return not left


def _files(home: Path) -> list[str]:
    """List all that is under a home, which others delete from meanwhile."""
    return [str(Path(folder, name).relative_to(home)) for folder, _, names in os.walk(home) for name in [*names, "."]]


def test_the_encoder_serves_and_says_what_it_is(client: Client, report: PretrainReport, home: Path) -> None:
    assert (report.encoder, report.kind, report.texts, report.made_from) == ("words-one", "words", 300, "")
    assert report.measures[0].name == "held-out loss"
    assert len(report.history) == 2
    info = client.encoder("words-one")
    assert info.trained_on == "300 texts of corpus.jsonl.gz"
    features = client.embed("words-one", ["red owl"])
    assert (features.fingerprint, features.tap) == (report.fingerprint, report.tap)
    assert client.nearest_words("words-one", ["owl"])[0][0].word == "owl"
    [job] = client.jobs("pretrain", "words-one")
    assert PretrainReport.of(job) == report
    kept = json.loads((home / "encoders" / "words-one" / "pretraining.json").read_text("utf-8"))
    assert (kept["tap"], kept["fingerprint"], kept["seconds"]) == (report.tap, report.fingerprint, report.seconds)
    assert client.encoder("words-one").state == "loaded"
    assert kept["measures"] == [{"name": m.name, "after": m.after, "before": m.before} for m in report.measures]
    assert "held-out loss" in str(report)


def test_a_set_that_keeps_texts_is_learned_from(
    client: Client, address: str, report: PretrainReport, runner: asyncio.Runner
) -> None:
    texts = sentences(260)
    client.write("kept", texts, ids=range(260), encoder="words-one", keep_inputs=True, metadata={"n": list(range(260))})

    async def learn() -> PretrainReport:
        async with AsyncClient(address) as other:
            return await other.pretrain("words", set="kept", where="n < 250", name="words-two", options=SMALL)

    made = runner.run(learn())
    assert made.texts == 250
    assert made.trained_on == "250 texts of the set kept"


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"kind": "nonesuch"}, InvalidInput, "words"),
        ({"kind": "mlm"}, InvalidInput, "none is named"),
        ({"kind": "mlm", "encoder": "nonesuch"}, NotFound, "nonesuch"),
        ({"kind": "mlm", "encoder": "efficientnet-lite0"}, InvalidInput, "reads picture"),
        ({"kind": "mlm", "encoder": "bert-base-uncased"}, NotReady, "not here"),
        ({"kind": "mlm", "encoder": "words-one"}, InvalidInput, "no model of transformers"),
        ({"kind": "lm", "encoder": "tiny"}, InvalidInput, "both directions"),
        ({"kind": "mlm", "encoder": "tiny-clip"}, InvalidInput, "by 2 towers.*can train tiny"),
        ({"kind": "mlm"}, InvalidInput, "can train tiny"),
        ({"kind": "mlm", "encoder": "i3d-resnet50-thin"}, InvalidInput, "reads videos"),
        ({"name": "words-one"}, AlreadyExists, "words-one"),
        ({"name": "glove-6b-50d"}, AlreadyExists, "glove"),
        ({"name": "a b"}, InvalidInput, "a b"),
        ({"name": ""}, InvalidInput, "name"),
        ({"encoder": "words-one"}, InvalidInput, "no encoder"),
        ({"options": {"dim": 1}}, InvalidInput, "dim"),
        ({"options": {"size": 1}}, InvalidInput, "size"),
        ({"texts": ["", " \n"]}, InvalidInput, "no texts"),
        ({"texts": ["fine", "a\0b"]}, InvalidInput, "NUL"),
        ({"texts": ["fine", 5]}, InvalidInput, "int"),
        ({"texts": "a lone text"}, InvalidInput, "list"),
        ({"texts": None}, InvalidInput, "texts"),
        ({"texts": None, "set": "nonesuch"}, NotFound, "nonesuch"),
        ({"set": "kept"}, InvalidInput, "both"),
        ({"texts": None, "set": "vectors"}, NotReady, "keeps no raw inputs"),
        ({"texts": None, "set": "pictures"}, InvalidInput, "holds pictures of tiny-vit.*; full.* can be learned from"),
        ({"texts": None, "set": "photos"}, InvalidInput, "'photos' has no texts"),
        ({"texts": None, "set": "empty"}, InvalidInput, "'empty' has no texts"),
        ({"where": "n < 5"}, InvalidInput, "where"),
        ({"version": 3}, InvalidInput, "version"),
        ({"column": "body"}, InvalidInput, "files"),
        ({"texts": Path("/nonesuch.txt")}, InvalidInput, "nonesuch"),
    ],
)
def test_what_cannot_be_learned_is_refused_at_once(
    client: Client, sets: None, arguments: dict[str, Any], error: type[TopworkError], word: str
) -> None:
    before = client.jobs("pretrain")
    given = {"kind": "words", "texts": ["some words"], "name": "refused", **arguments}
    with pytest.raises(error, match=word) as caught:
        client.pretrain(given.pop("kind"), given.pop("texts"), **given)
    assert client.jobs("pretrain") == before
    assert caught.value.item == (1 if word in ("NUL", "int") else None)


def test_texts_that_break_off_begin_nothing(client: Client, home: Path) -> None:
    def broken() -> Iterator[str]:
        yield from sentences(10_000)
        raise InvalidInput("the source broke", item=3)

    with pytest.raises(InvalidInput, match="the source broke"):
        client.pretrain("words", broken(), name="broken", options=SMALL)
    assert client.jobs("pretrain", "broken") == []
    assert client.health() == "serving"


@pytest.mark.parametrize(("end", "word"), [([], "ended after 1"), ([3], "1 of 3 texts")])
def test_a_stream_that_ends_without_its_count_begins_nothing(client: Client, address: str, end: list[int], word: str) -> None:
    settings = encoders_pb2.PretrainSettings(kind="words", name="cut")
    texts = encoders_pb2.Texts(texts=["some words"])
    counts = [encoders_pb2.PretrainRequest(count=count) for count in end]
    requests = [encoders_pb2.PretrainRequest(settings=settings), encoders_pb2.PretrainRequest(texts=texts), *counts]
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError, match=word) as caught:
        encoders_pb2_grpc.EncodersStub(channel).Pretrain(iter(requests))  # type: ignore[no-untyped-call]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert client.jobs("pretrain", "cut") == []


def learning(client: Client, name: str) -> Job:
    """A job that has begun to learn, and does not end by itself."""
    job = client.pretrain("words", iter(sentences(300)), name=name, options=LONG, wait=False)
    assert isinstance(job, Job)
    for state in client.watch_job(job.id):
        if "epoch" in state.message:
            return state
    raise AssertionError(f"it ended: {state}")


def test_a_cancelled_one_leaves_nothing(client: Client, home: Path) -> None:
    job = learning(client, "cancelled")
    with pytest.raises(AlreadyExists, match="cancelled"):
        client.pretrain("words", ["some words"], name="cancelled")
    assert client.cancel_job(job.id).state == "cancelled"
    with pytest.raises(NotFound):
        client.encoder("cancelled")
    again = learning(client, "cancelled")  # begun when the first is cleaned up: the name is free
    client.cancel_job(again.id)
    assert nothing_of(home, "cancelled")


def test_a_killed_one_leaves_nothing(client: Client, home: Path) -> None:
    job = learning(client, "killed")
    workers = [p for p in psutil.Process().children(recursive=True) if "topwork_server.jobs.worker" in p.cmdline()]
    [worker] = [process for process in workers if job.id in process.environ().get("TMPDIR", "")]
    worker.kill()
    *_, last = client.watch_job(job.id)
    assert last.state == "failed"
    assert "SIGKILL" in last.error
    assert nothing_of(home, "killed")


def test_what_the_job_finds_wrong_fails_it(client: Client, home: Path) -> None:
    with pytest.raises(JobFailed, match="min_count"):
        client.pretrain("words", ["one two", "three four"], name="failed", options={"min_count": 2})
    assert nothing_of(home, "failed")
