"""Requests that are small for their caller and large for the server: refused before anything is made of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import fake_engine
import grpc
import psutil
import pytest
from fake_engine import refusal, served
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from topwork.v1 import encoders_pb2, heads_pb2, indexes_pb2, jobs_pb2, sets_pb2, types_pb2
from topwork_server.doors.protocols import oip_pb2, tei_pb2
from topwork_server.services import message_limits

MIB = 1 << 20
LONG = "a" * MIB
MODULES = (encoders_pb2, sets_pb2, indexes_pb2, heads_pb2, jobs_pb2)
METHODS = [method for module in MODULES for service in module.DESCRIPTOR.services_by_name.values() for method in service.methods]
OTHERS = [
    method for other in (oip_pb2, tei_pb2) for service in other.DESCRIPTOR.services_by_name.values() for method in service.methods
]
TEXTS = [types_pb2.Item(text=LONG)]
SETTINGS = encoders_pb2.EmbedSettings


def name_of(method):
    return f"/{method.containing_service.full_name}/{method.name}"


def kind_of(descriptor):
    return message_factory.GetMessageClass(descriptor)


def begin(channel, method):
    """A call that takes bytes, and the requests that it was given."""
    ways = {True: "stream", False: "unary"}
    return getattr(channel, f"{ways[method.client_streaming]}_{ways[method.server_streaming]}")(name_of(method))


async def answered(channel, method, *messages):
    """The refusal that the call ends with, sent as these bytes."""
    call = begin(channel, method)(iter(messages) if method.client_streaming else messages[0])
    if not method.server_streaming:
        return await refusal(call)

    async def read():
        async for _ in call:
            pass

    return await refusal(read())


def first_name(descriptor):
    """The path to a string field that holds a name, through messages and the body of a oneof; None where there is none."""
    for field in descriptor.fields:
        if field.type == field.TYPE_STRING and field.full_name not in message_limits.TEXTS:
            return [field]
    for field in descriptor.fields:
        if (
            field.message_type
            and field.message_type.full_name.startswith("topwork")
            and (inner := first_name(field.message_type))
        ):
            return [field, *inner]
    return None


def varint(number):
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def with_name(path, text):
    """The bytes of a message with that text in the field."""
    data = text
    for one in reversed(path):
        data = field(one.number, data)
    return data


NAMED = [method for method in METHODS if first_name(method.input_type)]


def test_every_request_that_holds_anything_has_a_name():
    """Else the tests below would show little."""
    assert {method.name for method in METHODS} - {method.name for method in NAMED} == {
        "ListEncoders",
        "ListSets",
        "ListKinds",
        "ListTrainers",
        "ListPretrainers",
    }


def test_every_text_that_is_no_name_is_a_field():
    fields = set()

    def walk(descriptor):
        for one in descriptor.fields:
            if one.full_name not in fields:
                fields.add(one.full_name)
                _ = one.message_type and walk(one.message_type)

    for method in [*METHODS, *OTHERS]:
        walk(method.input_type)
    assert set(message_limits.TEXTS) <= fields


#: A server without Python's collector, which counts objects and not bytes, whose C library takes large blocks from the system and
#: gives them back at once (M_MMAP_THRESHOLD), and whose engine remembers nothing.
SERVER = """
import asyncio, collections, ctypes, gc, pathlib, sys
import fake_engine
gc.disable()
getattr(ctypes.CDLL(None), "mallopt", bool)(-3, 128 << 10)
made = fake_engine.FakeEngine.__init__
def forgetful(self, *arguments):
    made(self, *arguments)
    self.asked = collections.deque(maxlen=0)
