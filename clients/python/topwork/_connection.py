"""What a client is opened with: checked, and enough to open it again in another process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from topwork._codec.items import describe
from topwork._ops import arguments as _arguments
from topwork._transport import channel
from topwork.errors import InvalidInput

#: Seconds: the first use of an encoder exports and loads it.
TIMEOUT = 300.0
#: Names of what is sent with every call, as gRPC takes them.
KEY = re.compile(r"[0-9a-z_.-]+")


@dataclass(frozen=True)
class Connection:
    """The parameters of a client."""

    target: str
    timeout: float | None
    retry_for: float | None
    gzip: bool
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]

    def state(self) -> dict[str, Any]:
        """What `Client` takes. Raises InvalidInput where it cannot go to another process."""
        if self.credentials is not None:
            raise InvalidInput(
                "a client with credentials cannot be pickled: they do not leave this process",
                remedy="open a client in each process",
            )
        return {"timeout": self.timeout, "retry_for": self.retry_for, "gzip": self.gzip, "metadata": self.metadata}


def connection(
    target: str,
    timeout: float | None,
    retry_for: float | None,
    gzip: bool,
    credentials: Any,
    metadata: Any,
) -> Connection:
    """Raises InvalidInput that names the parameter."""
    arguments, _ = _arguments.bound(_plain, (target, timeout, retry_for, gzip), {})
    channel.check_target(arguments[0])
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        raise InvalidInput(f"credentials are {describe(credentials)}", remedy="pass grpc.ssl_channel_credentials(...)")
    target, timeout, retry_for, gzip = arguments
    return Connection(target, timeout, retry_for, gzip, credentials, _pairs(metadata))


def _plain(target: str, timeout: float | None, retry_for: float | None, gzip: bool) -> None:
    """For its types alone."""


def _pairs(metadata: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(metadata, Sequence) or isinstance(metadata, str | bytes) or not all(map(_is_pair, metadata)):
        raise InvalidInput(
            "metadata are no pairs of strings that gRPC can send",
            remedy='pass pairs of a name in lower case and its value, such as [("authorization", "Bearer ...")]',
        )
    return tuple((key, value) for key, value in metadata)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str) or not KEY.fullmatch(pair[0]):
        return False
    binary = pair[0].endswith("-bin")
    return isinstance(pair[1], bytes) if binary else isinstance(pair[1], str) and pair[1].isascii() and pair[1].isprintable()
