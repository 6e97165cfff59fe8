"""Retries: when and how long a call is tried again, and what is never sent twice; and the error of a wait that ended in vain."""

from __future__ import annotations

import gc
import itertools
import socket
import threading
import time
import weakref
from typing import Any

import grpc
import pytest
import topwork
from both_clients import ClientFactory, EitherClient
from fake_server import FakeServer, Refusal, overloaded, shed, unavailable
from topwork._ops import item_requests
from topwork._transport import retry
from topwork._transport.retry import CONNECT_FOR, RetryPolicy
from topwork._transport.upload_stream import CHUNK, FIRST, SendWindow


def cut_off() -> Refusal:
    """A connection that broke while the server was at work."""
    return Refusal(grpc.StatusCode.UNAVAILABLE, message="Socket closed")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pauses(patience: RetryPolicy, clock: Clock, error: topwork.TopworkError) -> list[float]:
    found = []
    while (pause := patience.pause(error)) is not None:
        found.append(pause)
        clock.now += pause
    return found


def test_tries_last_as_long_as_they_should_with_growing_pauses() -> None:
    clock = Clock()
    found = pauses(RetryPolicy(60.0, clock=clock), clock, topwork.Unavailable("away"))
    assert clock.now == pytest.approx(60.0)
    assert all(
        0.8 * wanted <= pause <= 1.2 * wanted for pause, wanted in zip(found, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], strict=False)
    )
    assert len(set(found)) == len(found)


def test_tries_end_with_the_deadline() -> None:
    clock = Clock()
    pauses(RetryPolicy(60.0, deadline=7.0, clock=clock), clock, topwork.Unavailable("away"))
    assert clock.now == pytest.approx(7.0)


def test_the_server_says_when_to_come_back() -> None:
    clock, error = Clock(), topwork.Overloaded("busy")
    error.retry_after = 20.0
    found = pauses(RetryPolicy(60.0, clock=clock), clock, error)
    assert 1 <= len(found) <= 2
    assert all(20.0 <= pause <= 24.0 for pause in found)


def test_a_short_wait_of_the_server_grows_all_the_same() -> None:
    """An overloaded server that does not know when it is free asks for a tenth of a second, each time."""
    clock, error = Clock(), topwork.Overloaded("busy")
    error.retry_after = 0.1
    found = pauses(RetryPolicy(60.0, clock=clock), clock, error)
    assert all(
        0.8 * wanted <= pause <= 1.2 * wanted for pause, wanted in zip(found, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], strict=False)
    )
    assert all(pause >= 0.1 for pause in found[:-1])


def test_a_server_that_was_never_reached_is_soon_given_up() -> None:
    away = topwork.Unavailable("no answer: Connection refused")
    away.unconnected = True
    clock = Clock()
    pauses(RetryPolicy(None, clock=clock, reached=lambda: False), clock, away)
    assert clock.now == pytest.approx(CONNECT_FOR)
    for named, reached in [(None, True), (60.0, True), (60.0, False)]:  # a named time is how long it waits for a server to start
        clock = Clock()
        pauses(RetryPolicy(named, clock=clock, reached=lambda reached=reached: reached), clock, away)
        assert clock.now == pytest.approx(60.0)