fake_engine.FakeEngine.__init__ = forgetful
asyncio.run(fake_engine._main(pathlib.Path(sys.argv[1]), 0.0, ""))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its address, and its process."""
    command = [sys.executable, "-c", SERVER, str(tmp_path_factory.mktemp("home"))]
    tests = str(Path(fake_engine.__file__).parent)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tests
    ) as child:
        yield child.stdout.readline().strip(), psutil.Process(child.pid)
        child.terminate()


async def test_a_name_that_is_too_long_is_refused_by_every_method_and_leaves_nothing(server):
    address, process = server
    async with grpc.aio.insecure_channel(address) as channel:
        await one_each(channel, LONG)
        before = process.memory_info().rss
        for _ in range(3):
            await one_each(channel, LONG)
        await falls(process, before + 20 * MIB)  # of 80 more


async def falls(process, size):
    """Wait until the memory is less: gRPC's core lets go of a call a moment after its status has left."""
    for _ in range(400):
        if process.memory_info().rss < size:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{process.memory_info().rss // MIB} MiB are not less than {size // MIB}")


async def one_each(channel, text):
    for method in NAMED:
        path = first_name(method.input_type)
        code, message, info = await answered(channel, method, with_name(path, text.encode()))
        assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput"), method.full_name
        assert path[-1].name in message
        assert len(message) < 300


REFUSED = {
    "a dtype that rows do not have": (
        "Embed",
        encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="ready", dtype=5), items=TEXTS),
    ),
    "a priority that is not there": (
        "Embed",
        encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="ready", priority=9), items=TEXTS),
    ),
    "an item that is refused": (
        "Embed",
        encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="ready"), items=[*TEXTS, types_pb2.Item(text="bad")]),
    ),
    "a bug": (
        "Embed",
        encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="ready"), items=[*TEXTS, types_pb2.Item(text="crash")]),
    ),
    "an encoder without words": ("NearestWords", encoders_pb2.NearestWordsRequest(encoder="ready", k=2000, items=TEXTS)),
    "a head that is not there": (
        "Predict",
        heads_pb2.PredictRequest(settings=heads_pb2.PredictSettings(heads=["nobody"]), items=encoders_pb2.Items(items=TEXTS)),
    ),
    "a set that is not there": ("Search", indexes_pb2.SearchRequest(set="nobody", items=encoders_pb2.Items(items=TEXTS))),
    "rows to read that are not there": ("Read", sets_pb2.ReadRequest(set="nobody", where=LONG)),
    "rows to delete that are not there": ("DeleteRows", sets_pb2.DeleteRowsRequest(set="nobody", where=LONG)),
    "labels that are not there": ("Train", heads_pb2.TrainRequest(set="nobody", target="a", where=LONG)),
    "a stream without settings": ("EmbedStream", encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=TEXTS))),
    "a write without settings": ("Write", sets_pb2.WriteRequest(chunk=LONG.encode())),
}
#: Streams whose second message is refused.
SECOND = {
    "an item of a stream": (
        "EmbedStream",
        encoders_pb2.EmbedStreamRequest(settings=SETTINGS(encoder="ready")),
        encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=[*TEXTS, types_pb2.Item(text="bad")])),
    ),
    "a message that is too full": (
        "EmbedStream",
        encoders_pb2.EmbedStreamRequest(settings=SETTINGS(encoder="ready")),
        encoders_pb2.EmbedStreamRequest(items=encoders_pb2.Items(items=[*TEXTS, *[types_pb2.Item()] * 2000])),
    ),
    "a write of an item without an id": (
        "Write",
        sets_pb2.WriteRequest(settings=sets_pb2.WriteSettings(set="s", encoder="ready")),
        sets_pb2.WriteRequest(rows=sets_pb2.WriteRows(items=TEXTS)),
    ),
}


@pytest.mark.parametrize("case", [*REFUSED, *SECOND])
async def test_memory_goes_with_the_reply(server, case):
    address, process = server
    name, *messages = (REFUSED | SECOND)[case]
    method = next(method for method in METHODS if method.name == name)
    sent = [message.SerializeToString() for message in messages]
    async with grpc.aio.insecure_channel(address) as channel:
        await answered(channel, method, *sent)
        before = process.memory_info().rss
        for _ in range(40):
            await answered(channel, method, *sent)
        await falls(process, before + 20 * MIB)


def options(count):
    request = encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="ready"), items=[types_pb2.Item(text="a")])
    request.settings.options.fields["scale"].list_value.extend([1.0] * count)
    return request.SerializeToString()


def nested(depth):
    request = encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="ready"), items=[types_pb2.Item(text="a" * 2000)])
    value = request.settings.options.fields["scale"]
    for _ in range(depth):
        value = value.struct_value.fields["a"]
    return request.SerializeToString()


