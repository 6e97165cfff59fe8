"""Declared options as messages: what a client of any language may set, with types, bounds, choices and defaults as JSON."""

from __future__ import annotations

import json
from typing import Any

from topwork.v1 import encoders_pb2

from topwork_server.plugin_api import options


def option_messages(declared: type[Any]) -> list[encoders_pb2.Option]:
    """`declared` is the dataclass of options of an encoder, a kind of index or a trainer."""
    return [
        encoders_pb2.Option(
            name=choice.name,
            type=choice.type,
            default=choice.default,
            description=choice.description,
            schema=json.dumps(choice.schema, ensure_ascii=False),
        )
        for choice in options.choices(declared)
    ]
