"""Bounds of what one message may hold, looked up in its bytes before anything is made of them.

Protobuf makes an object of each field, 40 times the bytes of the smallest, and holds the interpreter while it does so: 31 million
empty items in 60 MiB take 3 seconds and gigabytes. So fields are counted first, by their tags alone, in a time that goes by their
number and ends at the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from topwork._display.excerpts import LONGEST

from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_names import MOST_ID_BYTES

KIB = 1 << 10
#: Bytes of a name of any kind: the longest that any check lets through (an id) has 512.
NAME = 1 * KIB
#: Strings that are no names, by message and field: the most bytes of one, None where the message alone bounds it.
TEXTS: Mapping[str, int | None] = {
    "topwork.v1.Item.text": None,
    "topwork.v1.DividedText.text": None,
    "topwork.v1.TextPair.text": None,
    "topwork.v1.TextPair.pair": None,
    "topwork.v1.Column.strings": None,
    "topwork.v1.Strings.values": None,  # values of metadata; where they are ids, those are checked as ids
    "topwork.v1.Texts.texts": None,
    "topwork.v1.PretrainSettings.where": None,
    "topwork.v1.WriteRows.ids": None,  # a wrong one is named by its position
    "topwork.v1.ReadRequest.where": None,  # a filter's own bound is in sets/filters.py
    "topwork.v1.ReadRequest.ids": MOST_ID_BYTES,
    "topwork.v1.DeleteRowsRequest.where": None,
    "topwork.v1.DeleteRowsRequest.ids": MOST_ID_BYTES,
    "topwork.v1.CountRowsRequest.where": None,
    "topwork.v1.UpdateRowsRequest.where": None,
    "topwork.v1.UpdateRowsRequest.ids": MOST_ID_BYTES,
    "topwork.v1.SearchRequest.where": None,
    "topwork.v1.StoredItems.ids": MOST_ID_BYTES,
    "topwork.v1.TrainRequest.where": None,
    "topwork.v1.TrainRequest.test_where": None,
    "topwork.v1.ProbeRequest.where": None,
    "topwork.v1.TrainRequest.DescriptionsEntry.value": 64 * KIB,
    "google.protobuf.Value.string_value": 64 * KIB,
    "tei.v1.EmbedRequest.inputs": None,
    "tei.v1.EmbedSparseRequest.inputs": None,
    "tei.v1.EmbedAllRequest.inputs": None,
    "tei.v1.EncodeRequest.inputs": None,
    "tei.v1.RerankRequest.query": None,
    "tei.v1.RerankRequest.texts": None,
    "tei.v1.RerankStreamRequest.query": None,
    "tei.v1.RerankStreamRequest.text": None,
    "inference.InferParameter.string_param": 64 * KIB,
    "inference.ModelRepositoryParameter.string_param": None,  # a model's whole configuration, which is refused
}
#: Entries of one kind in a message: names and map entries; options and the numbers in their lists; messages such as items; values
#: of metadata and ids; packed numbers.
MOST_NAMES, MOST_OPTIONS, MOST_MESSAGES, MOST_VALUES, MOST_NUMBERS = 4096, 4096, 65_536, 1_000_000, 1 << 22
#: Fields that this server does not know, and messages within messages (protobuf itself takes 100).
MOST_UNKNOWN, DEEPEST = 10_000, 48
#: What is said of too many of a field that cannot be sent in parts, and what to do.
MOST_OF = {
    "TrainRequest.descriptions": (
        f"descriptions of more than {MOST_NAMES:,} classes",
        "describe fewer; of more classes write the texts to a set, and search it by each item",
    ),
}
#: A message of fewer bytes cannot hold too much of anything.
SMALL = MOST_ID_BYTES

_OPTIONS = ("google.protobuf.Value", "google.protobuf.Struct.FieldsEntry")
_BYTES_EACH = {FieldDescriptor.TYPE_DOUBLE: 8, FieldDescriptor.TYPE_FIXED64: 8, FieldDescriptor.TYPE_SFIXED64: 8} | {
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}


#: Protobuf's words for it: the class of its error is that of bytes that are no message.
OUT_OF_MEMORY = "alloc failed"


class Undecodable(InvalidInput):
    """The bytes are no message of the kind that the method takes."""


class FieldLimit(NamedTuple):
    """Bounds of one field. `inside` are the fields of a message; `longest` is of a string; `width` is of a packed number."""

    name: str
    most: int
    inside: dict[int, FieldLimit] | None = None
    longest: int | None = None
    width: int = 0


@cache
def rules_of(descriptor: Descriptor) -> dict[int, FieldLimit]:
    """Return the limits by field number. Messages hold one another (a Value has Values), so that the same dict may come back
    inside of itself."""
    return _rules(descriptor, {})


def _rules(descriptor: Descriptor, known: dict[str, dict[int, FieldLimit]]) -> dict[int, FieldLimit]:
    if descriptor.full_name not in known:
        made = known[descriptor.full_name] = {}
        made.update({one.number: _rule(one, known) for one in descriptor.fields})
    return known[descriptor.full_name]


def _rule(one: FieldDescriptor, known: dict[str, dict[int, FieldLimit]]) -> FieldLimit:
    name = one.full_name.removeprefix("topwork.v1.")
    if one.message_type is not None:
        return FieldLimit(name, _most_messages(one.message_type), _rules(one.message_type, known))
    match one.type:
        case FieldDescriptor.TYPE_STRING:
            is_name = one.full_name not in TEXTS
            longest = NAME if is_name else TEXTS[one.full_name]
            return FieldLimit(name, MOST_NAMES if is_name else MOST_VALUES, longest=longest)
        case FieldDescriptor.TYPE_BYTES:
            return FieldLimit(name, MOST_MESSAGES)
    return FieldLimit(name, MOST_NUMBERS, width=_BYTES_EACH.get(one.type, 1))


def _most_messages(inside: Descriptor) -> int:
    if inside.full_name in _OPTIONS:
        return MOST_OPTIONS
    if inside.full_name in ("topwork.v1.Column", "topwork.v1.TapFeatures") or inside.GetOptions().map_entry:
        return MOST_NAMES
    return MOST_VALUES if inside.full_name == "topwork.v1.Strings" else MOST_MESSAGES


def check(data: bytes, descriptor: Descriptor) -> None:
    """Check the message of these bytes. InvalidInput names what is too much; Undecodable where it is cut off or no
    message."""
    if len(data) < SMALL:
        return
    try:
        _look_through(data, rules_of(descriptor))
    except IndexError:
        raise undecodable(descriptor) from None


def undecodable(descriptor: Descriptor) -> Undecodable:
    return Undecodable(f"the bytes are no {descriptor.full_name}", remedy="make the message from the protos of this server")


def _look_through(data: bytes, rules: Mapping[int, FieldLimit]) -> None:
    """Check all fields in one flat loop: a call for each field would take longer than the rest of it."""
    at, end, unknown = 0, len(data), 0
    counts: dict[str, int] = {}
    stack: list[tuple[Mapping[int, FieldLimit], int]] = [(rules, end)]
    while True:
        if at >= end:
            stack.pop()
            if not stack:
                return
            rules, end = stack[-1]
            continue
        tag, at = data[at], at + 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1)
        rule, wire, size, number = rules.get(tag >> 3), tag & 7, 0, 1
        if wire == 2:
            size, at = data[at], at + 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
            if at + size > end:
                raise IndexError
        elif wire == 0:
            while data[at] >= 0x80:
                at += 1
            size = 1
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError  # groups, which our messages have none of
        if rule is None:
            unknown += 1
            if unknown > MOST_UNKNOWN:
                raise InvalidInput(f"a message of more than {MOST_UNKNOWN:,} unknown fields", remedy="see the protos")
        else:
            name, most, inside, longest, width = rule
            if wire == 2:
                if inside is not None:
                    rules, end, size = inside, at + size, 0
                    stack.append((rules, end))
                elif width:
                    number = size // width
                elif longest is not None and size > longest:
                    raise _too_long(name, data[at : at + LONGEST * 4], size, longest)
                else:  # the others of a list of short strings are passed over at once
                    at, size, number = _past_short(data, at + size, end, tag)
            counts[name] = number = counts.get(name, 0) + number
            if number > most:
                what, remedy = MOST_OF.get(name, (f"a message with more than {most:,} of {name}", "send fewer in one message"))
                raise InvalidInput(what, remedy=remedy)
        at += size
        if len(stack) > DEEPEST:
            raise InvalidInput(f"messages within messages, more than {DEEPEST} deep", remedy="send flatter options")


def _past_short(data: bytes, at: int, end: int, tag: int) -> tuple[int, int, int]:
    """Return where strings of less than 128 bytes with the same tag end, 0, and how many fields they are, with the one before
    them."""
    number = 1
    while at + 1 < end and data[at] == tag and data[at + 1] < 0x80:
        at += 2 + data[at + 1]
        number += 1
    if at > end:
        raise IndexError
    return at, 0, number


def _too_long(name: str, begin: bytes, size: int, longest: int) -> InvalidInput:
    text = begin.decode("utf-8", "replace")[:LONGEST]
    return InvalidInput(f"{name} has {size:,} bytes, and may have {longest:,}: {text!r}...", remedy="send a shorter one")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number there, and where the next field begins."""
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def decode(data: bytes, kind: Any) -> Any:
    """The message, after a look at what it holds. MemoryError where it is whole and there is no room for it."""
    from google.protobuf.message import DecodeError

    check(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        if OUT_OF_MEMORY in str(error):
            raise MemoryError(f"a message of {len(data):,} bytes") from None
        raise undecodable(kind.DESCRIPTOR) from None
