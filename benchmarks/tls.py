"""Measures what TLS costs beside plaintext, in turns: single requests and batches over gRPC and HTTP, and new connections.

    python -m benchmarks.tls [--rounds 5] [--seconds 2]

One caller at a time, who waits for each answer. Word vectors cost next to nothing to compute, so that their rows show what the
connection costs; those of all-minilm-l6-v2 show what is left of it beside a network. A ratio is taken within its round.
"""

from __future__ import annotations

import argparse
import json
import signal
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import topwork
from topwork_server.access.certificates import Authority
from topwork_server.config import default_home

from benchmarks.doors import GLOVE, MINILM, TEXTS, free_address
from benchmarks.measure import Figures, loop, median_ratio, medians, table, turns
from benchmarks.processes import scratch_home, server

#: Items of a request.
SIZES = (1, 64, 256)
PLAIN = "plaintext"
#: The least of the plaintext's rate that batches may have.
LEAST = 0.95


@dataclass(frozen=True)
class Side:
    """A running server, and the files that a client needs for it: none in plaintext."""

    grpc: str
    http: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def client(self) -> topwork.Client:
        if self.ca is None:
            return topwork.Client(self.grpc)
        return topwork.Client(f"https://{self.grpc}", ca=self.ca, certificate=self.certificate, key=self.key)

    def connection(self) -> HTTPConnection:
        if self.ca is None:
            return HTTPConnection(self.http)
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return HTTPSConnection(self.http, context=context)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers go with it
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each load")
    asked = parser.parse_args()
    slow = False
    with ExitStack() as stack:
        sides = _sides(stack)
        for encoder in (GLOVE, MINILM):
            for size in SIZES:
                for door, load in (("gRPC", _grpc), ("HTTP", _http)):
                    works = {name: partial(load, side, encoder, size, asked.seconds) for name, side in sides.items()}
                    least = _print(f"{encoder}, {size} texts, {door}", turns(works, asked.rounds))
                    slow |= size > 1 and least < LEAST
        for door, connect in (("gRPC", _connect_grpc), ("HTTP", _connect_http)):
            works = {name: partial(loop, partial(connect, side), asked.seconds) for name, side in sides.items()}
            _print(f"a new connection and one request, {door}", turns(works, asked.rounds))
    return int(slow)


def _sides(stack: ExitStack) -> dict[str, Side]:
    """Start a server of each kind."""
    home = stack.enter_context(scratch_home(default_home()))
    authority = Authority()
    served, shown = authority.issue(["127.0.0.1"]), authority.issue(["benchmark"], client=True)
    ca, mine, key = home / "ca.pem", home / "mine.pem", home / "mine.key"
    flags = ["--tls-cert", str(home / "server.pem"), "--tls-key", str(home / "server.key")]
    for path, data in ((ca, authority.certificate), (home / "server.pem", served.certificate), (mine, shown.certificate)):
        path.write_bytes(data)
    for path, data in ((home / "server.key", served.key), (key, shown.key)):
        path.touch(0o600)
        path.write_bytes(data)
    return {
        PLAIN: Side(*_started(stack)),
        "TLS": Side(*_started(stack, *flags), ca),
        "TLS, client certificates": Side(*_started(stack, *flags, "--tls-client-ca", str(ca)), ca, mine, key),
    }


def _started(stack: ExitStack, *flags: str) -> tuple[str, str]:
    home, http_address = stack.enter_context(scratch_home(default_home())), free_address()
    address, _ = stack.enter_context(server(home, "--http", http_address, *flags))
    return address, http_address


def _grpc(side: Side, encoder: str, size: int, seconds: float) -> Figures:
    with side.client() as client:
        return _warm_loop(lambda texts: client.embed(encoder, texts), size, seconds)


def _http(side: Side, encoder: str, size: int, seconds: float) -> Figures:
    with closing(side.connection()) as connection:
        return _warm_loop(lambda texts: _post(connection, encoder, texts), size, seconds)


def _warm_loop(call: Callable[[list[str]], object], size: int, seconds: float) -> Figures:
    texts = (list(TEXTS) * SIZES[-1])[:size]
    for _ in range(3):
        call(texts)
    return loop(lambda number: call(texts), seconds)


def _post(connection: HTTPConnection, encoder: str, texts: list[str]) -> None:
    body = json.dumps({"model": encoder, "input": texts, "encoding_format": "base64"})
    connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.read() and answer.status != 200:
        raise RuntimeError(f"HTTP {answer.status}")


def _connect_grpc(side: Side, number: int) -> None:
    with side.client() as client:
        client.embed(GLOVE, ["a bird"])


def _connect_http(side: Side, number: int) -> None:
    with closing(side.connection()) as connection:
        _post(connection, GLOVE, ["a bird"])


def _print(title: str, measured: Mapping[str, Sequence[Figures]]) -> float:
    """Print a table, and return the least ratio of a rate to that of plaintext."""
    rates = {name: [figures["per_s"] for figures in found] for name, found in measured.items()}
    ratios = {name: median_ratio(found, rates[PLAIN]) for name, found in rates.items()}
    lines = [[name, *medians(found).values(), ratios[name]] for name, found in measured.items()]
    print(f"### {title}\n\n{table(['', 'requests/s', 'p50 ms', 'p99 ms', 'of plaintext'], lines)}", flush=True)
    return min(ratios.values())


if __name__ == "__main__":
    sys.exit(main())
