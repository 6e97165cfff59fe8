"""Calls over bare frames end with the server's status."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from benchmarks.bare_http2 import connect


def test_each_call_ends_with_its_status() -> None:
    asyncio.run(each_call())


async def each_call() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        if request == b"no":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return request * 1000

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("made.Up", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = await connect(f"127.0.0.1:{port}", "/made.Up/Say")
    futures = [asyncio.get_running_loop().create_future() for _ in range(40)]
    for i, future in enumerate(futures):
        connection.send(b"no" if i % 2 else b"yes", future.set_result)
    assert await asyncio.wait_for(asyncio.gather(*futures), 10) == [0, 8] * 20
    assert connection.open == 0
    connection.close()
    await server.stop(None)
