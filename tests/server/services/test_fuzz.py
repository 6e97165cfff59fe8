"""Thousands of messages that no client would send, made from the descriptors of all methods: each is answered without a fault."""

from __future__ import annotations

import random
from collections import Counter

import grpc
import numpy as np
import pytest
import real_server
import sets_harness
import topwork
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from grpc_health.v1 import health_pb2, health_pb2_grpc
from topwork.v1 import encoders_pb2, heads_pb2, indexes_pb2, jobs_pb2, sets_pb2, types_pb2
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from toys import FakePlugins

MODULES = (encoders_pb2, sets_pb2, indexes_pb2, heads_pb2, jobs_pb2)
METHODS = [m for module in MODULES for service in module.DESCRIPTOR.services_by_name.values() for m in service.methods]
#: Messages of each method, and replies of one stream that are read.
EACH, MOST_REPLIES = 70, 50
SEED = 10
#: A call that has no answer after so many will never have one.
SECONDS = 60
OURS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)

#: What there is, by the fields that name it.
NAMES = {
    "set": ["birds", "ready"],
    "sets": ["birds", "ready"],
    "encoder": ["letters", "second"],
    "taps": ["mean", "letters"],
    "tap": ["mean", "letters"],
    "columns": ["label", "n"],
    "target": ["label", "n"],
    "group": ["label"],
    "where": ["n > 2", "label = 'a'", "n >", "nothing = 1", 'label != "n"', "(" * 300, "n > 1e999", "label LIKE '%'", "1"],
    "test_where": ["n > 7"],
    "ids": ["0", "1", "x" * 600],
    "values": ["0", "1"],
    "name": ["letters", "mean", "label"],
    "kind": ["", "linear", "toy", "flat", "auto"],
    "poolings": ["mean", "max", "pair"],
    "pin": ["p", "head/x", "../../p"],
    "unlabeled": ["self-training", "label-propagation"],
}
TEXTS = ["", "a", "x" * 1025, "\0", "é\u0301", "../../etc/passwd", "a'b\"c;--", "{}", "NaN", "%s%n", "\u202e", "🦖" * 300]
INTS = [0, 1, 2, 5, 99, 10_000, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**31), -(2**63)]
FLOATS = [0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308, 1e-320, 1e9]
RANGES = {
    F.TYPE_INT32: (-(2**31), 2**31 - 1),
    F.TYPE_ENUM: (-(2**31), 2**31 - 1),
    F.TYPE_UINT32: (0, 2**32 - 1),
    F.TYPE_INT64: (-(2**63), 2**63 - 1),
    F.TYPE_UINT64: (0, 2**64 - 1),
}


def features():
    rows = types_pb2.Tensor(dtype=1, shape=[2, 8], data=bytes(64))
    return types_pb2.TapFeatures(tap="vectors", granularity=1, rows=rows, counts=[1, 1])


COLUMNS = [sets_pb2.Column(name="n", type=2, ints=[1, 2]), sets_pb2.Column(name="label", type=4, strings=["a", "b"], nulls=[1])]
TEXT = [types_pb2.Item(text="a bird")]
ITEMS = encoders_pb2.Items(items=TEXT)
#: What the server takes, some fields of which are then changed: so that more than the first check is met.
GOOD = {
    "Embed": [encoders_pb2.EmbedRequest(settings={"encoder": "letters", "taps": ["mean"], "options": {"repeat": 2}}, items=TEXT)],
    "EmbedStream": [
        encoders_pb2.EmbedStreamRequest(settings={"encoder": "letters", "dimensions": 4}),
        encoders_pb2.EmbedStreamRequest(items=ITEMS),
    ],
    "NearestWords": [encoders_pb2.NearestWordsRequest(encoder="letters", items=TEXT, k=3)],
    "Fill": [encoders_pb2.FillRequest(settings=encoders_pb2.EmbedSettings(encoder="letters"), items=TEXT, k=3)],
    "Write": [
        sets_pb2.WriteRequest(settings={"set": "ready"}),
        sets_pb2.WriteRequest(rows=sets_pb2.WriteRows(ids=["a", "b"], features=[features()], metadata=COLUMNS)),
    ],
    "Read": [sets_pb2.ReadRequest(set="birds", all_taps=True, columns=["n"], where="n > 2", limit=3, offset=1)],
    "DeleteRows": [sets_pb2.DeleteRowsRequest(set="birds", ids=["nobody"])],
    "PinVersion": [sets_pb2.PinVersionRequest(set="birds", pin="p", version=1)],
    "PruneVersions": [sets_pb2.PruneVersionsRequest(set="birds", older_than=1e9)],
    "CreateIndex": [indexes_pb2.CreateIndexRequest(set="birds", name="i", tap="mean", kind="nothing", target_recall=0.9)],
    "Search": [
        indexes_pb2.SearchRequest(
            set="ready", vectors=types_pb2.Tensor(dtype=1, shape=[2, 8], data=bytes(64)), k=3, where="n > 1"
        )
    ],
    "Train": [heads_pb2.TrainRequest(set="birds", target="label", folds=2, options={"l2": 1.0}, where="n > 100")],
    "Probe": [heads_pb2.ProbeRequest(sets=["birds"], target="nothing", folds=2)],
    "Predict": [heads_pb2.PredictRequest(settings={"heads": ["birds-label"], "top": 2}, items=ITEMS)],
    "PredictStream": [
        heads_pb2.PredictStreamRequest(settings={"heads": ["birds-label"]}),
        heads_pb2.PredictStreamRequest(items=ITEMS),
    ],
}


