"""Texts on their way to a pretraining: from the first again after a break, and never in part."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import topwork
from both_clients import ClientFactory, EitherClient
from fake_server import FakeServer, Refusal
from topwork._ops import pretrain as pretrain_ops
from topwork.v1 import jobs_pb2

TEXTS = [f"text {number}" for number in range(12)]


class UploadServer(FakeServer):
    """Takes texts, and begins a job with them: `begun` has those of each job. `plan` is asked before each message and, with
    `answers` -1, when all have come."""

    def open(self, port: int) -> UploadServer:
        self.begun: list[list[str]] = []
        super().open(port)
        return self

    def Pretrain(self, requests: Iterator[Any], context: Any) -> jobs_pb2.Job:  # noqa: N802
        self.tries["Pretrain"] += 1
        texts: list[str] = []
        for answers, message in enumerate(requests):
            self._check(answers, context)
            texts += message.texts.texts
        if message.count == len(texts):  # a cancelled call ends its messages, too
            self.begun.append(texts)
        self._check(-1, context)
        return jobs_pb2.Job(id="7c41", kind="pretrain", subject="mine", state=jobs_pb2.JOB_STATE_RUNNING)

    def _check(self, answers: int, context: Any) -> None:
        refusal = self.plan("Pretrain", self.tries["Pretrain"], answers)
        if refusal:
            refusal.abort(context)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    monkeypatch.setattr(pretrain_ops, "MOST_TEXTS", 2)  # several messages
    with UploadServer() as server:
        assert isinstance(server, UploadServer)
        yield server


def breaking(at: int) -> Any:
    """A plan that breaks the first try."""
    broken = Refusal(grpc.StatusCode.UNAVAILABLE, message="Socket closed")
    return lambda method, attempt, answers: broken if (attempt, answers) == (1, at) else None


def begin(both: EitherClient, texts: Any) -> topwork.Job:
    found = both.pretrain("words", texts, name="mine", wait=False)
    assert isinstance(found, topwork.Job)
    return found


def test_all_texts_come_in_order(server: UploadServer, both: EitherClient) -> None:
    assert begin(both, TEXTS).id == "7c41"
    assert server.begun == [TEXTS]
    begin(both, iter(TEXTS))
    assert server.begun == [TEXTS, TEXTS]


class SlowTexts(list[str]):
    """Texts of which the last ones come when the client knows that the first try has broken: not all was sent then."""

    def __init__(self) -> None:
        super().__init__(TEXTS)
        self.known, self._first = threading.Event(), True

    def __iter__(self) -> Iterator[str]:
        if not self._first:
            self.known.set()
        self._first = False
        yield from TEXTS[:8]
        assert self.known.wait(30)
        yield from TEXTS[8:]


def test_after_a_break_they_come_again_from_the_first(server: UploadServer, both: EitherClient) -> None:
    server.plan = breaking(3)
    begin(both, SlowTexts())
    assert server.begun == [TEXTS]
    assert server.tries["Pretrain"] == 2


def test_what_cannot_be_read_again_ends_with_the_break(server: UploadServer, both: EitherClient) -> None:
    server.plan, texts = breaking(3), SlowTexts()
    with pytest.raises(topwork.Unavailable):
        begin(both, iter(texts))
    texts.known.set()
    assert server.begun == []


def test_a_job_that_may_have_begun_is_not_asked_for_again(server: UploadServer, both: EitherClient) -> None:
    server.plan = breaking(-1)
    with pytest.raises(topwork.Unavailable):
        begin(both, TEXTS)
    assert server.begun == [TEXTS]


def test_a_source_that_fails_begins_nothing(server: UploadServer, both: EitherClient) -> None:
    def failing() -> Iterator[str]:
        yield from TEXTS
        raise RuntimeError("the disk of the caller")

    with pytest.raises(RuntimeError, match="the disk of the caller"):
        begin(both, failing())
    assert server.begun == []


def test_an_asynchronous_source(server: UploadServer, runner: asyncio.Runner) -> None:
    async def learn() -> topwork.Job:
        async def texts() -> AsyncIterator[str]:
            for text in TEXTS:
                yield text

        async with topwork.AsyncClient(server.target) as client:
            return await client.pretrain("words", texts(), name="mine", wait=False)

    assert runner.run(learn()).state == "running"
    assert server.begun == [TEXTS]


def _failing() -> Iterator[Any]:
    yield "a text"
    yield 7


@pytest.mark.parametrize(
    ("arguments", "item", "word"),
    [
        ({"texts": Path("missing.txt")}, None, "No such file"),
        ({"texts": Path("folder")}, None, "folder"),
        ({"texts": Path("binary.txt")}, None, "NUL"),
        ({"texts": Path("empty.txt")}, None, "no texts"),
        ({"texts": Path("table.csv"), "column": "other"}, None, "'other' .`column` is one of text"),
        ({"texts": Path("table.csv"), "encoding": "ascii"}, None, "ascii"),
        ({"texts": ["a text", 7]}, 1, "int"),
        ({"texts": _failing}, 1, "int"),
        ({"texts": [" "]}, None, "no texts"),
        ({"texts": TEXTS, "name": ""}, None, "name"),
        ({"texts": TEXTS, "set": "kept", "version": "pin"}, None, "not both"),
        ({"set": "kept", "version": "pin", "column": "other"}, None, "files"),
    ],
)
def test_bad_arguments_need_no_server(
    factory: ClientFactory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: dict[str, Any],
    item: int | None,
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("binary.txt").write_bytes(bytes(range(256)))
    Path("empty.txt").touch()
    Path("table.csv").write_text("text\ncaf\u00e9\n", "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        factory.target = f"127.0.0.1:{taken.getsockname()[1]}"
    texts = arguments.get("texts")
    arguments = {"name": "mine", **arguments, **({"texts": texts()} if callable(texts) else {})}
    with pytest.raises(topwork.InvalidInput, match=word) as caught:
        factory.open(retry_for=0.2).pretrain("words", **arguments)
    assert caught.value.item == item
