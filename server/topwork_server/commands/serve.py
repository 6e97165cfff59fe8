"""`topwork serve`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from dataclasses import fields
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from topwork_server import __version__
from topwork_server.app import ReadyMessage, serve
from topwork_server.config import Config, usable_home
from topwork_server.models.catalog_entry import EncoderState

#: Seconds after which a thread must let others run. Python's 5 ms is what a small embed would wait at each step behind a thread
#: that makes a large reply.
SWITCH = 0.0005
#: Objects that are made before Python looks for cycles among the youngest; its own 700 are those of a few requests.
YOUNGEST = 10_000


def run(arguments: SimpleNamespace) -> int:
    _log(getattr(logging, arguments.log_level.upper()), as_json=arguments.log_format == "json")
    sys.setswitchinterval(SWITCH)
    announce = _announce_json if arguments.json else _announce

    def ready(what: ReadyMessage) -> None:
        announce(what)
        gc.freeze()  # modules live as long as the server: to look through them for cycles stops everything for 40 ms

    gc.set_threshold(YOUNGEST)
    return _loop()(serve(config_of(arguments), ready))


def config_of(arguments: SimpleNamespace) -> Config:
    """The flags that were given; Config has the defaults of the rest."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Config)}
    given |= {"home": usable_home(arguments.home), "allow_origin": arguments.allow_origin or None}
    given["allow_fetch"] = arguments.allow_fetch or None
    return Config(**{name: value for name, value in given.items() if value is not None})


def _log(level: int, *, as_json: bool) -> None:
    """Log one line an event. Libraries stay at INFO: the debug lines that are asked for are ours."""
    logging.basicConfig(level=max(level, logging.INFO), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if as_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    for name in ("topwork_server", "topwork_plugins"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it says at INFO which instructions it did not find


class JsonFormatter(logging.Formatter):
    """Writes an event as one line of JSON: time (UTC, ISO 8601), level, logger, message and, of an exception, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)


def _loop() -> Callable[[Coroutine[Any, Any, int]], int]:
    try:
        import uvloop
    except ImportError:  # it is not made for Windows
        return asyncio.run
    run_with_uvloop: Callable[[Coroutine[Any, Any, int]], int] = uvloop.run
    return run_with_uvloop


def _announce(ready: ReadyMessage) -> None:
    counts = ", ".join(f"{ready.encoders[state]} {state}" for state in EncoderState if ready.encoders[state]) or "none"
    grpc, web = ("https://", "https://") if ready.tls else ("", "http://")
    http = f" · {web}{ready.http}" if ready.http else ""
    print(
        f"Topwork {__version__} listens on {grpc}{ready.address}{http} · encoders: {counts} · provider: {ready.provider}",
        flush=True,
    )
    if not ready.encoders[EncoderState.READY] + ready.encoders[EncoderState.FETCHED]:
        print("`topwork encoders` lists what could be served; `topwork pull NAME` fetches it", flush=True)


def _announce_json(ready: ReadyMessage) -> None:
    encoders = {state.value: ready.encoders[state] for state in EncoderState}
    event = {
        "event": "ready",
        "address": ready.address,
        "http": ready.http,
        "tls": ready.tls,
        "provider": ready.provider,
        "encoders": encoders,
    }
    print(json.dumps(event), flush=True)