class ToysAndRealKinds(FakePlugins):
    """Jobs find the kinds by themselves, in their own processes."""

    real = PluginRegistry.load()

    def indexes(self):
        return self.real.indexes()

    def index(self, kind):
        return self.real.index(kind)

    def trainers(self):
        return self.real.trainers()

    def trainer(self, kind):
        return self.real.trainer(kind)

    def pretrainers(self):
        return self.real.pretrainers()

    def pretrainer(self, kind):
        return self.real.pretrainer(kind)


def within(message):
    """The message, and all in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type and not field.message_type.GetOptions().map_entry:
            for one in value if field.is_repeated else [value]:
                yield from within(one)


class Fuzzer:
    """Messages of any descriptor: half of their values make sense."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def message(self, descriptor, depth=0):
        made = message_factory.GetMessageClass(descriptor)()
        if descriptor.name == "Tensor" and self.random.random() < 0.7:
            return self.tensor(made)
        for field in descriptor.fields:
            if depth < 6 and self.random.random() < (0.8 if depth < 2 else 0.5):
                self.fill(made, field, depth)
        return made

    def tensor(self, made):
        shape = self.random.choice([(1, 8), (3, 8), (3,), (2, 2), (4, 4, 3), (0, 8), (1, 1, 1, 1, 1, 1, 1, 1, 1)])
        made.dtype = self.random.choice([0, 1, 2, 3, 4, 5, 6, 7, 99])
        made.shape.extend(shape)
        size = int(np.prod(shape)) * {2: 2, 3: 1, 5: 1, 7: 8}.get(made.dtype, 4)
        made.data = self.random.choice([self.random.randbytes(size), bytes(size), b"\xff" * size, bytes(size + 1)])
        return made

    def fill(self, made, field, depth):
        if field.message_type and field.message_type.GetOptions().map_entry:
            entries = getattr(made, field.name)
            held = field.message_type.fields_by_name["value"]
            if held.message_type:
                entries[self.name(field)].CopyFrom(self.message(held.message_type, depth + 1))
            else:
                entries[self.name(field)] = self.value(held, depth)
        elif field.is_repeated:
            values = [self.value(field, depth) for _ in range(self.random.choice([0, 1, 1, 2, 3]))]
            getattr(made, field.name).extend(values)
        elif field.message_type:
            getattr(made, field.name).CopyFrom(self.value(field, depth))
        else:
            setattr(made, field.name, self.value(field, depth))

    def value(self, field, depth):
        match field.type:
            case F.TYPE_MESSAGE:
                return self.message(field.message_type, depth + 1)
            case F.TYPE_STRING:
                return self.name(field)
            case F.TYPE_BYTES:
                return self.random.choice([b"", b"abc", self.random.randbytes(64), b"\xff\xd8\xff\xe0" + bytes(20)])
            case F.TYPE_BOOL:
                return self.random.random() < 0.5
            case F.TYPE_DOUBLE | F.TYPE_FLOAT:
                return self.random.choice(FLOATS)
        low, high = RANGES[field.type]
        known = [value.number for value in field.enum_type.values] if field.enum_type else []
        return self.random.choice([*known, *(number for number in INTS if low <= number <= high)])

    def name(self, field):
        known = NAMES.get(field.name, ["letters", "case"])
        return self.random.choice(known if self.random.random() < 0.75 else TEXTS)

    def spoilt(self, data):
        """Bytes that are cut off, changed, or more."""
        at = self.random.randrange(len(data) + 1)
        return self.random.choice(
            [data[:at], data[:at] + self.random.randbytes(2) + data[at + 2 :], data + self.random.randbytes(3)]
        )

    def changed(self, message):
        """The message with one field, of it or of a message within it, made again."""
        places = [(one, field) for one in within(message) for field in one.DESCRIPTOR.fields]
        one, field = self.random.choice(places)
        one.ClearField(field.name)
        self.fill(one, field, 3)

    def nearly_good(self, messages):
        made = [type(message).FromString(message.SerializeToString()) for message in messages]
        for _ in range(self.random.choice([1, 1, 2, 3])):
            self.changed(self.random.choice(made))
        return made

    def requests(self, method):
        """What one call sends. A stream mostly begins with settings, as it should."""
        if method.name in GOOD and self.random.random() < 0.7:
            return [message.SerializeToString() for message in self.nearly_good(GOOD[method.name])]
        count = self.random.choice([1, 2, 3]) if method.client_streaming else 1
        messages = [self.message(method.input_type) for _ in range(count)]
        if method.client_streaming and self.random.random() < 0.8:
            body = method.input_type.fields_by_name
            first = message_factory.GetMessageClass(method.input_type)()
            first.settings.CopyFrom(self.message(body["settings"].message_type, 1))
            messages.insert(0, first)
        if method.name in ("DropSet", "DropIndex", "DropHead"):
            messages[0].Clear()  # what there is, is needed
        sent = [message.SerializeToString() for message in messages]
        return [self.spoilt(data) if self.random.random() < 0.1 else data for data in sent]


