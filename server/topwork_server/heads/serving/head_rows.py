"""Finds the rows that heads read: out of passes of their trunks, or in sets. Of a head on several encoders, for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topwork_server.errors import InvalidInput, NotFound, NotReady
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.features import EmbedResult, TapRows
from topwork_server.heads.head_types import Head, Pooling, SetViews
from topwork_server.heads.pooling import TOWERS
from topwork_server.types import FingerprintedTap

FindSet = Callable[[str], FeatureSet]
Views = tuple[tuple[FingerprintedTap, Pooling], ...]


@dataclass(frozen=True)
class TrunkPass:
    """A pass of a trunk: an encoder with its options, in JSON, and whether the two sides of a pair are read separately."""

    encoder: str
    options: str
    towers: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.options)
        return found


def passes_of(head: Head, options: Mapping[str, Any] | None) -> list[tuple[TrunkPass, Views]]:
    """List the passes that a head reads, with the taps of each. `options` are in place of its own; InvalidInput where it stands
    on several encoders, whose options differ."""
    if options is not None and len(head.encoders) > 1:
        raise InvalidInput(
            f"the head {head.name!r} reads {' and '.join(head.encoders)}, each with options of its own",
            remedy="leave the options out",
        )
    towers = head.pooling in TOWERS

    def key(source: SetViews) -> TrunkPass:
        asked = source.encoder_options if options is None else options
        return TrunkPass(source.encoder, json.dumps(dict(asked), sort_keys=True), towers)

    return [(key(source), source.views) for source in head.sources]


def rows_of_passes(found: Mapping[TrunkPass, EmbedResult], options: Mapping[str, Any] | None, head: Head) -> list[TapRows]:
    """Take the rows of a head's taps. NotReady where a trunk has changed since the training."""
    rows = []
    for key, views in passes_of(head, options):
        by_name = {of.tap.tap.name: of for of in found[key].taps}
        remedy = f"train it again, or serve the {key.encoder} that it stands on"
        for info, _ in views:
            rows.append(by_name[info.tap.name])
            check_fingerprint(head, key.encoder, info, rows[-1].tap.fingerprint, f"{key.encoder} now has", remedy)
    return rows


def no_other_set(name: str) -> FeatureSet:
    """Find no set but the one that is named."""
    raise NotFound(f"there is no set {name!r}")


class SetsOfHeads:
    """The sets that hold the rows of stored items: the one that a request names or, for taps of a head on several encoders that
    it has not, those that the head learned from."""

    def __init__(self, named: FeatureSet, find: FindSet) -> None:
        self._named, self._find = named, find
        self._sets = {named.definition.name: named}

    def check(self, heads: Sequence[Head]) -> None:
        """Raise NotReady where a set lacks a tap, or has it of another trunk; NotFound where a set is gone."""
        for head in heads:
            for feature_set, info, encoder in self._placed(head):
                self._check(head, encoder, info, feature_set)

    def read(self, heads: Sequence[Head], ids: Sequence[str]) -> Callable[[Head], list[TapRows]]:
        """Read the taps of all heads, each once. NotFound names an id that a set lacks."""
        taps: dict[str, dict[str, None]] = {}
        for head in heads:
            for feature_set, info, _ in self._placed(head):
                taps.setdefault(feature_set.definition.name, {})[info.tap.name] = None
        read = {name: self._sets[name].stored_rows(ids, tuple(wanted))[0] for name, wanted in taps.items()}
        found = {(name, of.tap.tap.name): of for name, rows in read.items() for of in rows}
        return lambda head: [found[where.definition.name, info.tap.name] for where, info, _ in self._placed(head)]

    def _placed(self, head: Head) -> Iterator[tuple[FeatureSet, FingerprintedTap, str]]:
        """Give each tap of a head with its set and its encoder. Where the named set has none of them, its check says so."""
        has = {(info.tap.name, info.fingerprint) for info in self._named.definition.taps}
        here = [all((info.tap.name, info.fingerprint) in has for info, _ in source.views) for source in head.sources]
        for source, own in zip(head.sources, here, strict=True):
            where = self._named if own or not any(here) else self._other(source.set)
            yield from ((where, info, source.encoder) for info, _ in source.views)

    def _other(self, name: str) -> FeatureSet:
        if name not in self._sets:
            self._sets[name] = self._find(name)
        return self._sets[name]

    def _check(self, head: Head, encoder: str, info: FingerprintedTap, feature_set: FeatureSet) -> None:
        wanted = feature_set.definition
        has = {there.tap.name: there for there in wanted.taps}
        if info.tap.name not in has:
            raise NotReady(
                f"the head {head.name!r} reads the tap {info.tap.name}, which the set {wanted.name!r} has not",
                remedy=f"its taps are {', '.join(has)}: name a set that has {info.tap.name}, or send items",
            )
        remedy = "name the set that it was trained on"
        check_fingerprint(head, encoder, info, has[info.tap.name].fingerprint, f"the set {wanted.name!r} has", remedy)


def check_fingerprint(head: Head, encoder: str, tap: FingerprintedTap, found: str, whose: str, remedy: str) -> None:
    """Raise NotReady where the fingerprint that was found is not that of the tap that the head reads."""
    if found != tap.fingerprint:
        raise NotReady(
            f"the head {head.name!r} stands on the tap {tap.tap.name} of {encoder or 'no encoder'} with fingerprint"
            f" {tap.fingerprint or 'none'}, and {whose} {found or 'none'}",
            remedy=remedy,
        )
