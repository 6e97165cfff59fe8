"""Embeds the descriptions of classes with the encoder of the set, and looks at the encoder of the texts of an alignment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.features import TapRows
from topwork_server.heads.head_types import HeadDefinition, TextSide
from topwork_server.heads.pooling import pool_rows
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.types import Granularity, TextItem

#: For each view a row a class.
Described = tuple[tuple[tuple[float, ...], ...], ...]


async def text_side(encoder: str, engine: Engine) -> TextSide:
    """Find the text encoder of an alignment, and its default tap. NotFound, InvalidInput where it embeds no texts, or not to one
    row."""
    try:
        features = await engine.embed(EmbedParams(encoder), [TextItem("a caption")])
    except InvalidInput as error:
        raise InvalidInput(f"{encoder} does not embed captions: {error.message}", remedy="name an encoder of texts") from error
    tap = features.taps[0].tap
    if tap.tap.granularity is not Granularity.ITEM:
        raise InvalidInput(
            f"{encoder} gives several rows a text by its usual tap {tap.tap.name}", remedy="name an encoder that gives one"
        )
    return TextSide(encoder, tap)


async def embed_descriptions(definition: HeadDefinition, engine: Engine) -> Described:
    """Embed the descriptions with the options of the set. InvalidInput where the trunk does not embed texts, NotReady where it
    is not the set's."""
    taps = tuple(dict.fromkeys(info.tap.name for info, _ in definition.views))
    ask = EmbedParams(definition.encoder, taps, definition.encoder_options)
    try:
        features = await engine.embed(ask, [TextItem(text) for text in definition.descriptions.values()])
    except InvalidInput as error:
        raise _not_embedded(definition, error) from error
    rows = {tap.tap.tap.name: tap for tap in features.taps}
    return await asyncio.to_thread(_pooled_descriptions, definition, rows)


def _pooled_descriptions(definition: HeadDefinition, rows: Mapping[str, TapRows]) -> Described:
    found = []
    for info, pooling in definition.views:
        here = rows[info.tap.name]
        if here.tap.fingerprint != info.fingerprint:
            raise NotReady(
                f"the tap {info.tap.name} of {definition.encoder} has fingerprint {here.tap.fingerprint}, and the set "
                f"{definition.set} has {info.fingerprint}",
                remedy="the encoder has changed since: write the set again",
            )
        vectors, _ = pool_rows(definition.task, pooling, here)
        found.append(tuple(tuple(row) for row in vectors.tolist()))
    return tuple(found)


def _not_embedded(definition: HeadDefinition, error: InvalidInput) -> InvalidInput:
    names = list(definition.descriptions)
    whose = f"of the class {names[error.item]!r} " if error.item is not None else ""
    return InvalidInput(
        f"{definition.encoder} does not embed the description {whose}as a text: {error.message}",
        remedy=error.remedy or "train on a set of an encoder that embeds texts, or leave the descriptions out",
    )
