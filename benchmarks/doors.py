"""Each door beside native gRPC: the same server, the same texts, in the same rounds; and what the doors cost at rest.

python -m benchmarks.doors [--rounds 3] [--seconds 4]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import grpc
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, types_pb2
from topwork_server.config import default_home

from benchmarks.measure import Figures, concurrent_loop, median_ratio, medians, table
from benchmarks.processes import scratch_home, server

ENCODER = "all-minilm-l6-v2"
TEXTS = [f"a sentence about {thing}, of which there are many: {i}" for i, thing in enumerate(["birds", "the sea"] * 32)]
NATIVE = "gRPC"
#: Texts of a request, and callers.
LOADS = {"1 text, 1 caller": (1, 1), "1 text, 64 callers": (1, 64), "64 texts, 1 caller": (64, 1), "64 texts, 4 callers": (64, 4)}

Send = Callable[[int], Awaitable[object]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    asked = parser.parse_args()
    with scratch_home(default_home()) as home:
        at_rest = {name: _at_rest(home, *flags) for name, flags in {"gRPC alone": (), "all doors": ("--http", _free())}.items()}
        with server(home, "--http", http := _free()) as (address, _):
            asyncio.run(_compare(address, http, asked.rounds, asked.seconds))
    print(table(["server", "seconds to ready", "MiB at rest"], [[name, *figures] for name, figures in at_rest.items()]))
    return 0


def _free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def _at_rest(home: Path, *flags: str) -> tuple[float, float]:
    """Seconds until a server is ready, and its resident memory then, in MiB: the least of three."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        with server(home, *flags) as (_, process):
            found.append((time.perf_counter() - began, process.memory_info().rss / 2**20))
    return min(seconds for seconds, _ in found), min(mebibytes for _, mebibytes in found)


async def _compare(address: str, http: str, rounds: int, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        connector = aiohttp.TCPConnector(limit=128)
        session = await stack.enter_async_context(aiohttp.ClientSession(f"http://{http}", connector=connector))
        for load, (texts, callers) in LOADS.items():
            doors = _doors(channel, session, TEXTS[:texts])
            for send in doors.values():
                await send(0)  # the encoder is loaded, and connections are open
            measured: dict[str, list[Figures]] = {name: [] for name in doors}
            for number in range(rounds):
                for name in list(doors)[:: 1 if number % 2 == 0 else -1]:
                    measured[name].append(await concurrent_loop(doors[name], callers, seconds))
            print(table([load, "texts/s", "p50 ms", "to gRPC"], [_line(name, measured, texts) for name in doors]), flush=True)


def _line(name: str, measured: Mapping[str, list[Figures]], texts: int) -> list[object]:
    mine, native = ([one["per_s"] for one in measured[which]] for which in (name, NATIVE))
    figures = medians(measured[name])
    return [name, figures["per_s"] * texts, figures["p50_ms"], median_ratio(mine, native)]


def _doors(channel: grpc.aio.Channel, session: aiohttp.ClientSession, texts: list[str]) -> dict[str, Send]:
    stub = encoders_pb2_grpc.EncodersStub(channel)  # type: ignore[no-untyped-call]
    request = encoders_pb2.EmbedRequest(items=[types_pb2.Item(text=text) for text in texts])
    request.settings.encoder = ENCODER
    plain = json.dumps({"settings": {"encoder": ENCODER}, "items": [{"text": text} for text in texts]}).encode()
    post = partial(_post, session)

    async def native(number: int) -> object:
        return await stub.Embed(request)

    def openai(encoding: str) -> Send:
        body = json.dumps({"model": ENCODER, "input": texts, "encoding_format": encoding}).encode()
        return partial(post, "/v1/embeddings", "application/json", body)

    embed = "/topwork.v1.Encoders/Embed"
    return {
        NATIVE: native,
        "Connect, protobuf": partial(post, embed, "application/proto", request.SerializeToString()),
        "Connect, JSON": partial(post, embed, "application/json", plain),
        "OpenAI, base64": openai("base64"),
        "OpenAI, floats": openai("float"),
        "OpenAI, bytes": openai("bytes_only"),
    }


async def _post(session: aiohttp.ClientSession, path: str, kind: str, body: bytes, number: int) -> object:
    async with session.post(path, data=body, headers={"content-type": kind}) as reply:
        found = await reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {found[:200]!r}")
        return found


if __name__ == "__main__":
    sys.exit(main())
