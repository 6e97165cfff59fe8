"""The options of an encoder whose texts may be embedded by chunks, and how a text is divided by them.

Late chunking (Günther et al. 2024, arXiv:2409.04701): a text goes through the encoder whole, and each chunk's row is the mean of
its tokens' rows, which know of the text around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api.options import option
from topwork_server.plugin_api.sentences import sentences
from topwork_server.types import Array, TextItem

#: Chunks that one text may have, each with a row.
MOST_CHUNKS = 1 << 16


@dataclass(frozen=True)
class ChunkOptions:
    """Options for the tap `chunks`. An encoder has that tap where its own options derive from these, and it has a TOKEN tap."""

    chunk_by: Literal["sentences", "tokens", "text"] = option(
        "sentences", "of the tap chunks: a row a sentence, a row for each chunk_tokens tokens, or one for the whole text"
    )
    chunk_tokens: int = option(128, "tokens of a chunk, where chunk_by is tokens", minimum=1, only_with="chunk_by")


#: The names of those options.
CHUNK_OPTIONS = frozenset(ChunkOptions.__dataclass_fields__)


def chunk_ranges(item: TextItem, options: ChunkOptions) -> Array | None:
    """Return (n, 2) int64, the half-open ranges of characters of a text's chunks: those that came with it, or else as the options
    say; None where its tokens are counted. InvalidInput for ranges that are not of the text."""
    if item.chunks is not None:
        return _given(item.text, item.chunks)
    if options.chunk_by == "tokens":
        return None
    found = sentences(item.text) if options.chunk_by == "sentences" else [(0, len(item.text))]
    check_count(len(found))
    return np.array(found, np.int64).reshape(-1, 2)


def check_count(chunks: int) -> None:
    """Raise InvalidInput for more chunks of a text than it may have."""
    if chunks > MOST_CHUNKS:
        remedy = f"split it, or divide it into larger chunks: at most {MOST_CHUNKS:,}"
        raise InvalidInput(f"the text has {chunks:,} chunks", remedy=remedy)


def _given(text: str, chunks: Sequence[tuple[int, int]]) -> Array:
    if not chunks:
        raise InvalidInput("the text comes with no chunks", remedy="give at least one, or send a plain text")
    check_count(len(chunks))
    for number, (start, end) in enumerate(chunks):
        if not 0 <= start < end <= len(text):
            what = "is empty" if start == end else f"is no range of its {len(text):,} characters"
            raise InvalidInput(
                f"chunk {number} ({start} to {end}) {what}", remedy="give start and end, 0 <= start < end <= length"
            )
    return np.array(chunks, np.int64)
