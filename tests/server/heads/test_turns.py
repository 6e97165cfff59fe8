"""Trainings and drops of one name begin one after another, whichever of their callers leaves."""

from __future__ import annotations

import asyncio
import threading

import pytest
from heads_harness import open_heads
from passes import of_head
from topwork_server.errors import AlreadyExists
from topwork_server.heads.head_status import HeadState
from topwork_server.heads.head_types import TrainRequest

BIRDS = TrainRequest("birds", "label")


@pytest.mark.parametrize("work", ["pin_training", "move_to_head"])
async def test_a_caller_that_leaves_keeps_the_lock_until_its_work_is_done(home, monkeypatch, work):
    """The next must not begin in the middle of it, be it a training or a drop."""
    async with open_heads(home) as w:
        await w.fill()
        if work == "move_to_head":
            await w.heads.wait_until_trained(of_head((await w.heads.train(BIRDS)).name))
        held, go, plain = threading.Event(), threading.Event(), getattr(w.heads._pins, work)

        def slow(*arguments):
            held.set()
            assert go.wait(10)
            return plain(*arguments)

        monkeypatch.setattr(w.heads._pins, work, slow)
        w.jobs.gate.clear()
        first = asyncio.create_task(w.heads.train(BIRDS) if work == "pin_training" else w.heads.drop(of_head("birds-label")))
        await asyncio.to_thread(held.wait, 10)
        first.cancel()
        second = asyncio.create_task(w.heads.train(BIRDS))
        done, _ = await asyncio.wait({second}, timeout=0.3)
        assert not done
        assert len(w.jobs.started) == (work == "move_to_head")
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        w.jobs.gate.set()
        if work == "pin_training":
            with pytest.raises(AlreadyExists, match="is in training"):
                await second
        else:
            await second
        assert (await w.heads.wait_until_trained(of_head("birds-label"))).state is HeadState.READY
        assert list(w.pins()) == ["head-birds-label"]
