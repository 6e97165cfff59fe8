"""Throw at a real server what must not cost it: small requests with large consequences. Prints what each attack cost.

    python tests/punch.py [--home HOME] [--only WORD] [--limit 1536] [--json]

HOME has exported encoders (default: $TOPWORK_HOME or .topwork); the server gets a home of its own, with those artifacts. Of each
attack it prints the answers by status, how long they took, the server's resident memory before, at its highest, and 2 seconds
after, the slowest answer of Health meanwhile, and its threads. `--limit` bounds the server's address space, in MiB beyond what it
has at rest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from topwork.v1 import encoders_pb2 as encoders
from topwork.v1 import (
    encoders_pb2_grpc,
    heads_pb2_grpc,
    indexes_pb2_grpc,
    jobs_pb2_grpc,
    sets_pb2_grpc,
)
from topwork.v1 import heads_pb2 as heads
from topwork.v1 import indexes_pb2 as indexes
from topwork.v1 import jobs_pb2 as jobs
from topwork.v1 import sets_pb2 as sets
from topwork.v1 import types_pb2 as types

MIB = 1 << 20
LARGE = 60 * MIB
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
TEXT = "all-minilm-l6-v2"


@dataclass
class Cost:
    """What one attack did; memory in MiB, times in seconds."""

    attack: str
    answers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    before: int = 0
    highest: int = 0
    after: int = 0
    health: float = 0.0
    threads: tuple[int, int] = (0, 0)


class ClientFactory:
    """One channel to the server, with a stub for each service."""

    def __init__(self, address: str, *, gzip: bool = False) -> None:
        compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
        self.channel = grpc.insecure_channel(address, [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)], compression)
        self.encoders = encoders_pb2_grpc.EncodersStub(self.channel)
        self.sets = sets_pb2_grpc.FeatureSetsStub(self.channel)
        self.indexes = indexes_pb2_grpc.IndexesStub(self.channel)
        self.heads = heads_pb2_grpc.HeadsStub(self.channel)
        self.jobs = jobs_pb2_grpc.JobsStub(self.channel)

    def raw(self, method: str) -> Callable[..., bytes]:
        return self.channel.unary_unary(method)


def watch(address: str, server: int) -> None:
    """Look at the server's memory, and how long Health takes, 50 times a second, in a process that no attack keeps busy. Prints
    what was highest when standard input ends."""
    process, stub = psutil.Process(server), health_pb2_grpc.HealthStub(grpc.insecure_channel(address, OPTIONS))
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    print("ready", flush=True)
    highest, slowest = 0, 0.0
    while not ended.wait(0.02):
        highest, began = max(highest, resident(process)), time.monotonic()
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        except grpc.RpcError:
            slowest = float("inf")
            break
        slowest = max(slowest, time.monotonic() - began)
    print(json.dumps([highest, slowest]))


class Watcher:
    def __init__(self, address: str, server: int) -> None:
        command = [sys.executable, __file__, "--watch", address, str(server)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self._child.stdout.readline()

    def stop(self) -> tuple[int, float]:
        highest, slowest = json.loads(self._child.communicate()[0])
        return highest, slowest


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss // MIB)
    except psutil.Error:
        return -1


def status(call: Callable[[], Any]) -> str:
    """The status that a call ends with; of a stream, after all its replies."""
    try:
        reply = call()
        if isinstance(reply, grpc.Call) and hasattr(reply, "__iter__"):
            for _ in reply:
                pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


Calls = Sequence[Callable[[], Any]]
ATTACKS: dict[str, Callable[[str], Calls]] = {}


def attack(name: str) -> Callable[[Callable[[str], Calls]], Callable[[str], Calls]]:
    def add(make: Callable[[str], Calls]) -> Callable[[str], Calls]:
        ATTACKS[name] = make
        return make

    return add


def texts(count: int, size: int) -> list[types.Item]:
    return [types.Item(text="a" * size) for _ in range(count)]


def embed(items: Sequence[types.Item], **options: Any) -> encoders.EmbedRequest:
    request = encoders.EmbedRequest(settings=encoders.EmbedSettings(encoder=TEXT), items=items)
    request.settings.options.update(options)
    return request


@attack("GetJob of 60 MiB, 49 times")
def long_job(address: str) -> Calls:
    factory, request = ClientFactory(address), jobs.GetJobRequest(id="a" * LARGE)
    return [lambda: factory.jobs.GetJob(request, timeout=120)] * 49


@attack("WatchJob, ExportHead, Read of 60 MiB, 5 times each")
def long_streams(address: str) -> Calls:
    factory, name = ClientFactory(address), "a" * LARGE
    return [
        lambda: factory.jobs.WatchJob(jobs.WatchJobRequest(id=name), timeout=120),
        lambda: factory.heads.ExportHead(heads.ExportHeadRequest(name=name), timeout=120),
        lambda: factory.sets.Read(sets.ReadRequest(set=name), timeout=120),
    ] * 5


@attack("names of 60 MiB: encoder, set, head, index, tap, label, kind")
def long_names(address: str) -> Calls:
    factory, name = ClientFactory(address), "a" * LARGE
    item = [types.Item(text="a")]
    return [
        lambda: factory.encoders.GetEncoder(encoders.GetEncoderRequest(name=name), timeout=120),
        lambda: factory.sets.GetSet(sets.GetSetRequest(set=name), timeout=120),
        lambda: factory.heads.GetHead(heads.GetHeadRequest(name=name), timeout=120),
        lambda: factory.indexes.GetIndex(indexes.GetIndexRequest(set="a", name=name), timeout=120),
        lambda: factory.encoders.Embed(
            encoders.EmbedRequest(settings=encoders.EmbedSettings(encoder=TEXT, taps=[name]), items=item), timeout=120
        ),
        lambda: factory.heads.Train(heads.TrainRequest(set="a", target=name), timeout=120),
        lambda: factory.heads.Train(heads.TrainRequest(set="a", target="b", kind=name), timeout=120),
    ]


@attack("Health of a name of 60 MiB")
def long_health(address: str) -> Calls:
    stub = health_pb2_grpc.HealthStub(ClientFactory(address).channel)
    return [lambda: stub.Check(health_pb2.HealthCheckRequest(service="encoder/" + "a" * LARGE), timeout=120)] * 5


@attack("an option that is a list of a million numbers")
def long_option(address: str) -> Calls:
    factory, request = ClientFactory(address), embed(texts(1, 1))
    request.settings.options.fields["prompt"].list_value.extend([1.0] * 1_000_000)
    return [lambda: factory.encoders.Embed(request, timeout=120)]


@attack("a million options; options 40 deep")
def many_options(address: str) -> Calls:
    factory, wide, deep = ClientFactory(address), embed(texts(1, 1)), embed(texts(1, 1))
    for i in range(1_000_000):
        wide.settings.options.fields[str(i)].bool_value = True
    value = deep.settings.options.fields["a"]
    for _ in range(40):
        value = value.struct_value.fields["a"]
    return [lambda: factory.encoders.Embed(wide, timeout=120), lambda: factory.encoders.Embed(deep, timeout=120)]


@attack("31 million empty items")
def empty_items(address: str) -> Calls:
    factory = ClientFactory(address)
    return [lambda: factory.raw("/topwork.v1.Encoders/Embed")(b"\x12\x00" * (31 * 1000 * 1000), timeout=120)]


@attack("a million taps, ids, columns")
def long_lists(address: str) -> Calls:
    factory, million = ClientFactory(address), [str(i) for i in range(1_000_000)]
    settings = encoders.EmbedSettings(encoder=TEXT, taps=million)
    return [
        lambda: factory.encoders.Embed(encoders.EmbedRequest(settings=settings, items=texts(1, 1)), timeout=120),
        lambda: factory.sets.Read(sets.ReadRequest(set="a", ids=million), timeout=120),
        lambda: factory.sets.Read(sets.ReadRequest(set="a", columns=million), timeout=120),
        lambda: factory.sets.DeleteRows(sets.DeleteRowsRequest(set="a", ids=million), timeout=120),
    ]


@attack("bytes that are no message, 2000 times")
def undecodable(address: str) -> Calls:
    factory = ClientFactory(address)
    return [lambda: factory.raw("/topwork.v1.Encoders/Embed")(b"\xff\xff\xff", timeout=60)] * 2000


@attack("12 messages of 60 MiB, gzipped, at a time")
def gzipped(address: str) -> Calls:
    factory, request = ClientFactory(address, gzip=True), embed(texts(1, LARGE))
    return [lambda: factory.encoders.Embed(request, timeout=60)] * 12


@attack("12 messages of 60 MiB, at a time")
def plain(address: str) -> Calls:
    factory, request = ClientFactory(address), embed(texts(1, LARGE))
    return [lambda: factory.encoders.Embed(request, timeout=60)] * 12


@attack("12 streams with a gzipped message of 60 MiB")
def gzipped_streams(address: str) -> Calls:
    factory = ClientFactory(address, gzip=True)

    def requests() -> Iterator[encoders.EmbedStreamRequest]:
        yield encoders.EmbedStreamRequest(settings=encoders.EmbedSettings(encoder=TEXT))
        yield encoders.EmbedStreamRequest(items=encoders.Items(items=texts(1, LARGE)))

    return [lambda: factory.encoders.EmbedStream(requests(), timeout=60)] * 12


@attack("4 texts of 30 MiB, truncated, with 2 s")
def long_texts(address: str) -> Calls:
    factory, request = ClientFactory(address), embed(texts(1, 30 * MIB), truncate=True)
    return [lambda: factory.encoders.Embed(request, timeout=2)] * 4


@attack("300 sets of one row")
def many_sets(address: str) -> Calls:
    factory = ClientFactory(address)

    def write(name: str) -> Any:
        rows = types.TapFeatures(tap="v", rows=types.Tensor(dtype=types.DTYPE_FLOAT32, shape=[1, 2], data=b"\0\0\x80?" * 2))
        return factory.sets.Write(
            iter(
                [
                    sets.WriteRequest(settings=sets.WriteSettings(set=name)),
                    sets.WriteRequest(rows=sets.WriteRows(ids=["a"], features=[rows])),
                ]
            ),
            timeout=60,
        )

    return [lambda name=f"many-{i}": write(name) for i in range(300)]  # type: ignore[misc]


@attack("a filter of 20,000 ORs")
def long_filter(address: str) -> Calls:
    factory = ClientFactory(address)
    where = " OR ".join(f"id = '{i}'" for i in range(15_000))
    return [lambda: factory.sets.Read(sets.ReadRequest(set="many-0", where=where), timeout=60)]


@attack("create, rebuild and drop one index from six threads, 5 s")
def index_races(address: str) -> Calls:
    factory, ends = ClientFactory(address), time.monotonic() + 5

    def repeat(call: Callable[[], Any]) -> None:
        while time.monotonic() < ends:
            answer = status(call)
            if answer in ("DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"):
                call()

    create = indexes.CreateIndexRequest(set="many-1", name="i", kind="flat")
    one = {"set": "many-1", "name": "i"}
    return [
        lambda: repeat(lambda: factory.indexes.CreateIndex(create, timeout=20)),
        lambda: repeat(lambda: factory.indexes.RebuildIndex(indexes.RebuildIndexRequest(**one), timeout=20)),
        lambda: repeat(lambda: factory.indexes.DropIndex(indexes.DropIndexRequest(**one), timeout=20)),
    ] * 2


def measure(name: str, calls: Calls, address: str, process: psutil.Process, at_once: int) -> Cost:
    cost = Cost(name, before=resident(process), threads=(process.num_threads(), 0))
    watcher = Watcher(address, process.pid)
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        cost.answers = dict(Counter(pool.map(status, calls)))
    cost.seconds = time.monotonic() - began
    time.sleep(2)  # what a user would see soon after: nothing to wait for tells that memory is back
    (cost.highest, cost.health), cost.after = watcher.stop(), resident(process)
    cost.threads = (cost.threads[0], process.num_threads() if process.is_running() else 0)
    return cost


@contextmanager
def serving(home: Path, limit: int, *flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server with a home of its own, which has the artifacts of `home`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("artifacts", "packages", "encoders"):
            if (home / name).exists():
                (Path(folder) / name).symlink_to((home / name).resolve())
        topwork = Path(sys.executable).parent / "topwork"
        command = [topwork, "serve", "--json", "--listen", "127.0.0.1:0", "--home", folder, *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            try:
                address = json.loads(child.stdout.readline())["address"]
                process = psutil.Process(child.pid)
                ClientFactory(address).encoders.Embed(
                    embed(texts(1, 1)), timeout=300
                )  # what an encoder takes at rest is no attack's cost
                if limit:
                    bound = process.memory_info().vms + limit * MIB
                    process.rlimit(resource.RLIMIT_AS, (bound, bound))
                yield address, process
            finally:
                end(child)


def end(child: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(60)
    except subprocess.TimeoutExpired:
        child.kill()
    print(f"SIGTERM: ended after {time.monotonic() - began:.1f} s with status {child.wait()}")


def show(cost: Cost) -> None:
    answers = ", ".join(f"{count} {code}" for code, count in sorted(cost.answers.items()))
    print(
        f"{cost.attack:56} {cost.seconds:6.1f} s  {cost.before:5} -> {cost.highest:5} -> {cost.after:5} MiB"
        f"  health {cost.health * 1e3:6.0f} ms  threads {cost.threads[0]} -> {cost.threads[1]}  {answers}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("TOPWORK_HOME", ".topwork")))
    parser.add_argument("--only", default="", help="attacks whose name has this word")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="MIB", help="of address space, beyond what the server has at rest"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(arguments.watch[0], int(arguments.watch[1]))
        return 0
    with serving(arguments.home, arguments.limit, "--provider", "cpu") as (address, process):
        for name, make in ATTACKS.items():
            if arguments.only not in name:
                continue
            cost = measure(name, make(address), address, process, at_once=1 if "times" in name else 12)
            print(json.dumps(asdict(cost)), flush=True) if arguments.json else show(cost)
    return 0


if __name__ == "__main__":
    sys.exit(main())
