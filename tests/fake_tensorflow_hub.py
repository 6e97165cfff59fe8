"""Stands for TensorFlow Hub: a server of archives, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from topwork_server.plugin_api import saved_models


class Hub(ThreadingHTTPServer):
    """Answers each path with a status, the length that it claims, and bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answers: dict[str, tuple[int, int, bytes]] = {}
        self.asked: list[str] = []

    def put(self, path: str, content: bytes, status: int = 200, length: int | None = None) -> None:
        self.answers[path] = (status, len(content) if length is None else length, content)


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, length, content = self.server.answers.get(self.path, (404, 0, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that archives are downloaded from, in place of the real ones."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv(saved_models.MIRROR, f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("no_proxy", "*")
        yield server
        server.shutdown()
        thread.join()
