"""The OpenAPI document of everything on the HTTP port (spec.openapis.org/oas/v3.1.0): /openapi.json, and /docs, a page of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any

import msgspec
import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from topwork_server import __version__
from topwork_server.doors import http_errors
from topwork_server.doors.calls import FINGERPRINT, MODEL, PRIORITY, REQUEST_ID, TIMEOUT
from topwork_server.doors.json_calls import DoorRoute, Operation
from topwork_server.doors.service_methods import ServiceMethod

#: A parameter of a path, as Starlette writes it: {name} or {name:path}.
_IN_PATH = re.compile(r"{(\w+)[^}]*}")
JSON, CONNECT_STREAM = "application/json", "application/connect+json"
_SCHEMAS = "#/components/schemas/{name}"
_HEADERS = {
    MODEL: "the encoder, where the body names none",
    FINGERPRINT: "insist on the fingerprint of the rows",
    PRIORITY: "low, normal or high",
    TIMEOUT: "milliseconds until the answer is no longer wanted",
    REQUEST_ID: "comes back with the reply",
}
#: JSON of well-known types (protobuf.dev/programming-guides/json).
_WELL_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string"},
}
_SCALARS: Mapping[int, Mapping[str, Any]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
}


class ApiDocs:
    """Describes methods of our own API, and operations of the other doors."""

    def __init__(self, methods: Iterable[ServiceMethod], operations: Iterable[Operation]) -> None:
        self._methods, self._operations = list(methods), list(operations)

    def routes(self) -> list[Route]:
        served = (("/openapi.json", self._json), ("/docs", self._page))
        return [DoorRoute(path, answer, "GET", http_errors.error_form) for path, answer in served]

    async def _json(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _page(self, request: Request) -> Response:
        return HTMLResponse((files("topwork_server.doors") / "docs.html").read_text("utf-8"))

    @cached_property
    def _document(self) -> bytes:
        schemas: dict[str, Any] = {}
        paths = {f"/{one.service}/{one.name}": {"post": _method(one, schemas)} for one in self._methods}
        bodies = [one.body for one in self._operations if one.body is not None]
        described, components = msgspec.json.schema_components(bodies, ref_template=_SCHEMAS)
        of_bodies = iter(described)
        for one in self._operations:
            path = paths.setdefault(_IN_PATH.sub(r"{\1}", one.path), {})
            path["get" if one.body is None else "post"] = _operation(one, None if one.body is None else next(of_bodies))
        return orjson.dumps(
            {
                "openapi": "3.1.0",
                "info": {"title": "Topwork", "version": __version__},
                "paths": paths,
                "components": {"schemas": {**schemas, **components}},
            }
        )


def _method(method: ServiceMethod, schemas: dict[str, Any]) -> dict[str, Any]:
    streams = method.streams_requests or method.streams_replies
    taken = "a stream of messages of this kind, as Connect frames them" if method.streams_requests else ""
    given = "Replies are a stream." if method.streams_replies else ""
    return {
        "tags": [method.service],
        "operationId": f"{method.service}.{method.name}",
        "summary": method.name,
        "description": given,
        "requestBody": {
            "description": taken,
            "content": _content(_message(method.kind.DESCRIPTOR, schemas), CONNECT_STREAM if streams else JSON),
        },
        "responses": {"200": {"description": "the reply"}, "default": {"description": "an error as Connect has it"}},
    }


def _operation(operation: Operation, schema: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.counted_as.partition(".")[0]],
        "operationId": operation.counted_as + operation.path,
        "summary": operation.summary,
        "parameters": [
            *(_parameter(name, "path") for name in _IN_PATH.findall(operation.path)),
            *(_parameter(name, "header", meaning) for name, meaning in _HEADERS.items()),
        ],
        "responses": {"200": {"description": "the reply"}, "default": {"description": "an error in the protocol's own form"}},
    }
    return (
        described
        if schema is None
        else {**described, "requestBody": {"required": True, "content": _content(schema, operation.content_type)}}
    )


def _parameter(name: str, place: str, meaning: str = "") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}, "description": meaning}


def _content(schema: Any, kind: str = JSON) -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _message(descriptor: Descriptor, schemas: dict[str, Any]) -> Mapping[str, Any]:
    """A reference to a message's schema, which is added to `schemas` with all that it refers to."""
    name = descriptor.full_name
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    if name not in schemas:
        schemas[name] = {"type": "object"}
        schemas[name]["properties"] = {field.json_name: _field_schema(field, schemas) for field in descriptor.fields}
    return {"$ref": _SCHEMAS.format(name=name)}


def _field_schema(field: FieldDescriptor, schemas: dict[str, Any]) -> Mapping[str, Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _value_schema(field.message_type.fields_by_name["value"], schemas)}
    one = _value_schema(field, schemas)
    return {"type": "array", "items": one} if field.is_repeated else one


def _value_schema(field: FieldDescriptor, schemas: dict[str, Any]) -> Mapping[str, Any]:
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "format": "byte", "description": "base64"}
    return _SCALARS.get(field.cpp_type, {"type": "string"})
