"""Triton, by nvidia-pytriton: its Python backend and onnxruntime, over the binary form of its HTTP protocol."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.serving.peers import Item, Rows, Subject
from benchmarks.serving.peers.framing import pack, rows_of
from benchmarks.serving.peers.over_http import HttpPeer, Request

LENGTH = "Inference-Header-Content-Length"


class Triton(HttpPeer):
    name = "triton"
    parts = ("text", "pictures")
    environment = "pytriton"
    packages = ("nvidia-pytriton", "onnxruntime", "tokenizers")
    batch: ClassVar[int] = 1
    """Requests at most that are computed together: in the order of arrival, more cost more padding than they gain."""

    def command(self, subject: Subject, port: int) -> list[str]:
        return [
            "-m", "benchmarks.serving.peers.servers.triton_server", "--artifact", str(subject.artifact),
            "--threads", str(subject.threads), "--port", str(port), "--batch", str(self.batch),
        ]  # fmt: skip

    def variables(self, subject: Subject) -> dict[str, str]:
        """Its backend is linked with libpython, and must find that of the interpreter, not another build of the same release."""
        folders = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
        return super().variables(subject) | {"LD_LIBRARY_PATH": ":".join(filter(None, folders))}

    def request(self, items: Sequence[Item]) -> Request:
        packed = pack(items)
        asked = {
            "name": "item", "datatype": "BYTES", "shape": [len(items), 1], "parameters": {"binary_data_size": len(packed)},
        }  # fmt: skip
        header = json.dumps({"inputs": [asked], "outputs": [{"name": "row", "parameters": {"binary_data": True}}]}).encode()
        return Request("/v2/models/embed/infer", header + packed, {LENGTH: str(len(header))})

    def rows(self, body: bytes, headers: Mapping[str, str], count: int) -> Rows:
        """What follows a header in JSON."""
        return rows_of(body[int(headers[LENGTH]) :], count)


PEERS = (Triton,)
