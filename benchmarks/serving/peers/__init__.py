"""The peers that Topwork is measured beside: servers (`Peer`) and libraries (`Library`), one module each in this package.

A module here lists its classes in `PEERS`; nothing else names it. The harness makes one object in its own process,
which starts and stops the server, and the load generator makes another in a process of its own, which only calls `connect`,
`embed` and `close`. All that a peer needs to run is in an environment of its own, so that this package imports none of it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Item = str | bytes
"""A text, or the bytes of a picture's or clip's file."""
Rows = NDArray[np.float32]

ENVIRONMENTS = Path(os.environ.get("TOPWORK_BENCH_PEERS", ".bench-peers")).absolute()
"""Each peer has an environment here, made by `make bench-peers`."""


@dataclass(frozen=True)
class Model:
    """The model that is served."""

    part: str
    """text, pictures, video or words."""
    encoder: str
    """Topwork's name of it."""
    artifact: Path
    """The folder of Topwork's export: model.onnx, and what preprocessing reads (tokenizer.json)."""
    home: Path
    """$TOPWORK_HOME, with the weight packages in packages/."""
    threads: int
    """The cores to use."""


class Peer(ABC):
    """A server that is measured over its own protocol, at its best reasonable settings."""

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("text",)
    most_items: ClassVar[int] = 64
    """That one request may hold; 1 for a server without requests of several items."""
    streams: ClassVar[bool] = False
    """`embed` takes any number of items at once, and streams them."""

    def missing(self) -> str | None:
        """Tell why it cannot run here, and what makes it run; None when it can."""
        return None

    @abstractmethod
    def start(self, model: Model) -> str:
        """Start the server, wait until it answers, and return its address, in the form that `connect` takes."""

    @abstractmethod
    def stop(self) -> None:
        """End every process that `start` began; harmless when there is none."""

    @abstractmethod
    def pids(self) -> Sequence[int]:
        """The processes that `start` began; their children are found by the harness. For the CPU seconds of a request."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that matter: {"infinity-emb": "0.0.78", "torch": "2.13.0"}. Also after `stop`."""

    def device(self) -> str:
        """Tell what computes: "cpu fp32", "openvino bf16". While it runs."""
        return "cpu fp32"

    @abstractmethod
    async def connect(self, address: str) -> None:
        """Connect in the load generator's process: ready to `embed`, with as many connections as suit 64 callers."""

    @abstractmethod
    async def embed(self, items: Sequence[Item]) -> Rows:
        """Send one request of at most `most_items`; a row for each, in order. Called by many tasks at once. Raises when
        refused."""

    async def close(self) -> None:  # noqa: B027 - not every peer has something to undo
        """Undo `connect`."""


class Library(ABC):
    """A library that is used in process, without a server. Its command runs alone, and prints one line of JSON:

    {"one_by_one": items/s, "batched": items/s, "rows": [the rows of the first 8 items], "versions": {...}}
    """

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("text",)

    def missing(self) -> str | None:
        """Tell why it cannot run here, as `Peer.missing` does."""
        return None

    @abstractmethod
    def command(self, model: Model, items: Path, seconds: float) -> list[str]:
        """Return the command to run. `items`: a JSON list of the texts, or of the paths of the files. `seconds`: of each of
        both measurements, after loading and a warm-up."""


def found() -> dict[str, type[Peer] | type[Library]]:
    """Find all peers of this package, by name."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__) if not m.ispkg]
    return {peer.name: peer for module in modules for peer in getattr(module, "PEERS", ())}
