"""The settings that a server is started with. The command line has a flag for each field."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from topwork_server.errors import StartError
from topwork_server.process_resources import usable_memory

GIB = 1 << 30
#: In the place of the address of HTTP: do not listen for it.
OFF = "off"
#: The addresses of HTTP where none is asked for: the first that is free.
USUAL_HTTP = tuple(f"127.0.0.1:{port}" for port in range(8080, 8100))
#: In the place of an origin: pages of all.
ANY_ORIGIN = "*"
#: Ports that browsers leave out of an origin.
USUAL_PORTS = {"http": 80, "https": 443}


def default_home() -> Path:
    """$TOPWORK_HOME, or ~/.topwork: packages, artifacts, added encoders; later feature sets, indexes and heads."""
    return Path(os.environ.get("TOPWORK_HOME") or Path.home() / ".topwork").absolute()


def usable_home(home: Path | None) -> Path:
    """The folder of the server's state (the default for None), made where need be. StartError where it cannot be written."""
    folder = (home or default_home()).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise StartError(
            f"{folder} cannot be written: {error.strerror}", remedy="choose another with --home or $TOPWORK_HOME"
        ) from error


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_origin(text: str) -> str:
    """The origin of web pages as browsers send it, or ANY_ORIGIN. StartError where it is none."""
    if text == ANY_ORIGIN:
        return text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    rest = parts.path.removeprefix("/") or parts.query or parts.fragment or parts.username
    if not parts.scheme or not host or not host.isascii() or "*" in host or rest:
        raise StartError(
            f"{text[:100]!r} is no origin of web pages",
            remedy="write SCHEME://HOST[:PORT] as browsers send it, such as http://localhost:3000, or '*' for all pages",
        )
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != USUAL_PORTS.get(parts.scheme) else "")


def _path_of(variable: str) -> Path | None:
    return Path(found) if (found := os.environ.get(variable)) else None


def _half_of_memory() -> int:
    return usable_memory() // 2


def _sixteenth_of_memory() -> int:
    """A message takes up to four times its bytes while it is worked on."""
    return usable_memory() // 16


@dataclass(frozen=True)
class Config:
    """`listen` is the address of gRPC, and `http` that of HTTP, `off`, or "" for the first of the usual ones that is free;
    `default_encoder` embeds for those whose protocol names none; `allow_origin` are the origins of the web pages that may call
    it over HTTP, beside its own; `allow_fetch` are the hosts from which it fetches pictures, videos and recordings by URL;
    `tls_cert` and `tls_key` are PEM files of a certificate, with its chain, and its key: both ports speak TLS then, and with
    `tls_client_ca`, authorities in PEM, ask clients for a certificate; `insecure` opens addresses that others reach without;
    `provider` is `auto`, what was measured to be fastest here for each encoder, or one by name;
    `threads` are those of each session, and for preprocessing; `queue` counts the items that an encoder may have in the system;
    `memory_budget` is in bytes, over all encoders, `message_budget` over all messages in work; `max_items` bounds one unary
    request and `max_video_bytes` one video or recording that comes in parts; `shared_memory` lets clients of the Open Inference
    Protocol name shared memory of this machine; `drain_seconds` are what accepted requests have after SIGTERM, and `end_seconds`
    what the end itself may take after that; `feature_cache` is the bytes on disk for features that writes to any set may use
    again, 0 for none."""

    home: Path = field(default_factory=default_home)
    listen: str = "127.0.0.1:50051"
    http: str = field(default_factory=lambda: os.environ.get("TOPWORK_HTTP", ""))
    allow_origin: tuple[str, ...] = field(default_factory=lambda: tuple(os.environ.get("TOPWORK_ALLOW_ORIGIN", "").split()))
    allow_fetch: tuple[str, ...] = field(default_factory=lambda: tuple(os.environ.get("TOPWORK_ALLOW_FETCH", "").split()))
    tls_cert: Path | None = field(default_factory=lambda: _path_of("TOPWORK_TLS_CERT"))
    tls_key: Path | None = field(default_factory=lambda: _path_of("TOPWORK_TLS_KEY"))
    tls_client_ca: Path | None = field(default_factory=lambda: _path_of("TOPWORK_TLS_CLIENT_CA"))
    insecure: bool = False
    default_encoder: str = ""
    provider: str = "auto"
    threads: int = field(default_factory=usable_cores)
    queue: int = 4096
    max_items: int = 1024
    max_video_bytes: int = 4 * GIB
    idle_seconds: float = 900.0
    memory_budget: int = field(default_factory=_half_of_memory)
    message_budget: int = field(default_factory=_sixteenth_of_memory)
    shared_memory: bool = False
    drain_seconds: float = 30.0
    end_seconds: float = 15.0
    feature_cache: int = GIB

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow_origin", tuple(map(parse_origin, self.allow_origin)))
        object.__setattr__(self, "allow_fetch", tuple(self.allow_fetch))
