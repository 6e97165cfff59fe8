"""Descriptions of classes, as the trunk of a set embeds them: in the space of what a head reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.heads.head_types import HeadDefinition
from topwork_server.heads.pooling import pooled
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.types import TapRows, Text

#: For each view a row a class.
Described = tuple[tuple[tuple[float, ...], ...], ...]


async def embedded(definition: HeadDefinition, engine: Engine) -> Described:
    """With the options of the set. InvalidInput where the trunk does not embed texts, NotReady where it is not the set's."""
    taps = tuple(dict.fromkeys(info.tap.name for info, _ in definition.views))
    ask = EmbedParams(definition.encoder, taps, definition.encoder_options)
    try:
        features = await engine.embed(ask, [Text(text) for text in definition.descriptions.values()])
    except InvalidInput as error:
        raise _not_embedded(definition, error) from error
    rows = {tap.tap.tap.name: tap for tap in features.taps}
    return await asyncio.to_thread(_pooled, definition, rows)


def _pooled(definition: HeadDefinition, rows: Mapping[str, TapRows]) -> Described:
    found = []
    for info, pooling in definition.views:
        here = rows[info.tap.name]
        if here.tap.fingerprint != info.fingerprint:
            raise NotReady(
                f"the tap {info.tap.name} of {definition.encoder} has fingerprint {here.tap.fingerprint}, and the set "
                f"{definition.set} has {info.fingerprint}",
                remedy="the encoder has changed since: write the set anew",
            )
        vectors, _ = pooled(definition.task, pooling, here)
        found.append(tuple(tuple(row) for row in vectors.tolist()))
    return tuple(found)


def _not_embedded(definition: HeadDefinition, error: InvalidInput) -> InvalidInput:
    names = list(definition.descriptions)
    whose = f"of the class {names[error.item]!r} " if error.item is not None else ""
    return InvalidInput(
        f"{definition.encoder} does not embed the description {whose}as a text: {error.message}",
        remedy=error.remedy or "train on a set of an encoder that embeds texts, or leave the descriptions out",
    )
