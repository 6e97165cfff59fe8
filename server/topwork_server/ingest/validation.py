"""Checks of a message and of a stream's settings, before and against the set that they are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from topwork_server.access.passes import SetPass
from topwork_server.errors import InvalidInput, NotFound, NotReady, TopworkError
from topwork_server.feature_sets.set_names import MOST_ID_BYTES
from topwork_server.feature_sets.set_types import Column, ItemBatch, SetDefinition
from topwork_server.features import TapRows
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api import options as request_options
from topwork_server.types import EncoderSpec, FingerprintedTap, Item, Numerics, Priority

#: The tap of ready vectors that name none, in a set that they make.
DEFAULT_TAP = "vectors"


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """Settings of a stream of writes. An empty one is not given: of a new set it is the default, else the set's own."""

    set: SetPass
    encoder: str = ""
    taps: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = ""
    keep_inputs: bool = False
    skip_bad_items: bool = False
    priority: Priority = Priority.NORMAL


def full_options(spec: EncoderSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults, so that equal options are equal however they are spelled."""
    return asdict(request_options.parse(request_options.declared_by(spec), given))


def check_settings(settings: WriteSettings, definition: SetDefinition, catalog: Catalog) -> None:
    """Raise NotReady where the settings differ from the set."""
    names = [info.tap.name for info in definition.taps]
    pairs: list[tuple[str, Any, Any]] = [
        ("encoder", settings.encoder, definition.encoder),
        ("taps", sorted(settings.taps), sorted(names)),
        ("dtype", settings.dtype, definition.dtype),
        ("keep_inputs", settings.keep_inputs, definition.keep_inputs),
    ]
    for what, given, found in pairs:
        if given and given != found:
            raise _disagree(definition.name, what, given, found)
    if settings.options:
        given, found = _options(settings.options, definition, catalog), _options(definition.options, definition, catalog)
        if any(given[name] != found.get(name) for name in settings.options):
            raise _disagree(definition.name, "options", given, found)


def _options(given: Mapping[str, Any], definition: SetDefinition, catalog: Catalog) -> dict[str, Any]:
    try:
        return full_options(catalog.spec(definition.encoder), given)
    except NotFound:  # the set's encoder is not served any more, or it has none
        return dict(given)


def _disagree(name: str, what: str, given: Any, found: Any) -> NotReady:
    return NotReady(
        f"the set {name} has {what} {_shown(found)}, not {_shown(given)}",
        remedy=f"leave {what} out of the settings, or write to another set",
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={value[name]!r}" for name in sorted(value))
    return str(value) or "none"


def check_same_definition(mine: SetDefinition, found: SetDefinition) -> None:
    """Raise NotReady where another writer made the set meanwhile, and otherwise than this one would have."""
    for what in ("encoder", "options", "dtype", "keep_inputs"):
        given, is_ = getattr(mine, what), getattr(found, what)
        if given != is_:
            raise _disagree(mine.name, what, given, is_)
    given, is_ = ([f"{t.tap.name} {t.tap.dim} {t.fingerprint}" for t in one.taps] for one in (mine, found))
    if sorted(given) != sorted(is_):
        raise _disagree(mine.name, "taps", given, is_)


def definition_from_features(settings: WriteSettings, features: Sequence[TapRows]) -> SetDefinition:
    """Define a set of ready features without an encoder."""
    if settings.options:
        raise InvalidInput("options came without an encoder", remedy="name the encoder that they belong to")
    taps = tuple(replace(f.tap, tap=replace(f.tap.tap, name=f.tap.tap.name or DEFAULT_TAP)) for f in features)
    names = {info.tap.name for info in taps}
    if settings.taps and names != set(settings.taps):
        raise InvalidInput(
            f"the settings name the taps {', '.join(settings.taps)}, and features of {', '.join(sorted(names))} came",
            remedy="send features of each tap",
        )
    return SetDefinition(settings.set, taps, dtype=settings.dtype or "float32", keep_inputs=settings.keep_inputs)


def match_features(features: Sequence[TapRows], definition: SetDefinition) -> tuple[TapRows, ...]:
    """Ready features in the order of the set's taps. InvalidInput or NotReady where they are not the set's."""
    named = {f.tap.tap.name: f for f in features}
    if set(named) == {""} and len(definition.taps) == 1:
        named = {definition.taps[0].tap.name: features[0]}
    names = [info.tap.name for info in definition.taps]
    if set(named) != set(names) or len(features) != len(names):
        came = ", ".join(f.tap.tap.name or "no name" for f in features)
        raise InvalidInput(
            f"features of {came} came, and the set {definition.name} has {', '.join(names)}",
            remedy="send features of each of the set's taps, each once",
        )
    return tuple(_check_features(named[info.tap.name], info, definition) for info in definition.taps)


def _check_features(features: TapRows, info: FingerprintedTap, definition: SetDefinition) -> TapRows:
    came, tap = features.tap.tap, info.tap
    if (came.dim, came.granularity) != (tap.dim, tap.granularity):
        raise InvalidInput(
            f"rows of {came.dim} numbers, one a {came.granularity}, came for the tap {tap.name} of {definition.name}, "
            f"which has {tap.dim}, one a {tap.granularity}",
            remedy="send what the set keeps, or write to another set",
        )
    if not features.tap.fingerprint and info.fingerprint:
        raise InvalidInput(
            f"features for the tap {tap.name} of {definition.name} came without a fingerprint",
            remedy=f"send the fingerprint that came with them; the set's is {info.fingerprint}",
        )
    check_fingerprint(features.tap.fingerprint, info, definition.name)
    return replace(features, tap=info)


def check_fingerprint(found: str, info: FingerprintedTap, name: str) -> None:
    """Raise NotReady where features mean something else than the set's do."""
    if found != info.fingerprint:
        raise NotReady(
            f"features of fingerprint {found} do not belong into the tap {info.tap.name} of {name}, "
            f"whose fingerprint is {info.fingerprint or 'not known'}",
            remedy="they do not mix: write them to a new set, or serve the encoder that made this one",
        )


@dataclass(frozen=True, slots=True)
class IncomingItems:
    """Items to be encoded, or features that are ready: `count` says which and how many came.

    `positions` are those of the good ones (`items`, or the items of `features`) in the message, `failures` are the others.
    Columns of metadata have a value for each id.
    """

    ids: Sequence[str]
    items: Sequence[Item] = ()
    positions: Sequence[int] = ()
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    features: tuple[TapRows, ...] = ()
    metadata: tuple[Column, ...] = ()
    numerics: Numerics | None = None

    def good_items(self) -> ItemBatch:
        """Return ids and metadata of the good items, and their features where these are ready."""
        whole = ItemBatch(ids=self.ids, metadata=self.metadata)
        return replace(whole.take(self.positions), taps=self.features)


def check_message_ids(ids: Sequence[str]) -> None:
    """Raise InvalidInput for an id that is empty, too long, or there twice."""
    if not ids:
        raise InvalidInput("the message has no ids", remedy="send an id for each item")
    seen: set[str] = set()
    for position, id in enumerate(ids):
        if not id:
            raise InvalidInput("the id is empty", remedy="give every item an id", item=position)
        if len(id) * 4 > MOST_ID_BYTES and len(id.encode()) > MOST_ID_BYTES:
            raise InvalidInput(
                f"the id has {len(id.encode())} bytes", remedy=f"use ids of at most {MOST_ID_BYTES}", item=position
            )
        if id in seen:
            raise InvalidInput(f"the id {id!r} is there twice", remedy="send each id once in a message", item=position)
        seen.add(id)


def check_count(ids: Sequence[str], count: int, what: str) -> None:
    if count != len(ids):
        raise InvalidInput(f"{len(ids)} ids came with {count} {what}", remedy="send as many ids as items")


def incoming_features(
    ids: Sequence[str],
    features: tuple[TapRows, ...],
    metadata: tuple[Column, ...],
    numerics: Numerics | None,
    *,
    skip_bad_items: bool,
) -> IncomingItems:
    """Ready features; an item with numbers that are not finite is a bad one."""
    failures: dict[int, TopworkError] = {}
    for tap in features:
        failures |= {position: _not_finite(tap, position) for position in _not_finite_in(tap)}
    if failures and not skip_bad_items:
        raise failures[min(failures)]
    positions = [i for i in range(len(ids)) if i not in failures]
    good = tuple(tap.take(positions) for tap in features) if failures else features
    return IncomingItems(ids, (), positions, failures, good, metadata, numerics)


def _not_finite_in(tap: TapRows) -> list[int]:
    """Positions of items that have such numbers in a row."""
    if np.isfinite(tap.rows).all():
        return []
    owners = np.repeat(np.arange(len(tap.counts)), tap.counts)
    positions: list[int] = np.unique(owners[~np.isfinite(tap.rows).all(axis=1)]).tolist()
    return positions


def _not_finite(tap: TapRows, position: int) -> TopworkError:
    return InvalidInput(
        f"a row of {tap.tap.tap.name or 'features'} has numbers that are not finite",
        remedy="leave the item out, or correct its vector",
        item=position,
    )