FULL = {
    "options": ("Embed", options(100_000), "ListValue"),
    "nested options": ("Embed", nested(20), "deep"),
    "items": ("Embed", b"\x12\x00" * MIB, "items"),
    "taps": ("Embed", encoders_pb2.EmbedRequest(settings=SETTINGS(taps=["a"] * 100_000)).SerializeToString(), "taps"),
    "columns": ("Read", sets_pb2.ReadRequest(set="a", columns=["a"] * 100_000).SerializeToString(), "columns"),
    "heads": (
        "Predict",
        heads_pb2.PredictRequest(settings=heads_pb2.PredictSettings(heads=["a"] * 100_000)).SerializeToString(),
        "heads",
    ),
    "unknown fields": ("Embed", b"\x78\x00" * MIB, "unknown"),
    "numbers": ("Embed", field(2, field(5, field(2, bytes(5 * MIB)))), "shape"),
    "descriptions": (
        "Train",
        heads_pb2.TrainRequest(set="a", descriptions={str(i): "a" for i in range(10_000)}).SerializeToString(),
        "descriptions of more than 4,096 classes",
    ),
}


@pytest.mark.parametrize("case", FULL)
async def test_a_message_of_too_many_is_refused_with_what_there_are_too_many_of(tmp_path, case):
    name, data, word = FULL[case]
    method = next(method for method in METHODS if method.name == name)
    async with served(tmp_path) as server:
        code, message, _ = await answered(server.channel, method, data)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert word in message
        assert not server.engine.asked


UNDECODABLE = {
    "no field": b"\xff\xff\xff",
    "cut off": encoders_pb2.EmbedRequest(
        settings=SETTINGS(encoder="ready"), items=[types_pb2.Item(text="a" * 3000)]
    ).SerializeToString()[:-7],
    "a group": b"\x0b" * 2000,
    "a text that is not UTF-8": b"\x12\x04\x0a\x02\xff\xfe",
    "nested too deep": encoders_pb2.EmbedRequest(settings=SETTINGS(encoder="\0")).SerializeToString() + b"\x0a\x02\x32\x7f",
}


@pytest.mark.parametrize("data", UNDECODABLE.values(), ids=UNDECODABLE)
async def test_bytes_that_are_no_message_are_an_invalid_argument_and_a_line_of_the_log(tmp_path, caplog, data):
    method = next(method for method in METHODS if method.name == "Embed")
    async with served(tmp_path) as server:
        for _ in range(30):
            code, message, info = await answered(server.channel, method, data)
            assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput")
            assert "EmbedRequest" in message
    lines = [record for record in caplog.records if "EmbedRequest" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].exc_info is None


async def test_a_stream_of_bytes_that_are_no_message_ends_after_the_replies_before_it(tmp_path):
    async with served(tmp_path) as server:
        call = server.channel.stream_stream("/topwork.v1.Encoders/EmbedStream")()
        await call.write(encoders_pb2.EmbedStreamRequest(settings=SETTINGS(encoder="ready")).SerializeToString())
        items = encoders_pb2.Items(items=[types_pb2.Item(text="a")])
        await call.write(encoders_pb2.EmbedStreamRequest(items=items).SerializeToString())
        await call.write(b"\xff\xff")
        assert len(encoders_pb2.EmbedResponse.FromString(await call.read()).features) == 1
        code, _, _ = await refusal(call.read())
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_health_refuses_a_name_that_is_too_long(tmp_path):
    async with served(tmp_path) as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        code, _, _ = await refusal(health.Check(health_pb2.HealthCheckRequest(service="encoder/" + LONG)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


CROWDED = """
import resource, psutil
from topwork.v1 import types_pb2
from topwork_server.services.message_limits import decode
data = types_pb2.Tensor(data=bytes(64 << 20)).SerializeToString()
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (8 << 20),) * 2)
try:
    decode(data, types_pb2.Tensor)
except MemoryError as error:
    print(error)
"""


def test_a_whole_message_that_finds_no_memory_is_not_called_broken() -> None:
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "a message of 67,108,869 bytes\n", done.stderr
