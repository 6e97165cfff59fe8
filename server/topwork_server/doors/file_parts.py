"""Files of a body of multipart/form-data (RFC 7578), which is in memory and bounded already."""

from __future__ import annotations

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from topwork_server.errors import InvalidInput, TooLarge

KIND = "multipart/form-data"

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every body that is none


def files_of(body: bytes, content_type: str, field: str, most: int) -> list[bytes]:
    """The content of each part that has that name and a file name, in their order. InvalidInput for another kind of body, one
    that is not as its boundary says, and parts that are something else; TooLarge for more than `most`."""
    kind, parameters = parse_options_header(content_type)
    if kind.decode("latin-1") != KIND or not parameters.get(b"boundary"):
        raise InvalidInput(f"the body is no {KIND} with a boundary", remedy=f"send each file as a part `{field}` of {KIND}")
    parts = _Parts(field, most)
    try:
        parser = MultipartParser(parameters[b"boundary"], parts.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the body is no {KIND}: {error}", remedy="send it whole, as its boundary says") from None
    if not parts.has_ended:
        raise InvalidInput(f"the body ends before its {KIND} does", remedy="send it whole, with the closing boundary")
    return [b"".join(chunks) for chunks in parts.files]


class _Parts:
    """Collects files as the parser finds them."""

    def __init__(self, field: str, most: int) -> None:
        self._field, self._most = field, most
        self._name, self._value = b"", b""
        self._disposition = b""
        self.files: list[list[memoryview]] = []
        self.has_ended = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._on_part,
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_end": self._on_end,
        }

    def _on_part(self) -> None:
        self._disposition = b""

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _on_headers(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if name != self._field or b"filename" not in parameters:
            raise InvalidInput(
                f"part {len(self.files)} of the body is {name[:40]!r}"
                + ("" if b"filename" in parameters else " without a file name"),
                remedy=f"send each file as a part `{self._field}` with a file name",
            )
        if len(self.files) == self._most:
            raise TooLarge(f"more than {self._most:,} files", remedy=f"send at most {self._most:,} at a time")
        self.files.append([])

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self.files[-1].append(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self.has_ended = True
