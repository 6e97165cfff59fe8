"""Embeds the descriptions of classes with the encoder of the set, and looks at the encoder of the texts of an alignment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from topwork_server.access.passes import encoder_pass
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.features import TapRows
from topwork_server.heads.head_types import HeadDefinition, TextSide
from topwork_server.heads.pooling import pool_rows
from topwork_server.inference.engine import EmbedParams, Engine, choose_taps
from topwork_server.types import Array, Granularity, Modality, TextItem

LONGEST_DESCRIPTION = 10_000
#: Less than this apart, by cosine, are two descriptions that are equal but for rounding.
SAME, TINY = 1e-10, 1e-30
#: For each view a row a class.
Described = tuple[tuple[tuple[float, ...], ...], ...]


def check_descriptions(descriptions: Mapping[str, str]) -> None:
    """Raise InvalidInput for a class without a name of its own, or a description that is blank or too long."""
    named: dict[str, str] = {}
    for name, text in descriptions.items():
        plain = " ".join(name.split())
        if not plain:
            raise InvalidInput(f"a class is named {name!r}, and described as {text:.100}", remedy="name each class in letters")
        if plain in named:
            raise InvalidInput(
                f"the classes {named[plain]!r} and {name!r} differ in spaces alone", remedy="describe each class once"
            )
        named[plain] = name
        if not text.strip() or len(text) > LONGEST_DESCRIPTION:
            what = f"of {len(text)} characters" if text.strip() else "that is blank"
            raise InvalidInput(
                f"the class {name!r} has a description {what}",
                remedy=f"describe each class in 1 to {LONGEST_DESCRIPTION:,} characters",
            )


async def text_side(encoder: str, engine: Engine) -> TextSide:
    """Find the text encoder of an alignment, and its default tap. NotFound, InvalidInput where it embeds no texts, or not to one
    row. No text of our own is embedded: its vocabulary may have none of our words."""
    async with engine.acquire(encoder_pass(encoder)) as loaded:
        [tap] = choose_taps(loaded, ())
        reads = [tower.manifest for tower in loaded.towers if tower.encoder.spec.modality is Modality.TEXT]
    if not any(manifest.tap(tap.tap.name) for manifest in reads):
        what = f"the usual tap of {encoder}, {tap.tap.name}, is not of texts" if reads else f"{encoder} does not embed captions"
        raise InvalidInput(what, remedy="name an encoder of texts")
    if tap.tap.granularity is not Granularity.ITEM:
        raise InvalidInput(
            f"{encoder} gives several rows a text by its usual tap {tap.tap.name}", remedy="name an encoder that gives one"
        )
    return TextSide(encoder, tap)


async def embed_descriptions(definition: HeadDefinition, engine: Engine) -> Described:
    """Embed the descriptions with the options of the set. InvalidInput where the trunk does not embed texts, NotReady where it
    is not the set's."""
    taps = tuple(dict.fromkeys(info.tap.name for info, _ in definition.views))
    ask = EmbedParams(encoder_pass(definition.encoder), taps, definition.encoder_options)
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
        _check_apart(definition, vectors)
        found.append(tuple(tuple(row) for row in vectors.tolist()))
    return tuple(found)


def _check_apart(definition: HeadDefinition, vectors: Array) -> None:
    """Raise InvalidInput where two descriptions (classes, dim) have one direction."""
    names, wide = list(definition.descriptions), vectors.astype(np.float64)
    units = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), TINY)
    pairs = np.argwhere(np.triu(units @ units.T > 1 - SAME, k=1))
    if len(pairs):
        one, other = (names[at] for at in pairs[0])
        equal = definition.descriptions[one] == definition.descriptions[other]
        why = "have one description" if equal else f"have descriptions that are equal to {definition.encoder}"
        raise InvalidInput(
            f"the classes {one!r} and {other!r} {why}: nothing tells them apart",
            remedy="describe each in words of its own, or make them one class",
        )


def _not_embedded(definition: HeadDefinition, error: InvalidInput) -> InvalidInput:
    names = list(definition.descriptions)
    whose = f"of the class {names[error.item]!r} " if error.item is not None else ""
    return InvalidInput(
        f"{definition.encoder} does not embed the description {whose}as a text: {error.message}",
        remedy=error.remedy or "train on a set of an encoder that embeds texts, or leave the descriptions out",
    )
