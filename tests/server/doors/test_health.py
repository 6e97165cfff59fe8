"""Health over HTTP: true, also while draining."""

from __future__ import annotations

import fake_engine
from http_calls import get


async def test_readiness_is_that_of_the_server_and_of_an_encoder(tmp_path):
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        at = server.ready.http
        assert (await get(at, "/health/live")).status == 200
        assert (await get(at, "/health/ready")).json == {"ready": True, "reason": ""}
        assert (await get(at, "/health/ready?encoder=ready")).status == 200
        absent = await get(at, "/health/ready?encoder=absent")
        assert (absent.status, "absent" in absent.json["reason"]) == (503, True)
        unknown = await get(at, "/health/ready?encoder=nosuch")
        assert (unknown.status, "nosuch" in unknown.json["reason"]) == (503, True)
        await server.app.health.enter_graceful_shutdown()
        stopping = await get(at, "/health/ready")
        assert (stopping.status, "stopping" in stopping.json["reason"]) == (503, True)
        assert (await get(at, "/health/live")).status == 200
