"""More than fits, at the door: what can be answered in time is, and the rest is told at once when to come back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from real_server import served
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, types_pb2
from topwork_server import EncoderSpec, Sample
from topwork_server.models import artifacts
from topwork_server.runtime.export import export_encoder
from topwork_server.types import Array
from toys import FakePlugins, Letters, letters_spec

#: Seconds that a batch takes, of which a request is two.
BATCH, CALLERS, WITHIN = 0.05, 60, 2.0


class Slow(Letters):
    """A session's time is told by the batch."""

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        time.sleep(BATCH)  # what a batch costs
        return super().collate(samples)


class Failing(Letters):
    """Cannot put one letter into a batch."""

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        if any(ord("!") in sample.inputs["codes"] for sample in samples):
            raise KeyError("a bug of the author's")
        return super().collate(samples)


def home_of(folder: Path, spec: EncoderSpec) -> Path:
    """A home where the encoder is ready."""
    artifacts.publish(folder, spec, lambda scratch: export_encoder(spec, Path(), scratch))
    return folder


def request(encoder: str, *texts: str) -> encoders_pb2.EmbedRequest:
    items = [types_pb2.Item(text=text) for text in texts]
    return encoders_pb2.EmbedRequest(settings=encoders_pb2.EmbedSettings(encoder=encoder), items=items)


async def asked(address: str, requests: Sequence[encoders_pb2.EmbedRequest], within: float | None) -> list[grpc.RpcError | None]:
    """The error of each call, each over a connection of its own, all at once."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in requests]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    stubs = [encoders_pb2_grpc.EncodersStub(channel) for channel in channels]
    calls = [stub.Embed(one, timeout=within) for stub, one in zip(stubs, requests, strict=True)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*(channel.close() for channel in channels))
    return [error if isinstance(error, grpc.RpcError) else None for error in found]


def retry_after(error: grpc.RpcError) -> float:
    status = rpc_status.from_call(error)
    info = error_details_pb2.RetryInfo()
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details)
    return info.retry_delay.ToMilliseconds() / 1000


def test_under_overload_with_deadlines_what_fits_is_answered_and_the_rest_refused_with_a_time(tmp_path: Path) -> None:
    spec = letters_spec("slow", Slow)
    with served(home_of(tmp_path, spec), FakePlugins([spec])) as address:
        crowd = request("slow", *["sixteen letters."] * 8)
        assert asyncio.run(asked(address, [crowd] * 2, None)) == [None, None]  # loaded, and its pace known
        errors = asyncio.run(asked(address, [crowd] * CALLERS, WITHIN))
    codes = Counter("OK" if error is None else error.code().name for error in errors)
    assert codes["OK"] >= 10  # of 20, on however slow a machine; taking turns answered none
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    refused = [error for error in errors if error and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert len(refused) >= CALLERS / 3
    assert all(0 < retry_after(error) < 60 for error in refused)


def test_a_collate_that_raises_fails_its_item_alone_and_ends_no_worker(tmp_path: Path) -> None:
    spec = letters_spec("failing", Failing)
    with served(home_of(tmp_path, spec), FakePlugins([spec])) as address:
        errors = asyncio.run(
            asked(address, [request("failing", "good"), request("failing", "good", "bad!"), request("failing", "fine")], None)
        )
        again = asyncio.run(asked(address, [request("failing", "good")], None))
    assert [error and error.code() for error in errors] == [None, grpc.StatusCode.INTERNAL, None]
    assert 'KeyError: "a bug of the author\'s"' in str(errors[1].details())  # type: ignore[union-attr]
    assert again == [None]
