"""Fills the gaps of texts by a head over the encoder's vocabulary, out of the pass that gives the features."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np

from topwork_server.blocking_calls import BlockingCaller
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult, ItemFeatures, TapRows
from topwork_server.heads.head_store import StoredHead
from topwork_server.heads.head_types import Head
from topwork_server.heads.pretrained import word_head
from topwork_server.heads.serving.gaps import Gap, GappedText, find_gaps, gap_rows
from topwork_server.heads.serving.head_cache import IDLE_SECONDS, HeadCache
from topwork_server.heads.serving.head_rows import check_fingerprint
from topwork_server.heads.serving.word_choice import LikelyWords, WordChoice
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.types import Array, Item


class FilledGap(NamedTuple):
    """A gap and its likeliest words."""

    gap: Gap
    likely: LikelyWords


OVERFLOW = "report it to the encoder's author: its features, or the products with its words, are too large for float32"
#: What is wrong with an item, by its position.
Failures: TypeAlias = Mapping[int, TopworkError]


@dataclass(frozen=True)
class FillResult:
    """The filled gaps of each item, none where it failed, and the features of the taps that were asked for."""

    head: Head
    gaps: tuple[Sequence[FilledGap], ...]
    features: EmbedResult


class Filler:
    """Fills gaps. It is used on the event loop; blocking work runs in threads, and each head's graph uses `threads` more."""

    def __init__(self, engine: Engine, catalog: Catalog, threads: int = 1) -> None:
        self._engine, self._catalog = engine, catalog
        self.cache = HeadCache(threads)
        self._turn = asyncio.Lock()
        self._dropping: asyncio.TimerHandle | None = None

    async def fill(self, params: EmbedParams, items: Sequence[Item], k: int, targets: Sequence[str] = ()) -> FillResult:
        """Find the `k` likeliest words of each gap, among `targets` where there are any; `params.taps` are those whose features
        are returned too. InvalidInput where the encoder has no head over its vocabulary (which no encoder of several towers has),
        or names an item without a gap."""
        self._drop_later()
        async with self._engine.acquire(params.encoder) as loaded:  # exported first, if need be: only then its heads are known
            choice = await asyncio.to_thread(self._choice, params.encoder, loaded.towers[0].encoder, k, targets)
            texts, unfit = await asyncio.to_thread(_gapped, items, choice, skip=params.skip_bad_items)
            options = {**choice.encoder.fill_options, **params.options}
            found = await self._embed(replace(params, options=options), choice.head.tap.tap.name, texts)
            found = found.among(list(texts), unfit) if unfit else found
            begun = time.monotonic()
            rows, lost = await asyncio.to_thread(_rows_read, choice, texts, found, params.skip_bad_items)
            likely = iter(await self._likely_words(choice, rows, params.deadline))
            seconds = time.monotonic() - begun
        found_words = {item: [FilledGap(gap, next(likely)) for gap in texts[item].gaps] for item in rows}
        filled, overflow = _finite(choice.head, found_words, skip=params.skip_bad_items)
        features = _features(found, len(params.taps), texts, {**lost, **overflow}, seconds)
        return FillResult(choice.head, tuple(filled.get(item, ()) for item in range(len(items))), features)

    def _drop_later(self) -> None:
        """Drop idle heads after the last request: one of 250,000 words takes a gigabyte."""
        if self._dropping:
            self._dropping.cancel()
        self._dropping = asyncio.get_running_loop().call_later(2 * IDLE_SECONDS, self.cache.drop_idle)

    async def _embed(self, params: EmbedParams, read: str, texts: Mapping[int, GappedText]) -> EmbedResult:
        """Embed what the encoder is given: the taps that were asked for, and then the one that the head reads."""
        taps = params.taps if read in params.taps else (*params.taps, read)
        try:
            return await self._engine.embed(replace(params, taps=taps), [text.item for text in texts.values()])
        except TopworkError as error:
            raise error if error.item is None else error.at(list(texts)[error.item]) from None

    async def _likely_words(self, choice: WordChoice, rows: Mapping[int, Array], deadline: float | None) -> list[LikelyWords]:
        """Compute the head, a part of the rows at a time. Requests take turns, each for one part: a long one does not hold up the
        others, and many do not take all threads."""
        caller, likely = BlockingCaller(deadline), list[LikelyWords]()
        for part in choice.parts(np.concatenate([*rows.values()])) if rows else ():
            async with self._turn:
                caller.check()
                likely += await asyncio.to_thread(choice.words_for, part)
        return likely

    def _choice(self, name: str, encoder: Encoder, k: int, targets: Sequence[str]) -> WordChoice:
        def find() -> StoredHead:
            head = word_head(self._catalog, name)
            if head is None:
                raise self._no_head(name, encoder)
            return head

        return WordChoice.of(self.cache.open(find), encoder, k, targets)

    def _no_head(self, name: str, encoder: Encoder) -> InvalidInput:
        """The error for an encoder that has no head over its vocabulary. One that was fine-tuned has none, since that of its
        trunk was trained on other features."""
        trunk = name
        while tuned := self._catalog.spec(trunk).tuned:
            trunk = tuned.base
        if trunk == name or word_head(self._catalog, trunk) is None:
            return InvalidInput(f"{name} has no head that fills gaps", remedy=encoder.needs_to_fill)
        return InvalidInput(
            f"{name} was fine-tuned, and has no head that fills gaps: that of {trunk} was not trained on its features",
            remedy=f"fill them with {trunk}",
        )


