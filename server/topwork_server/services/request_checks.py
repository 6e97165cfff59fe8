"""Checks that several services make of a request and of its reply, the deadline of a call, and its trailing metadata."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from topwork.v1 import types_pb2

from topwork_server.access.passes import EncoderPass, SetPass, encoder_pass, set_pass
from topwork_server.errors import InvalidInput, TooLarge
from topwork_server.services.message_budget import MAX_MESSAGE

Context: TypeAlias = "grpc.aio.ServicerContext"
Reply = TypeVar("Reply", bound=Message)


def deadline(context: Context) -> float | None:
    """Return when the caller's time is over, in time.monotonic(); None where it never is."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def add_trailing_metadata(context: Context, *pairs: tuple[str, str | bytes]) -> None:
    """Send these behind the reply, beside what is there under other names: grpc's own method replaces all."""
    names = {name for name, _ in pairs}
    kept = [pair for pair in context.trailing_metadata() or () if pair[0] not in names]
    context.set_trailing_metadata((*kept, *pairs))


def check_name(name: str, kind: str, listed_by: str) -> str:
    """The name that a request has of a thing. InvalidInput where it is empty."""
    if not name:
        raise InvalidInput(f"no {kind} is named", remedy=f"name one of `{listed_by}`")
    return name


def check_set_name(name: str) -> SetPass:
    """The feature set of a request. InvalidInput where none is named; Refused where the caller may not use it."""
    return set_pass(check_name(name, "feature set", "ListSets"))


def check_encoder_name(name: str) -> EncoderPass:
    """The encoder of a request. InvalidInput where none is named; Refused where the caller may not use it."""
    return encoder_pass(check_name(name, "encoder", "ListEncoders"))


def check_item_count(items: Sequence[types_pb2.Item], most: int, stream: str) -> None:
    """Raise InvalidInput where a message has no items, or more than `most`; `stream` is the method that takes more."""
    if not items:
        raise InvalidInput("there are no items", remedy="send at least one")
    if len(items) > most:
        raise InvalidInput(
            f"{len(items)} items in one message, which may have {most}",
            remedy=f"use {stream} with smaller messages, or the SDK, which does so by itself",
        )


def check_reply_size(reply: Reply, remedy: str) -> Reply:
    """The reply. TooLarge where no message may have so many bytes."""
    if reply.ByteSize() > MAX_MESSAGE:
        raise TooLarge(f"the reply would have {reply.ByteSize()} bytes, and a message may have {MAX_MESSAGE}", remedy=remedy)
    return reply
