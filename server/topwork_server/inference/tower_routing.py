"""Requests to an encoder of several towers: each item goes to the tower of its modality, and the rows come back in order."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from topwork_server.blocking_calls import together
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult, ItemFeatures, TapRows
from topwork_server.inference.model_cache import LoadedEncoder, LoadedTower
from topwork_server.types import FingerprintedTap, Item, Modality, Timings, modality_of

EmbedInTower: TypeAlias = Callable[[LoadedTower, Sequence[Item]], Coroutine[Any, Any, EmbedResult]]


@dataclass(frozen=True)
class RoutedItems:
    """The items of a request by tower, with their positions; what no tower takes has a failure."""

    items: Sequence[Item]
    taps: tuple[FingerprintedTap, ...]
    groups: Sequence[tuple[LoadedTower, Sequence[int]]]
    failures: Mapping[int, TopworkError]

    async def embed(self, embed: EmbedInTower) -> EmbedResult:
        """Embed each tower's items by `embed`, in all towers at once, and join the results. An error has its item's position
        among all, and cancels the work of the other towers."""
        results = await together(self._embed_group(embed, *group) for group in self.groups)
        return results[0] if len(results) == 1 and not self.failures else self._joined(results)

    async def _embed_group(self, embed: EmbedInTower, tower: LoadedTower, positions: Sequence[int]) -> EmbedResult:
        try:
            return await embed(tower, [self.items[i] for i in positions])
        except TopworkError as error:
            raise error.at(None if error.item is None else positions[error.item]) from error

    def _joined(self, results: Sequence[EmbedResult]) -> EmbedResult:
        found = [(result, positions) for result, (_, positions) in zip(results, self.groups, strict=True)]
        return EmbedResult(
            taps=tuple(self._joined_tap(column, found) for column in range(len(self.taps))),
            notes={positions[i]: note for result, positions in found for i, note in result.notes.items()},
            failures={
                **{positions[i]: error.at(positions[i]) for result, positions in found for i, error in result.failures.items()},
                **self.failures,
            },
            numerics=min((result.numerics for result in results), key=lambda numerics: numerics.parity),
            timings=Timings(*(max(getattr(one.timings, name) for one in results) for name in ("preprocess", "queue", "compute"))),
            cost=sum(result.cost for result in results),
        )

    def _joined_tap(self, column: int, found: Sequence[tuple[EmbedResult, Sequence[int]]]) -> TapRows:
        info = self.taps[column]
        by_item = [ItemFeatures(np.zeros((0, info.tap.dim), np.float32))] * len(self.items)
        for result, positions in found:
            for position, features in zip(positions, result.taps[column].split(), strict=True):
                by_item[position] = features
        return TapRows.join(info, by_item)


def route_items(loaded: LoadedEncoder, taps: tuple[FingerprintedTap, ...], items: Sequence[Item], *, skip: bool) -> RoutedItems:
    """Send each item to the tower of its modality. InvalidInput where no tower has all the taps, and for the first item that none
    takes or whose tower lacks a tap, unless `skip` is set."""
    able = [tower for tower in loaded.towers if not _lacking(tower, taps)]
    if not able:
        reads = ", ".join(f"{info.tap.name} of {_modality_with(loaded, info).plural}" for info in taps)
        raise InvalidInput(f"no item of {loaded.spec.name} has all of these taps: {reads}", remedy="ask for them one by one")
    groups: dict[int, list[int]] = {}
    failures: dict[int, TopworkError] = {}
    for position, item in enumerate(items):
        tower = _tower_of(loaded, item)
        if error := _refusal(loaded, tower, taps, item):
            if not skip:
                raise error.at(position)
            failures[position] = error.at(position)
        else:
            assert tower is not None, "it is refused otherwise"
            groups.setdefault(loaded.towers.index(tower), []).append(position)
    return RoutedItems(items, taps, [(loaded.towers[i], of) for i, of in groups.items()] or [(able[0], ())], failures)


def _tower_of(loaded: LoadedEncoder, item: Item) -> LoadedTower | None:
    """The tower that reads an item; of an array the first that reads no texts."""
    wanted = modality_of(item)
    reads = [(tower, tower.encoder.spec.modality) for tower in loaded.towers]
    return next((tower for tower, of in reads if of is wanted or (wanted is None and of is not Modality.TEXT)), None)


def _refusal(
    loaded: LoadedEncoder, tower: LoadedTower | None, taps: Sequence[FingerprintedTap], item: Item
) -> TopworkError | None:
    name, modality = loaded.spec.name, modality_of(item) or Modality.TENSOR
    if tower is None:
        reads = " and ".join(of.plural for of in loaded.spec.modalities)
        return InvalidInput(f"{name} reads {reads}, not {modality.plural}", remedy=f"send {reads}")
    if lacking := _lacking(tower, taps):
        tap, here = lacking[0].tap.name, tower.encoder.spec.modality.plural
        there = _modality_with(loaded, lacking[0]).plural
        return InvalidInput(
            f"the tap {tap} of {name} is of {there}, and this is one of the {here}",
            remedy=f"send {there}, or ask for {loaded.spec.default_tap}, which both have",
        )
    return None


def _lacking(tower: LoadedTower, taps: Sequence[FingerprintedTap]) -> list[FingerprintedTap]:
    return [info for info in taps if tower.tap(info.tap.name) is None]


def _modality_with(loaded: LoadedEncoder, info: FingerprintedTap) -> Modality:
    """The modality of the tower that has a tap."""
    return next(tower.encoder.spec.modality for tower in loaded.towers if tower.tap(info.tap.name))