@pytest.mark.usefixtures("_briskly")
def test_a_client_that_was_never_answered_gives_up_and_others_wait(
    factory: ClientFactory, server: FakeServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(retry, "CONNECT_FOR", 0.1)
    port = int(server.target.rpartition(":")[2])
    known = factory.open()
    known.encoders()
    server.__exit__()
    with pytest.raises(topwork.Unavailable, match=r"Connection refused \(.*topwork serve"):
        factory.open().embed("letters", ["a"])
    back = threading.Timer(1.0, lambda: server.open(port))
    back.start()
    known.encoders()
    back.join()


@pytest.mark.usefixtures("_briskly")
def test_a_server_that_takes_long_to_come_back(both: EitherClient, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: unavailable() if attempt <= 20 else None
    assert both.embed("letters", ["12"])[0, 0] == 12
    assert both.embed("letters", [str(i) for i in range(100)]).rows[:, 0].tolist() == list(range(100))
    assert server.tries == {"GetEncoder": 21, "Embed": 21, "EmbedStream": 21}


@pytest.mark.usefixtures("_briskly")  # whose own pauses are far shorter than what this server asks for
def test_a_busy_server_is_asked_again_when_it_says(both: EitherClient, server: FakeServer) -> None:
    busy = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded", "the queue is full", after=0.2)
    server.plan = lambda method, attempt, answers: busy if attempt == 1 else None
    started = time.monotonic()
    both.encoders()
    assert time.monotonic() - started >= 0.2
    both.embed("letters", [str(i) for i in range(100)])
    assert time.monotonic() - started >= 3 * 0.2 - 0.05  # of GetEncoder and of the stream


def test_a_server_that_asks_for_more_time_than_there_is(factory: ClientFactory, server: FakeServer) -> None:
    busy = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded", "the queue is full", after=100.0)
    server.plan = lambda method, attempt, answers: busy
    with pytest.raises(topwork.Overloaded) as caught:
        factory.open().encoders()
    assert caught.value.retry_after == 100.0
    assert server.tries == {"ListEncoders": 1}


ONCE: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("Train", {"set": "birds", "target": "label"}),
    "probe": ("Probe", {"sets": "birds", "target": "label"}),
    "create_index": ("CreateIndex", {"set": "birds"}),
    "rebuild_index": ("RebuildIndex", {"set": "birds"}),
    "drop_index": ("DropIndex", {"set": "birds", "name": "pooled"}),
    "drop_set": ("DropSet", {"name": "birds"}),
    "drop_head": ("DropHead", {"name": "birds-label"}),
}


@pytest.mark.parametrize("refusal", [shed, cut_off, unavailable, overloaded])
@pytest.mark.parametrize("verb", ONCE)
def test_what_might_be_done_twice_is_not_sent_again(both: EitherClient, server: FakeServer, verb: str, refusal: Any) -> None:
    method, arguments = ONCE[verb]
    server.plan = lambda name, attempt, answers: refusal() if name == method else None
    with pytest.raises((topwork.Overloaded, topwork.Unavailable)):
        getattr(both, verb)(**arguments)
    assert server.tries[method] == 1


@pytest.mark.usefixtures("_briskly")
def test_what_the_server_refused_unread_is_sent_again(both: EitherClient, server: FakeServer) -> None:
    both.write("birds", ["a"], ["1"], encoder="letters")
    refusals = {1: ("Overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED), 2: ("Unavailable", grpc.StatusCode.UNAVAILABLE)}

    def plan(name: str, attempt: int, answers: int) -> Refusal | None:
        if name != "CreateIndex" or attempt not in refusals:
            return None
        reason, code = refusals[attempt]
        return Refusal(code, reason, "come back", after=0.01)

    server.plan = plan
    assert both.create_index("birds").name == "pooled"
    assert server.tries["CreateIndex"] == 3


def test_what_never_left_is_sent_again(factory: ClientFactory, server: FakeServer) -> None:
    """Nobody listens at first; the server comes up while the call waits."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    late = FakeServer()
    factory.target = f"127.0.0.1:{port}"
    opening = threading.Timer(0.5, lambda: late.open(port))
    opening.start()
    try:
        with pytest.raises(topwork.NotFound, match="no set 'birds'"):
            factory.open(retry_for=60).create_index("birds")
    finally:
        opening.join()
        late.__exit__()


def test_who_waited_for_a_job_is_told_its_name(both: EitherClient, server: FakeServer) -> None:
    both.write("birds", ["a"], ["1"], [{"label": "owl"}], encoder="letters")
    server.gate.clear()
    with pytest.raises(topwork.DeadlineExceeded) as caught:
        both.create_index("birds", timeout=0.3)
    message = str(caught.value)
    assert "index job job-1 on 'birds/pooled' is not done in time: 0%" in message
    assert "watch_job('job-1')" in message
    assert "video" not in message
    with pytest.raises(topwork.DeadlineExceeded, match=r"the job has not ended within 0\.2 s .*jobs\(\)|s .*watch_job"):
        list(both.watch_job("job-1", timeout=0.2))


@pytest.mark.parametrize("verb", ["train", "probe", "create_index"])
def test_who_waited_for_a_beginning_is_told_where_to_look(both: EitherClient, server: FakeServer, verb: str) -> None:
    method, arguments = ONCE[verb]
    held = threading.Event()
    server.plan = lambda name, attempt, answers: held.wait(20) and None if name == method else None
    try:
        with pytest.raises(topwork.DeadlineExceeded, match=r"within 0\.2 s \(it may have begun: `jobs\(\)`"):
            getattr(both, verb)(**arguments, timeout=0.2)
    finally:
        held.set()


def test_who_waited_for_an_encoder_is_told_what_it_does(
    both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_requests, "SOON", 30.0)
    server.plan = lambda name, attempt, answers: server.busy_with("letters", "measuring cpu fp32") if name == "Embed" else None
    with pytest.raises(topwork.DeadlineExceeded, match="letters is exporting: measuring cpu fp32"):
        both.embed("letters", ["a"], timeout=0.3)


def test_who_waited_for_a_write_is_told_how_far_it_came(both: EitherClient, server: FakeServer) -> None:
    def plan(name: str, attempt: int, answers: int) -> Refusal | None:
        if name == "Write" and answers == 1:
            server.cancelled.wait(30)
        return None

    server.plan = plan
    with pytest.raises(topwork.DeadlineExceeded, match=r"\d+ items are done"):
        both.write("birds", [str(i) for i in range(300)], range(300), encoder="letters", timeout=0.5)


@pytest.mark.parametrize("verb", ["write", "embed", "predict"])
def test_silence_is_borne_while_the_encoder_moves(both: EitherClient, server: FakeServer, verb: str) -> None:
    """A reply that comes long after the timeout: the encoder had been looked at ten times, and had gone on each time."""
    both.write("s", ["a", "b"], ["1", "2"], [{"label": "x"}, {"label": "y"}], encoder="letters")
    both.train("s", target="label", name="h")
    looks, seen = threading.Semaphore(0), iter(range(1_000_000))

    def samples() -> int:
        looks.release()
        return next(seen)

    def plan(name: str, attempt: int, answers: int) -> Refusal | None:
        if name in ("Write", "EmbedStream", "PredictStream") and answers == 1:
            for _ in range(10):
                assert looks.acquire(timeout=60)
        return None

    server.samples, server.plan = samples, plan
    texts = [str(i) for i in range(300)]
    if verb == "write":
        assert both.write("birds", texts, range(300), encoder="letters", timeout=0.2).inserted == 300
    elif verb == "embed":
        assert len(both.embed("letters", texts, timeout=0.2)) == 300
    else:
        assert len(both.predict("h", texts, timeout=0.2)) == 300


class Server:
    """One that takes so many seconds an item; chunks wait in line. It sees what a writer sends by its pace."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.clock = seconds, Clock()
        self.line: list[int] = []
        self.answers: list[float] = []
        self.chunks: list[int] = []

    def run(self, items: int) -> None:
        pace, left = SendWindow(128, self.clock), items
        while left or self.line:
            while left and len(self.line) < pace.window(32):
                self.line.append(min(pace.limit(), left))
                left -= self.line[-1]
                pace.sent()
            done = self.line.pop(0)
            self.clock.now += done * self.seconds
            pace.answered(done, idle=not self.line)
            self.answers.append(self.clock.now)
            self.chunks.append(done)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0])
def test_a_slow_server_acknowledges_every_few_seconds(seconds: float) -> None:
    server = Server(seconds)
    server.run(5000)
    gaps = [after - before for before, after in itertools.pairwise(server.answers)]
    assert max(gaps[FIRST:]) <= max(CHUNK, 4 * seconds) + 1e-6


def test_a_fast_server_gets_all_that_it_can_take() -> None:
    server = Server(1e-4)
    server.run(50_000)
    assert set(server.chunks[:-1]) == {128}
    pace = SendWindow(128, server.clock)
    pace.sent()
    server.clock.now += 0.01
    pace.answered(128, idle=False)
    assert pace.window(32) == 32


@pytest.mark.parametrize(
    ("wrong", "pattern"),
    [
        ({"target": None}, "target is None"),
        ({"target": ""}, "target is empty"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"timeout": float("nan")}, "timeout is not a number"),
        ({"retry_for": -1}, "retry_for is -1"),
        ({"gzip": 1}, "gzip is 1"),
        ({"credentials": "secret"}, "credentials are 'secret'"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"metadata": [("Upper", "b")]}, "metadata"),
        ({"metadata": [("key", 1)]}, "metadata"),
    ],
)
@pytest.mark.parametrize("kind", [topwork.Client, topwork.AsyncClient])
def test_a_client_that_cannot_be_opened(kind: Any, wrong: dict[str, Any], pattern: str) -> None:
    with pytest.raises(topwork.InvalidInput, match=pattern):
        kind(**wrong)


def test_what_a_failed_call_held_goes_with_its_error(client: topwork.Client) -> None:
    class Held:
        pass

    def fail() -> weakref.ref[Held]:
        held = Held()
        try:
            client.encoder("nosuch")
        except topwork.NotFound:
            return weakref.ref(held)
        pytest.fail("there is no such encoder")

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()