def _gapped(items: Sequence[Item], choice: WordChoice, *, skip: bool) -> tuple[dict[int, GappedText], Failures]:
    """The texts that have gaps, and the errors of the others where `skip` is set, by position."""
    texts: dict[int, GappedText] = {}
    failures: dict[int, TopworkError] = {}
    for position, item in enumerate(items):
        with _attributed(position, failures, skip):
            texts[position] = find_gaps(item, choice.head, choice.encoder.mask)
    return texts, failures


def _rows_read(
    choice: WordChoice, texts: Mapping[int, GappedText], found: EmbedResult, skip: bool
) -> tuple[dict[int, Array], Failures]:
    """The rows that the head reads for the gaps of each item, (gaps, dim)."""
    tap = next(tap for tap in found.taps if tap.tap.tap.name == choice.head.tap.tap.name)
    head = choice.head
    check_fingerprint(head, head.encoder, head.tap, tap.tap.fingerprint, f"{head.encoder} now has", "try again")
    split, rows = tap.split(), dict[int, Array]()
    failures: dict[int, TopworkError] = {}
    for position in [position for position in texts if position not in found.failures]:
        with _attributed(position, failures, skip):
            rows[position] = gap_rows(choice.head, texts[position], split[position])
    return rows, failures


def _finite(head: Head, filled: Mapping[int, list[FilledGap]], *, skip: bool) -> tuple[dict[int, list[FilledGap]], Failures]:
    """The items whose words have probabilities, and the errors of the others where `skip` is set."""
    kept: dict[int, list[FilledGap]] = {}
    failures: dict[int, TopworkError] = {}
    for position, gaps in filled.items():
        with _attributed(position, failures, skip):
            if not all(one.likely.finite for one in gaps):
                raise InvalidInput(f"the head {head.name!r} gives a gap scores that are not finite", remedy=OVERFLOW)
            kept[position] = gaps
    return kept, failures


@contextmanager
def _attributed(position: int, failures: dict[int, TopworkError], skip: bool) -> Iterator[None]:
    """Give an error the position of its item; with `skip` it becomes one of the failures."""
    try:
        yield
    except InvalidInput as error:
        if not skip:
            raise error.at(position) from None
        failures[position] = error.at(position)


def _features(found: EmbedResult, asked: int, texts: Mapping[int, GappedText], lost: Failures, seconds: float) -> EmbedResult:
    """The features of the first `asked` taps, with what has become of the items since, and with the time of the head."""
    return replace(
        found,
        taps=tuple(_as_written(rows, texts, lost) for rows in found.taps[:asked]),
        failures=dict(sorted({**found.failures, **lost}.items())),
        timings=replace(found.timings, compute=found.timings.compute + seconds),
    )


def _as_written(rows: TapRows, texts: Mapping[int, GappedText], lost: Failures) -> TapRows:
    """The rows without those of items that have failed since, and with spans of the characters that the caller wrote."""
    if rows.spans is None and not lost:
        return rows
    items = rows.split()
    for i, text in texts.items():
        if i in lost:
            items[i] = ItemFeatures(rows.rows[:0], rows.spans and rows.spans.select(slice(0)))
        elif spans := items[i].spans:
            items[i] = ItemFeatures(items[i].rows, text.as_written(spans))
    return TapRows.join(rows.tap, items)
