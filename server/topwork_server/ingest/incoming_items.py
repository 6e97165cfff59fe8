"""What one message of a writer brings, checked as far as that is possible without the set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.feature_sets.set_names import MOST_ID_BYTES
from topwork_server.feature_sets.set_types import Column, ItemBatch
from topwork_server.ingest.item_features import take_items
from topwork_server.types import Item, Numerics, TapRows


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
        """Ids and metadata of the good ones, and their features where these are ready."""
        whole = ItemBatch(ids=self.ids, metadata=self.metadata)
        return replace(take_items(whole, self.positions), taps=self.features)


def check_message_ids(ids: Sequence[str]) -> None:
    """InvalidInput says which is empty, too long, or there twice."""
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
    good = take_items(ItemBatch(ids=ids, taps=features), positions).taps if failures else features
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
        remedy="leave the item out, or mend its vector",
        item=position,
    )
