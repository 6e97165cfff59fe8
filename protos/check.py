"""Compare the protos with what clients may rely on already (released.json), and fail where one would break.

    python protos/check.py            say what breaks
    python protos/check.py --record   add what is new to released.json, unless something breaks

Released are the numbers, names, types, labels and oneofs of fields, the numbers and names of enum values, and the types and
streaming of methods. A field or a value may go where its number and its name are `reserved` from then on; all else stays.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

PROTOS = Path(__file__).parent
RELEASED = PROTOS / "released.json"
#: How released.json lists a field or a value that was removed.
RESERVED = "reserved "
REMEDY = "Give what is new a name and a number of its own, and leave what is released, or reserve its number and its name."

#: By the kind and full name of a message, an enum or a service: a line for each field and value by number, each method by name.
Lines = Mapping[str, Mapping[str, str]]


class Reserved(NamedTuple):
    """Numbers and names that a message or an enum reserves."""

    numbers: Sequence[range]
    names: Sequence[str]

    def has(self, number: int, name: str) -> bool:
        """Tell whether both are reserved, so that protoc gives them to no other."""
        return name in self.names and any(number in numbers for numbers in self.numbers)


class Protocol(NamedTuple):
    """The definitions of some protos, and the names and numbers that each message and enum reserves."""

    lines: dict[str, dict[str, str]]
    reserved: dict[str, Reserved]


def compile_protos(folder: Path) -> list[FileDescriptorProto]:
    """Compile the protos under topwork/ of a folder, with their comments."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.glob("topwork/**/*.proto"))]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "protos.bin"
        google = files("grpc_tools") / "_proto"
        command = ["protoc", f"-I{folder}", f"-I{google}", f"-o{out}", "--include_source_info", *names]
        if protoc.main(command):
            raise SystemExit("the protos do not compile")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def protocol_of(protos: Iterable[FileDescriptorProto]) -> Protocol:
    """Collect the definitions of these files."""
    protocol = Protocol({}, {})
    for file in protos:
        for message in file.message_type:
            _add_message(protocol, f"{file.package}.{message.name}", message)
        for enum in file.enum_type:
            _add_enum(protocol, f"{file.package}.{enum.name}", enum)
        for service in file.service:
            lines = {method.name: _method_line(method) for method in service.method}
            protocol.lines[f"service {file.package}.{service.name}"] = lines
    return protocol


def _add_message(protocol: Protocol, name: str, message: DescriptorProto) -> None:
    maps = {f".{name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    lines = {str(field.number): _field_line(field, message, maps) for field in message.field}
    protocol.lines[f"message {name}"] = lines
    ranges = [range(one.start, one.end) for one in message.reserved_range]
    protocol.reserved[f"message {name}"] = Reserved(ranges, message.reserved_name)
    for nested in message.nested_type:
        if not nested.options.map_entry:
            _add_message(protocol, f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        _add_enum(protocol, f"{name}.{enum.name}", enum)


def _add_enum(protocol: Protocol, name: str, enum: EnumDescriptorProto) -> None:
    protocol.lines[f"enum {name}"] = {str(value.number): value.name for value in enum.value}
    ranges = [range(one.start, one.end + 1) for one in enum.reserved_range]
    protocol.reserved[f"enum {name}"] = Reserved(ranges, enum.reserved_name)


def _field_line(field: FieldDescriptorProto, message: DescriptorProto, maps: Mapping[str, DescriptorProto]) -> str:
    """Such as "repeated string taps" or "bytes image of content": label, type, name, oneof."""
    if entry := maps.get(field.type_name):
        key, value = entry.field
        return f"map<{_type_name(key)},{_type_name(value)}> {field.name}"
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    label = "repeated " if repeated else "optional " if field.proto3_optional else ""
    in_oneof = field.HasField("oneof_index") and not field.proto3_optional
    oneof = f" of {message.oneof_decl[field.oneof_index].name}" if in_oneof else ""
    return f"{label}{_type_name(field)} {field.name}{oneof}"


def _type_name(field: FieldDescriptorProto) -> str:
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return field.type_name.removeprefix(".") or name


def _method_line(method: MethodDescriptorProto) -> str:
    asks = "stream " if method.client_streaming else ""
    answers = "stream " if method.server_streaming else ""
    return f"{asks}{method.input_type.removeprefix('.')} returns {answers}{method.output_type.removeprefix('.')}"


def breaks(released: Lines, now: Protocol) -> Iterator[str]:
    """A sentence for each promise that is broken."""
    for title, lines in released.items():
        kind, name = title.split(" ")
        found = now.lines.get(title)
        if found is None:
            yield f"The {kind} {name} is released, and is gone."
            continue
        for key, was in lines.items():
            if kind == "service":
                yield from _method_breaks(f"{name}.{key}", was, found.get(key))
            elif not now.reserved[title].has(int(key), _name_in(was)):
                yield from _number_breaks(name, key, was, found)


def _method_breaks(method: str, was: str, is_: str | None) -> Iterator[str]:
    if is_ is None:
        yield f"The method {method} is released, and is gone."
    elif is_ != was:
        yield f"The method {method} is released as `{was}`, and is `{is_}`."


def _number_breaks(name: str, number: str, was: str, found: Mapping[str, str]) -> Iterator[str]:
    """Describe the break of a field or a value that is not reserved."""
    part, is_ = f"{name}.{_name_in(was)}", found.get(number)
    moved = next((other for other, line in found.items() if _name_in(line) == _name_in(was)), None)
    if was.startswith(RESERVED):
        yield f"{part} was removed: its number {number} and its name stay reserved."
    elif moved not in (None, number):
        yield f"{part} is released with the number {number}, and has {moved}."
    elif is_ is None:
        yield f"{part} is released with the number {number}, and is gone without being reserved by number and name."
    elif is_ != was:
        yield f"{part} is released as `{was}`, and is `{is_}`."


def _name_in(line: str) -> str:
    """The name of the field or value of a line."""
    return line.split(" of ")[0].split(" ")[-1]


def recorded(released: Lines, now: Protocol) -> dict[str, dict[str, str]]:
    """Return the release from now on: all that there is, and what was removed as reserved."""
    record = {title: dict(lines) for title, lines in now.lines.items()}
    for title, lines in released.items():
        for key, was in lines.items():
            if key not in record[title]:
                record[title][key] = RESERVED + _name_in(was)
    return record


def read_released() -> dict[str, dict[str, str]]:
    lines: dict[str, dict[str, str]] = json.loads(RELEASED.read_text("utf-8"))
    return lines


def main(arguments: Sequence[str]) -> int:
    released, now = read_released(), protocol_of(compile_protos(PROTOS))
    if broken := list(breaks(released, now)):
        print(*broken, REMEDY, sep="\n", file=sys.stderr)
        return 1
    if "--record" in arguments:
        RELEASED.write_text(json.dumps(recorded(released, now), indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
