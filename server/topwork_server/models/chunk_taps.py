"""The tap `chunks`, which no graph has: means of the rows of an encoder's TOKEN tap, a row a chunk of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from topwork_server.models.fingerprint import chunk_fingerprint
from topwork_server.plugin_api.chunk_options import ChunkOptions
from topwork_server.types import EncoderSpec, FingerprintedTap, Granularity, Tap

CHUNKS = "chunks"


def with_chunks(spec: EncoderSpec, taps: Sequence[FingerprintedTap]) -> tuple[FingerprintedTap, ...]:
    """The taps of a tower's graph, and `chunks` where its texts may be embedded by chunks."""
    tokens = next((info for info in taps if info.tap.granularity is Granularity.TOKEN), None)
    if tokens is None or not issubclass(spec.encoder.options, ChunkOptions) or any(info.tap.name == CHUNKS for info in taps):
        return tuple(taps)
    description = f"the mean of {tokens.tap.name} over each chunk of a text, which is encoded whole: late chunking"
    chunks = Tap(CHUNKS, tokens.tap.dim, Granularity.CHUNK, description=description)
    return (*taps, FingerprintedTap(chunks, chunk_fingerprint(tokens.fingerprint)))


def computed_tap(tap: Tap, taps: Sequence[FingerprintedTap]) -> Tap:
    """What a graph with `taps` computes for a tap: of chunks the tokens that are summed, named as the graph's output."""
    if tap.granularity is not Granularity.CHUNK:
        return tap
    tokens = next(info.tap for info in taps if info.tap.granularity is Granularity.TOKEN)
    return replace(tap, name=tokens.name)
