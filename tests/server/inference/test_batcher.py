from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from topwork_server.errors import DeadlineExceeded, TooLarge, TopworkError, Unavailable
from topwork_server.inference.batcher import Backend, Batcher, BatchRequest
from topwork_server.runtime.providers import PLAIN
from topwork_server.types import Array, Numerics, Priority, Sample, TextItem
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
    def __init__(
        self,
        before: Callable[[int], None] = lambda size: None,
        session: FakeSession | None = None,
        encoder: type[Letters] = Letters,
    ) -> None:
        self.encoder = encoder(letters_spec(), Path())
        self.session = session or FakeSession(before)
        self.opened = 0
        self.fail_to_open = False
        self.health: list[bool] = []
        self.batcher = Batcher(self.encoder, [Backend(NUMERICS, lambda: [self._open()])], self.health.append)

    def _open(self) -> FakeSession:
        if self.fail_to_open:
            raise RuntimeError("no device")
        self.opened += 1
        return self.session

    def submit(self, *texts: str, deadline: float | None = None) -> BatchRequest:
        return self.batcher.submit([sample for text in texts for sample in self.samples(text)], TAPS, deadline)

    def samples(self, text: str) -> list[Sample]:
        return list(self.encoder.preprocess(TextItem(text), LetterOptions()))


def expected(text: str) -> float:
    return sum(text.encode()) / len(text)


def check(request: BatchRequest, *texts: str) -> None:
    for text, result in zip(texts, request.results, strict=True):
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


def errors_of(request: BatchRequest) -> list[type[TopworkError] | None]:
    return [type(result) if isinstance(result, TopworkError) else None for result in request.results]


