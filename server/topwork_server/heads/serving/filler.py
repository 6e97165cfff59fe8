"""Fills the gaps of texts by a head over the encoder's vocabulary, out of the pass that gives the features."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from topwork._display.excerpts import excerpt

from topwork_server.blocking_calls import Check, in_thread
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult, TapRows
from topwork_server.heads.head_types import Head
from topwork_server.heads.pretrained import pretrained_head, word_head
from topwork_server.heads.serving.gaps import Gap, GappedText, find_gaps, gap_rows
from topwork_server.heads.serving.head_cache import IDLE_SECONDS, HeadCache, OpenedHead
from topwork_server.heads.serving.predictor import check_fingerprint
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.types import Array, Item

#: Probabilities that are computed at a time: 16 MiB.
AT_A_TIME = 1 << 22
#: Values whose largest is looked at first.
BLOCK = 64


@dataclass(frozen=True, slots=True)
class FilledGap:
    """A gap, and its likeliest words: their entries in the vocabulary (k,) int64, and probabilities (k,) float32, falling."""

    gap: Gap
    words: tuple[str, ...]
    entries: Array
    probabilities: Array


@dataclass(frozen=True)
class FillResult:
    """The filled gaps of each item, none where it failed, and the features of the taps that were asked for."""

    head: Head
    gaps: tuple[tuple[FilledGap, ...], ...]
    features: EmbedResult


class Filler:
    """Fills gaps. It is used on the event loop; blocking work runs in threads, and each head's graph uses `threads` more."""

    def __init__(self, engine: Engine, catalog: Catalog, threads: int = 1) -> None:
        self._engine, self._catalog = engine, catalog
        self.cache = HeadCache(threads)
        self._dropping: asyncio.TimerHandle | None = None

    async def fill(self, params: EmbedParams, items: Sequence[Item], k: int, targets: Sequence[str] = ()) -> FillResult:
        """Find the `k` likeliest words of each gap, among `targets` where there are any; `params.taps` are those whose features
        are returned too. InvalidInput where the encoder has no head over its vocabulary (which no encoder of several towers has),
        or names an item without a gap."""
        self._drop_later()
        async with self._engine.acquire(params.encoder) as loaded:  # exported first, if need be: only then its heads are known
            encoder = loaded.towers[0].encoder
            opened = await asyncio.to_thread(self._opened, encoder)
            _check_k(opened.head, k)
            among = _entries(encoder, targets)
            texts, failures = _gapped(items, opened.head, encoder.mask, skip=params.skip_bad_items)
            read = opened.head.tap.tap.name
            taps = params.taps if read in params.taps else (*params.taps, read)
            given = [text.item for text in texts.values()]
            found = await self._embed(replace(params, taps=taps), given, list(texts))
            found = found.among(list(texts), failures) if failures else found
            begun = time.monotonic()
            work = partial(_filled, opened, encoder, k, among, texts, found, params.skip_bad_items)
            gaps, more = await in_thread(work, params.deadline)
        features = replace(
            found,
            taps=tuple(_as_written(rows, texts) for rows in found.taps[: len(params.taps)]),
            failures=dict(sorted({**found.failures, **more}.items())),
            timings=replace(found.timings, compute=found.timings.compute + time.monotonic() - begun),
        )
        return FillResult(opened.head, tuple(gaps.get(item, ()) for item in range(len(items))), features)

    def _drop_later(self) -> None:
        """Drop idle heads after the last request: one of 250,000 words takes a gigabyte."""
        if self._dropping:
            self._dropping.cancel()
        self._dropping = asyncio.get_running_loop().call_later(2 * IDLE_SECONDS, self.cache.drop_idle)

    async def _embed(self, params: EmbedParams, given: Sequence[Item], positions: Sequence[int]) -> EmbedResult:
        """Embed what the encoder is given; an error names the position among all items."""
        try:
            return await self._engine.embed(params, given)
        except TopworkError as error:
            raise error if error.item is None else error.at(positions[error.item]) from None

    def _opened(self, encoder: Encoder) -> OpenedHead:
        name = word_head(self._catalog, encoder.spec.name)
        if name is None:
            raise InvalidInput(f"{encoder.spec.name} has no head that fills gaps", remedy=encoder.needs_to_fill)
        return self.cache.open(lambda: pretrained_head(self._catalog, name))


