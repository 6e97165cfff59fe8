from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from topwork_server.batcher import Batcher, Lane, Ticket
from topwork_server.errors import DeadlinePassed, TooLarge, TopworkError, Unavailable
from topwork_server.sessions.providers import PLAIN
from topwork_server.types import Array, Numerics, Sample, Text
from toys import DIM, TAPS, Gate, LetterOptions, Letters, letters_spec

NUMERICS = Numerics("cpu", "fp32", 1.0, 0.0)


class FakeSession:
    """Sums instead of a graph; `before` runs ahead of each batch."""

    device = PLAIN
    workers = 1
    inputs = ("codes", "mask")
    outputs = ("mean", "letters")
    provider, precision = "cpu", "fp32"

    def __init__(self, before: Callable[[int], None] = lambda size: None) -> None:
        self.before = before
        self.sizes: list[int] = []
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        codes, mask = feeds["codes"], feeds["mask"]
        self.before(len(codes))
        self.sizes.append(len(codes))
        rows = np.repeat((codes * mask)[..., None], DIM, axis=-1).astype(np.float32)
        found = {"mean": rows.sum(1) / mask.sum(1, keepdims=True), "letters": rows}
        return [found[name] for name in outputs]


class Bench:
    def __init__(self, before: Callable[[int], None] = lambda size: None, session: FakeSession | None = None) -> None:
        self.encoder = Letters(letters_spec(), Path())
        self.session = session or FakeSession(before)
        self.opened = 0
        self.fail_to_open = False
        self.health: list[bool] = []
        self.batcher = Batcher(self.encoder, [Lane(NUMERICS, lambda: [self._open()])], self.health.append)

    def _open(self) -> FakeSession:
        if self.fail_to_open:
            raise RuntimeError("no device")
        self.opened += 1
        return self.session

    def submit(self, *texts: str, deadline: float | None = None) -> Ticket:
        return self.batcher.submit([sample for text in texts for sample in self.samples(text)], TAPS, deadline)

    def samples(self, text: str) -> list[Sample]:
        return list(self.encoder.preprocess(Text(text), LetterOptions()))


def expected(text: str) -> float:
    return sum(text.encode()) / len(text)


def check(ticket: Ticket, *texts: str) -> None:
    for text, result in zip(texts, ticket.results, strict=True):
        assert isinstance(result, tuple)
        mean, letters = result
        np.testing.assert_allclose(mean, np.full((1, DIM), expected(text)), rtol=1e-6)
        assert letters.shape == (len(text), DIM)


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.batcher.close()


def errors_of(ticket: Ticket) -> list[type[TopworkError] | None]:
    return [type(result) if isinstance(result, TopworkError) else None for result in ticket.results]


def test_callers_get_their_own_rows(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        benches.append(bench := Bench())
        tickets = [bench.submit(text, text[::-1] + "x") for text in ("ab", "hello", "a longer text")]
        await asyncio.gather(*(ticket.done for ticket in tickets))
        for ticket, text in zip(tickets, ("ab", "hello", "a longer text"), strict=True):
            check(ticket, text, text[::-1] + "x")

    runner.run(go())


def test_those_who_wait_while_the_session_is_busy_ride_together(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        gate = Gate()
        benches.append(bench := Bench(lambda size: gate.wait()))
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        crowd = [bench.submit("12345678") for _ in range(8)]
        gate.open.set()
        await asyncio.gather(first.done, *(ticket.done for ticket in crowd))
        assert bench.session.sizes == [1, 8]  # 8 x 8 letters: the whole budget of 64

    runner.run(go())


def test_expired_and_cancelled_work_never_reaches_the_session(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        gate = Gate()
        benches.append(bench := Bench(lambda size: gate.wait()))
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        late = bench.submit("late", "late too", deadline=time.monotonic() - 1)
        leaver = bench.submit("leaver")
        leaver.cancel()
        stayer = bench.submit("stayer")
        gate.open.set()
        await asyncio.gather(first.done, late.done, leaver.done, stayer.done)
        assert errors_of(late) == [DeadlinePassed, DeadlinePassed]
        assert errors_of(stayer) == [None]
        assert sum(bench.session.sizes) == 2
        assert (bench.batcher.counters["expired"], bench.batcher.counters["cancelled"]) == (2, 1)

    runner.run(go())


def test_a_batch_out_of_memory_is_split_and_only_the_item_that_cannot_fit_fails(
    runner: asyncio.Runner, benches: list[Bench]
) -> None:
    gate = Gate()

    class Small(FakeSession):
        def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
            gate.wait()
            if len(feeds["codes"]) > 2 or (feeds["codes"][:, 0] == ord("!")).any():
                raise MemoryError("failed to allocate memory")
            return super().run(outputs, feeds)

    async def go() -> None:
        benches.append(bench := Bench(session=Small()))
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        crowd = bench.submit("aaaaaa", "bbbbbb", "!ccccc", "dddddd", "eeeeee")
        gate.open.set()
        await asyncio.gather(first.done, crowd.done)
        assert errors_of(crowd) == [None, None, TooLarge, None, None]
        assert bench.batcher.counters["memory_splits"] >= 2
        assert bench.batcher.counters["restarts"] == 0

    runner.run(go())


def test_a_worker_that_dies_fails_its_callers_and_is_restarted(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        def die_once(size: int) -> None:
            if not bench.session.sizes and bench.opened == 1:
                raise SystemExit("the device is gone")

        bench = Bench()
        benches.append(bench)
        bench.session.before = die_once
        victim = bench.submit("victim")
        await victim.done
        assert errors_of(victim) == [Unavailable]
        assert "the device is gone" in str(victim.results[0])
        while not bench.batcher.serving:
            await asyncio.sleep(0)
        survivor = bench.submit("survivor")
        await survivor.done
        check(survivor, "survivor")
        assert bench.health == [False, True]
        assert bench.opened == 2
        assert bench.batcher.counters["restarts"] == 1

    runner.run(go())


def test_while_a_session_cannot_be_reopened_callers_are_refused_at_once(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        bench = Bench()
        benches.append(bench)

        def die(size: int) -> None:
            bench.fail_to_open = True
            raise RuntimeError("the device is gone")

        bench.session.before = die
        victim = bench.submit("victim")
        await victim.done
        with pytest.raises(Unavailable, match="being restarted"):
            bench.submit("too early")
        assert bench.health == [False]
        bench.session.before = lambda size: None
        bench.fail_to_open = False
        while not bench.batcher.serving:
            await asyncio.sleep(0.01)
        survivor = bench.submit("survivor")
        await survivor.done
        check(survivor, "survivor")

    runner.run(go())


def test_closing_tells_those_who_wait(runner: asyncio.Runner) -> None:
    async def go() -> None:
        gate = Gate()
        bench = Bench(lambda size: gate.wait())
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        second = bench.submit("second")
        closing = asyncio.create_task(asyncio.to_thread(bench.batcher.close))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first.done, second.done, closing)
        check(first, "first")
        assert errors_of(second) in ([None], [Unavailable])
        with pytest.raises(Unavailable):
            bench.submit("after")

    runner.run(go())


def test_nothing_to_do_is_done_at_once(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        benches.append(bench := Bench())
        await asyncio.wait_for(bench.submit().done, 5)

    runner.run(go())
