"""Prepares texts that are embedded by chunks: which token rows of each sample belong to which chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from topwork._display.excerpts import excerpt

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api.chunk_options import CHUNK_OPTIONS, ChunkOptions, check_count, chunk_ranges
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.result_checks import check_sample
from topwork_server.types import Array, FingerprintedTap, Granularity, Item, Role, Sample, TextItem, TokenChunks, TokenSpans


@dataclass(frozen=True)
class Chunker:
    """Preprocesses the texts of a request for chunks. `long` takes texts over the encoder's limit, in windows that overlap."""

    encoder: Encoder
    long: bool

    @classmethod
    def of(cls, encoder: Encoder, taps: Sequence[FingerprintedTap]) -> Chunker | None:
        """What a request for these taps needs; None where none of them is of chunks."""
        kinds = {info.tap.granularity for info in taps}
        if Granularity.CHUNK not in kinds:
            return None
        return cls(encoder, long=kinds == {Granularity.CHUNK})

    def preprocess_many(self, items: Sequence[Item], options: Any) -> Iterable[Iterable[Sample]]:
        """Return each item's samples, as `Encoder.preprocess` does, with their chunks; a bad item raises as they are taken."""
        return (self._samples(item, options) for item in items)

    def _samples(self, item: Item, options: Any) -> Iterator[Sample]:
        if not isinstance(item, TextItem) or item.pair is not None:
            raise InvalidInput(
                "it is not a single text, and only those have chunks", remedy="ask for another tap, or send a text"
            )
        ranges = chunk_ranges(item, options)
        seen, empty = 0, np.ones(0 if ranges is None else len(ranges), bool)
        prepare = self.encoder.preprocess_long if self.long else self.encoder.preprocess
        for sample in prepare(item, options):
            tokens = check_sample(self.encoder, sample).tokens
            assert tokens is not None, "an encoder with TOKEN taps gives its samples TokenSpans"
            chunks = _by_count(tokens, seen, options.chunk_tokens) if ranges is None else _by_ranges(tokens, ranges)
            seen += len(tokens.positions)
            check_count(int(chunks.numbers.max(initial=0)))
            empty[chunks.numbers if ranges is not None else ()] = False
            yield replace(sample, chunks=chunks)
        if item.chunks is not None and empty.any():
            number = int(np.flatnonzero(empty)[0])
            start, end = item.chunks[number]
            raise InvalidInput(
                f"chunk {number} (characters {start} to {end}: {excerpt(item.text[start:end])}) has no token",
                remedy="leave it out, or join it with the one beside it; what truncate cuts off has none",
            )


def check_chunking(
    options: object, role: Role | None, taps: Sequence[FingerprintedTap], items: Sequence[Item], encoder: str
) -> None:
    """Raise InvalidInput for a division into chunks that does nothing, since no tap of chunks is asked for. A query's options are
    those of its set, which may have one."""
    if any(info.tap.granularity is Granularity.CHUNK for info in taps):
        return
    remedy = f"ask {encoder} for the tap chunks, or leave them out"
    usual = ChunkOptions()
    if role is not Role.QUERY and any(getattr(options, name, None) not in (None, getattr(usual, name)) for name in CHUNK_OPTIONS):
        raise InvalidInput(f"{' and '.join(sorted(CHUNK_OPTIONS))} do nothing without the tap chunks", remedy=remedy)
    for position, item in enumerate(items):
        if isinstance(item, TextItem) and item.chunks is not None:
            raise InvalidInput("its chunks do nothing without the tap chunks", remedy=remedy, item=position)


def _by_count(tokens: TokenSpans, seen: int, size: int) -> TokenChunks:
    """Chunks of `size` tokens each, of a sample before whose tokens the text has `seen` others."""
    last = seen + len(tokens.positions)
    numbers = np.arange(seen // size, -(-last // size))
    starts = np.maximum(numbers * size - seen, 0)
    ends = np.minimum((numbers + 1) * size, last) - seen
    return TokenChunks(numbers, starts, ends, np.stack([tokens.chars[starts, 0], tokens.chars[ends - 1, 1]], axis=1))


def _by_ranges(tokens: TokenSpans, ranges: Array) -> TokenChunks:
    """The chunks that share a character with a token of the sample. A token that covers nothing is where it stands."""
    first = np.maximum.accumulate(tokens.chars[:, 0])
    behind = np.maximum.accumulate(np.maximum(tokens.chars[:, 1], tokens.chars[:, 0] + 1))
    starts = np.searchsorted(behind, ranges[:, 0], side="right")
    ends = np.searchsorted(first, ranges[:, 1], side="left")
    numbers = np.flatnonzero(ends > starts)
    return TokenChunks(numbers, starts[numbers], ends[numbers], ranges[numbers].astype(np.int32))