def test_callers_get_their_own_rows(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        benches.append(bench := Bench())
        requests = [bench.submit(text, text[::-1] + "x") for text in ("ab", "hello", "a longer text")]
        await asyncio.gather(*(request.done for request in requests))
        for request, text in zip(requests, ("ab", "hello", "a longer text"), strict=True):
            check(request, text, text[::-1] + "x")

    runner.run(go())


def test_samples_that_wait_while_the_session_is_busy_share_a_batch(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        gate = Gate()
        benches.append(bench := Bench(lambda size: gate.wait()))
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        crowd = [bench.submit("12345678") for _ in range(8)]
        gate.open.set()
        await asyncio.gather(first.done, *(request.done for request in crowd))
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
        assert errors_of(late) == [DeadlineExceeded, DeadlineExceeded]
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


def test_closing_tells_the_requests_that_wait(runner: asyncio.Runner) -> None:
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


def test_a_batch_on_which_the_encoder_fails_does_not_end_the_worker_and_spares_its_other_samples(
    runner: asyncio.Runner, benches: list[Bench]
) -> None:
    class Brittle(Letters):
        def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
            if any(sample.inputs["codes"][0] == ord("!") for sample in samples):
                raise KeyError("no such letter")
            return super().collate(samples)

    async def go() -> None:
        benches.append(bench := Bench(encoder=Brittle))
        request = bench.submit("aaaa", "bbbb", "!ccc", "dddd")
        await request.done
        assert errors_of(request) == [None, None, TopworkError, None]
        assert "KeyError: 'no such letter'" in str(request.results[2])
        assert bench.health == []
        assert bench.batcher.counters["restarts"] == 0

    runner.run(go())


def test_a_caller_that_leaves_frees_its_samples_while_the_session_is_busy(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        gate = Gate()
        benches.append(bench := Bench(lambda size: gate.wait()))
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        leaver = bench.submit("leaver", "too")
        leaver.cancel()
        await asyncio.wait_for(leaver.done, 5)  # the gate is still closed
        assert bench.batcher.counters["cancelled"] == 2
        gate.open.set()
        await first.done
        leaver.cancel()
        assert bench.batcher.counters["cancelled"] == 2

    runner.run(go())


def test_a_higher_priority_overtakes_and_flows_take_turns(runner: asyncio.Runner, benches: list[Bench]) -> None:
    async def go() -> None:
        gate = Gate()
        benches.append(bench := Bench(lambda size: gate.wait()))
        first = bench.submit("first")
        await asyncio.to_thread(gate.reached.wait, 30)
        order: list[str] = []

        def put(name: str, text: str, client: str, priority: Priority) -> BatchRequest:
            request = bench.batcher.submit(bench.samples(text), TAPS, client=client, priority=priority)
            request.done.add_done_callback(lambda _: order.append(name))
            return request

        requests = [put(f"bulk {i}", "x" * 60, "bulk", Priority.NORMAL) for i in range(3)]
        requests.append(put("single", "y" * 60, "single", Priority.NORMAL))
        requests.append(put("urgent", "z" * 60, "bulk", Priority.HIGH))
        gate.open.set()
        await asyncio.gather(first.done, *(request.done for request in requests))
        assert order == ["urgent", "bulk 0", "single", "bulk 1", "bulk 2"]

    runner.run(go())


def test_what_was_computed_is_let_go_at_once(runner: asyncio.Runner, benches: list[Bench]) -> None:
    """A picture has 600 KB: it must not wait for Python to look for cycles."""

    async def go() -> None:
        benches.append(bench := Bench())
        request = bench.submit("ab")
        letters = weakref.ref(request.samples[0].inputs["codes"])
        await request.done
        del request
        bench.batcher.close()
        assert letters() is None

    gc.collect()
    gc.disable()
    try:
        runner.run(go())
    finally:
        gc.enable()


def test_each_lane_opens_when_it_is_needed_and_computes_its_own(runner: asyncio.Runner) -> None:
    fast, plain, opened = FakeSession(), FakeSession(), list[str]()

    def make_backend(name: str, session: FakeSession) -> Backend:
        def opening() -> list[FakeSession]:
            opened.append(name)
            return [session]

        return Backend(NUMERICS, opening)

    async def go() -> None:
        encoder = Letters(letters_spec(), Path())
        batcher = Batcher(encoder, [make_backend("fast", fast), make_backend("plain", plain)])
        samples = [sample for text in ("ab", "cd") for sample in encoder.preprocess(TextItem(text), LetterOptions())]
        await batcher.submit(samples, TAPS).done
        assert (opened, batcher.open_backends) == (["fast"], 1)
        request = batcher.submit(samples, TAPS, backend=1)
        await request.done
        check(request, "ab", "cd")
        assert (opened, fast.sizes, plain.sizes, batcher.open_backends) == (["fast", "plain"], [2], [2], 2)
        await asyncio.to_thread(batcher.close)
        assert (fast.closed, plain.closed) == (True, True)

    runner.run(go())


class Device(FakeSession):
    """Two batches at once; each waits for the others."""

    workers = 2


def test_a_session_that_cannot_be_opened_ends_no_other_and_is_tried_again(runner: asyncio.Runner) -> None:
    fast, plain, fails = FakeSession(), FakeSession(), [True]

    def opening() -> list[FakeSession]:
        if fails.pop():
            raise RuntimeError("no memory now")
        return [plain]

    async def go() -> None:
        encoder, health = Letters(letters_spec(), Path()), list[bool]()
        batcher = Batcher(encoder, [Backend(NUMERICS, lambda: [fast]), Backend(NUMERICS, opening)], health.append)
        samples = list(encoder.preprocess(TextItem("ab"), LetterOptions()))
        refused = batcher.submit(samples, TAPS, backend=1)
        await refused.done
        assert errors_of(refused) == [Unavailable]
        assert "RuntimeError: no memory now" in str(refused.results[0])
        assert health == []
        fails.append(False)
        for backend in (0, 1):
            request = batcher.submit(samples, TAPS, backend=backend)
            await request.done
            check(request, "ab")
        await asyncio.to_thread(batcher.close)

    runner.run(go())


def test_all_sessions_of_a_lane_compute_at_once_as_often_as_they_can(runner: asyncio.Runner) -> None:
    together = threading.Barrier(4, timeout=30)
    devices = [Device(lambda size: void(together.wait())) for _ in range(2)]

    async def go() -> None:
        encoder = Letters(letters_spec(), Path())
        batcher = Batcher(encoder, [Backend(NUMERICS, lambda: devices)])
        texts = [letter * 64 for letter in "abcd"]  # each fills a batch
        samples = [sample for text in texts for sample in encoder.preprocess(TextItem(text), LetterOptions())]
        request = batcher.submit(samples, TAPS)
        await request.done
        check(request, *texts)
        assert [device.sizes for device in devices] == [[1, 1], [1, 1]]
        await asyncio.to_thread(batcher.close)

    runner.run(go())


def test_when_one_of_several_workers_dies_all_sessions_are_opened_again_once(runner: asyncio.Runner) -> None:
    together, opened = threading.Barrier(2, timeout=30), list[Device]()

    def die(size: int) -> None:
        together.wait()
        raise RuntimeError("the device is gone")

    def opening() -> list[Device]:
        opened.append(Device() if opened else Device(die))
        return opened[-1:]

    async def go() -> None:
        health: list[bool] = []
        back = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell(serving: bool) -> None:
            health.append(serving)
            if serving:
                loop.call_soon_threadsafe(back.set)

        encoder = Letters(letters_spec(), Path())
        batcher = Batcher(encoder, [Backend(NUMERICS, opening)], tell)
        samples = [sample for text in ("a" * 64, "b" * 64) for sample in encoder.preprocess(TextItem(text), LetterOptions())]
        request = batcher.submit(samples, TAPS)
        await request.done
        assert errors_of(request) == [Unavailable, Unavailable]
        await asyncio.wait_for(back.wait(), 30)
        again = batcher.submit(samples, TAPS)
        await again.done
        check(again, "a" * 64, "b" * 64)
        assert (health, len(opened), opened[0].closed) == ([False, True], 2, True)
        assert batcher.counters["restarts"] == 1
        await asyncio.to_thread(batcher.close)

    runner.run(go())


def void(result: object) -> None:
    """Its value does not matter."""
