"""Bytes under way: how many messages come in at a time, and how many are in work."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from fake_engine import refusal, served
from topwork.v1 import encoders_pb2, types_pb2
from topwork_server import process_resources
from topwork_server.errors import Overloaded
from topwork_server.services import message_budget
from topwork_server.services.message_budget import MAX_MESSAGE, MessageBudget

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def small_messages(monkeypatch):
    """A budget of 1 MiB."""
    monkeypatch.setattr(message_budget, "MAX_MESSAGE", MIB)


def ask(text, size=0):
    items = [types_pb2.Item(text=text), types_pb2.Item(image=bytes(size))]
    return encoders_pb2.EmbedRequest(settings=encoders_pb2.EmbedSettings(encoder="ready"), items=items)


async def test_large_messages_beyond_the_budget_are_refused_and_small_ones_answered(tmp_path, small_messages, monkeypatch):
    monkeypatch.setattr(MessageBudget.take, "__defaults__", (0.0,))
    async with served(tmp_path, message_budget=1) as server:
        first = server.encoders.Embed(ask("wait", 640 * KIB))
        await server.engine.until(lambda e: e.running == 1)
        code, message, info = await refusal(server.encoders.Embed(ask("a", 480 * KIB)))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
        assert "MiB" in message
        await server.encoders.Embed(ask("a"))
        server.engine.gate.set()
        await first
        await server.encoders.Embed(ask("a", 960 * KIB))


async def test_a_large_message_waits_for_the_one_before(tmp_path, small_messages):
    async with served(tmp_path, message_budget=1) as server:
        calls = [server.encoders.Embed(ask("wait", 640 * KIB)) for _ in range(2)]
        await server.engine.until(lambda e: e.running == 1)
        server.engine.gate.set()
        await asyncio.gather(*calls)
        assert server.engine.most_running == 1


async def test_streams_share_the_budget_and_wait(tmp_path, small_messages):
    async with served(tmp_path, message_budget=1) as server:

        async def stream(count):
            call = server.encoders.EmbedStream()
            await call.write(encoders_pb2.EmbedStreamRequest(settings=encoders_pb2.EmbedSettings(encoder="ready")))
            for _ in range(count):
                await call.write(encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=ask("a", 320 * KIB).items)))
            await call.done_writing()
            return len([reply async for reply in call])

        assert await asyncio.gather(*(stream(3) for _ in range(4))) == [3] * 4
        await server.app.requests.idle()
        assert server.app.budget.used == server.app.budget.waiting == 0


async def test_messages_come_in_by_turns_and_a_turn_ends():
    budget = MessageBudget(2 * MAX_MESSAGE)
    await budget.turn("a", 100)
    await budget.turn("b", 0)
    third = asyncio.create_task(budget.turn("c", 100))  # gets the turn of b, which is over
    await third
    fourth = asyncio.create_task(budget.turn("d", 100))
    await asyncio.sleep(0)
    assert not fourth.done()
    budget.came("a")
    await fourth


async def test_a_request_that_leaves_the_line_gives_its_place_to_the_next():
    budget = MessageBudget(MAX_MESSAGE)
    await budget.take(MAX_MESSAGE)
    leaver = asyncio.create_task(budget.take(MAX_MESSAGE // 2, 100))
    stays = asyncio.create_task(budget.take(MAX_MESSAGE // 4, 100))
    await asyncio.sleep(0)
    leaver.cancel()
    budget.release(MAX_MESSAGE)
    await stays
    assert (budget.used, budget.waiting) == (MAX_MESSAGE // 4, 0)


async def test_of_those_that_wait_no_more_are_kept_than_half_of_the_budget():
    budget = MessageBudget(4 * MAX_MESSAGE)
    await budget.take(4 * MAX_MESSAGE)
    waiting = [asyncio.create_task(budget.take(MAX_MESSAGE, 100)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await budget.take(MAX_MESSAGE, 100)
    budget.release(4 * MAX_MESSAGE)
    await asyncio.gather(*waiting)


async def test_a_stream_with_messages_in_work_reads_on_when_half_is_free():
    budget = MessageBudget(4 * MAX_MESSAGE)
    await budget.slack()
    await budget.take(3 * MAX_MESSAGE)
    reading = asyncio.create_task(budget.slack())
    await asyncio.sleep(0)
    assert not reading.done()
    budget.release(3 * MAX_MESSAGE)
    await reading


@pytest.mark.parametrize(
    ("lines", "files", "limits"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1000\n"}, [1000]),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "500\n", "memory/memory.limit_in_bytes": "900\n"}, [500, 900]),
        ("0::/../outside\n", {"memory.max": "700\n"}, [700]),
        ("5:cpuset:/\n", {}, []),
    ],
)
def test_the_limits_of_control_groups_are_found(tmp_path, lines, files, limits):
    (tmp_path / "cgroup").write_text(lines)
    root = tmp_path / "sys"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert process_resources.cgroup_limits(root, tmp_path / "cgroup") == limits


def test_the_memory_is_that_of_the_machine_or_less():
    assert 1 << 28 < process_resources.usable_memory() < 1 << 50