def _check_k(head: Head, k: int) -> None:
    words = int(head.chosen["words"])
    if k > words:
        raise InvalidInput(f"k is {k}, and {head.encoder} has {words} words", remedy=f"ask for at most {words}")


def _entries(encoder: Encoder, targets: Sequence[str]) -> Array | None:
    """The entries of some words of the vocabulary, each once; None of no words. InvalidInput names a word that is no entry."""
    entries = {encoder.entry(word): word for word in reversed(targets)}
    if -1 in entries:
        raise InvalidInput(
            f"the target {excerpt(entries[-1])} is no entry of the vocabulary of {encoder.spec.name}",
            remedy="name words that it has whole; a word of several tokens has no probability of its own",
        )
    return np.array(sorted(entries), np.int64) if entries else None


def _gapped(items: Sequence[Item], head: Head, mask: str, *, skip: bool) -> tuple[dict[int, GappedText], dict[int, TopworkError]]:
    """The texts that have gaps, and the errors of the others where `skip` is set, by position."""
    texts: dict[int, GappedText] = {}
    failures: dict[int, TopworkError] = {}
    for position, item in enumerate(items):
        try:
            texts[position] = find_gaps(item, head, mask)
        except InvalidInput as error:
            if not skip:
                raise error.at(position) from None
            failures[position] = error.at(position)
    return texts, failures


def _filled(
    opened: OpenedHead,
    encoder: Encoder,
    k: int,
    among: Array | None,
    texts: Mapping[int, GappedText],
    found: EmbedResult,
    skip: bool,
    check: Check,
) -> tuple[dict[int, tuple[FilledGap, ...]], dict[int, TopworkError]]:
    """Read the rows of all gaps, and compute the head on them together."""
    rows: list[Array] = []
    filled: list[tuple[int, Gap]] = []
    failures: dict[int, TopworkError] = {}
    tap = next(tap for tap in found.taps if tap.tap.tap.name == opened.head.tap.tap.name)
    check_fingerprint(opened.head, tap.tap.fingerprint, f"{opened.head.encoder} now has", "try again")
    split = tap.split()
    for position, text in texts.items():
        if position in found.failures:
            continue
        try:
            rows.append(gap_rows(opened.head, text, split[position]))
            filled += [(position, gap) for gap in text.gaps]
        except InvalidInput as error:
            if not skip:
                raise error.at(position) from None
            failures[position] = error.at(position)
    gaps: dict[int, tuple[FilledGap, ...]] = {}
    if rows:
        best = _best(opened, np.concatenate(rows), k, among, check)
        for (position, gap), (entries, probabilities) in zip(filled, best, strict=True):
            one = FilledGap(gap, tuple(encoder.words(entries.tolist())), entries, probabilities)
            gaps[position] = (*gaps.get(position, ()), one)
    return gaps, failures


def _best(opened: OpenedHead, rows: Array, k: int, among: Array | None, check: Check) -> Iterator[tuple[Array, Array]]:
    """The `k` likeliest entries of the vocabulary, or of those `among` it, for each row, and their probabilities, (k,) each,
    likeliest first."""
    step = max(1, AT_A_TIME // int(opened.head.chosen["words"]))
    for start in range(0, len(rows), step):
        check()
        _, probabilities = opened.predict(rows[start : start + step])
        for row in probabilities:
            best = largest(row, k) if among is None else among[largest(row[among], min(k, len(among)))]
            yield best, row[best]


def largest(values: Array, k: int) -> Array:
    """Positions of the `k` largest of (n,) values, falling; of equal ones the first is first.

    The k-th largest of the largest of each block is a bound that few values reach: to sort these takes 1/20 of the time that
    `argpartition` takes for 5 of 30,000, which is that of the head itself.
    """
    highest = np.maximum.reduceat(values, np.arange(0, len(values), BLOCK))
    bound = np.partition(highest if 4 * k < len(highest) else values, -k)[-k]
    there = np.flatnonzero(values >= bound)
    return np.asarray(there[np.argsort(-values[there], kind="stable")[:k]])


def _as_written(rows: TapRows, texts: Mapping[int, GappedText]) -> TapRows:
    """The rows, with spans of the characters that the caller wrote."""
    if rows.spans is None:
        return rows
    items = rows.split()
    moved = [
        replace(one, spans=texts[i].as_written(one.spans)) if one.spans is not None and i in texts else one
        for i, one in enumerate(items)
    ]
    return TapRows.join(rows.tap, moved)