def outcome(channel, method, sent):
    """The status that the call ends with, and what it says."""
    ways = {True: "stream", False: "unary"}
    call = getattr(channel, f"{ways[method.client_streaming]}_{ways[method.server_streaming]}")(
        f"/{method.containing_service.full_name}/{method.name}"
    )
    try:
        reply = call(iter(sent) if method.client_streaming else sent[0], timeout=SECONDS)
        if method.server_streaming:
            replies = [one for _, one in zip(range(1 if method.name == "WatchJob" else MOST_REPLIES), reply, strict=False)]
            reply.cancel()
        else:
            replies = [reply]
    except grpc.RpcError as error:
        return error.code(), error.details()
    kind = message_factory.GetMessageClass(method.output_type)
    for failure in (failure for one in replies for failure in getattr(kind.FromString(one), "failures", ())):
        if failure.code in (grpc.StatusCode.INTERNAL.value[0], grpc.StatusCode.UNKNOWN.value[0]):
            return grpc.StatusCode.INTERNAL, f"failure: {failure.message}"
    return grpc.StatusCode.OK, ""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    exported = sets_harness.export(tmp_path_factory.mktemp("exported"))
    home = sets_harness.lent(tmp_path_factory.mktemp("home") / "home", exported)
    with real_server.served(home, ToysAndRealKinds(sets_harness.SPECS)) as address:
        with topwork.Client(address) as client:
            rows = [{"label": "ab"[i % 2], "n": i} for i in range(10)]
            ids = [str(i) for i in range(10)]
            client.write("birds", ["a red bird", "a whale"] * 5, ids, rows, encoder="letters", taps=["mean", "letters"])
            client.write("ready", vectors=np.eye(10, 8, dtype=np.float32), ids=ids, metadata=rows)
            client.create_index("ready", kind="flat")
        yield address


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_any_message_is_answered_and_never_as_our_fault(address, method, caplog):
    fuzzer = Fuzzer(f"{SEED} {method.full_name}")
    codes, wrong = Counter(), []
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        for _ in range(EACH):
            sent = fuzzer.requests(method)
            code, details = outcome(channel, method, sent)
            codes[code.name] += 1
            if code in OURS:
                wrong.append((code.name, details, [shown(method, data) for data in sent]))
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert not wrong, (len(wrong), codes, wrong[:3])
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def shown(method, data):
    try:
        return str(message_factory.GetMessageClass(method.input_type).FromString(data))[:1500]
    except Exception:
        return data[:200]
