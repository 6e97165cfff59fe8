"""Gaps of texts: where they are written, what the encoder is given in their place, and the rows that a head reads for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.features import ItemFeatures, Spans
from topwork_server.heads.head_types import Head, Pooling
from topwork_server.types import Array, Item, TextItem, item_kind

#: How a gap may be written for every encoder, beside its own mask.
WRITTEN = "[MASK]"
#: Gaps that an item may have: each costs a comparison with the whole vocabulary.
MOST_GAPS = 100
#: Stands in a gap where the rows around it are read: no word, and none of several words goes across it.
NO_WORD = ", "


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap in the text (part 0) or its pair (part 1): its characters as the caller wrote them, and in what the encoder is
    given."""

    part: int
    start: int
    end: int
    given_start: int
    given_end: int


@dataclass(frozen=True, slots=True)
class GappedText:
    """The text that the encoder is given of an item, and its gaps."""

    item: TextItem
    gaps: tuple[Gap, ...]

    def as_written(self, spans: Spans) -> Spans:
        """Move spans in what the encoder was given to the characters of the text as it was written."""
        values = spans.values.copy()
        for gap in self.gaps:
            longer = (gap.given_end - gap.given_start) - (gap.end - gap.start)
            if gap.given_start < gap.given_end and longer:
                values -= longer * ((spans.values >= gap.given_end) & _in_part(spans, gap.part)[:, np.newaxis])
        return replace(spans, values=values)


def find_gaps(item: Item, head: Head, mask: str) -> GappedText:
    """Find the gaps of an item; `mask` is the encoder's own. InvalidInput where it has none, too many, or one that the head
    cannot fill."""
    if not isinstance(item, TextItem):
        raise InvalidInput(f"gaps are in texts, and this is {item_kind(item)}", remedy="send a text, or a pair of texts")
    texts = [item.text] if item.pair is None else [item.text, item.pair]
    if head.pooling is Pooling.LAST:
        return _continued(texts)
    pattern = re.compile("|".join(re.escape(one) for one in dict.fromkeys((WRITTEN, mask)) if one))
    given, gaps = list[str](), list[Gap]()
    for part, text in enumerate(texts):
        found = list(_found(text, part, pattern, mask or NO_WORD))
        given.append(pattern.sub(lambda match: mask or NO_WORD, text))
        gaps += found
    if not gaps:
        own = f" or {mask}" if mask not in ("", WRITTEN) else ""
        raise InvalidInput("the text has no gap", remedy=f"write {WRITTEN}{own} where a word is missing")
    if len(gaps) > MOST_GAPS:
        raise InvalidInput(f"the text has {len(gaps):,} gaps; the limit is {MOST_GAPS}", remedy="split it into several texts")
    return GappedText(TextItem(*given), tuple(gaps))


def _found(text: str, part: int, pattern: re.Pattern[str], mask: str) -> Iterator[Gap]:
    shift = 0
    for match in pattern.finditer(text):
        start, end = match.span()
        yield Gap(part, start, end, start + shift, start + shift + len(mask))
        shift += len(mask) - (end - start)


def _continued(texts: Sequence[str]) -> GappedText:
    """Make the one gap that a model which reads from left to right fills: it is after the text, and may be written there."""
    *before, last = texts
    ended = last.rstrip()
    given, start, end = last, len(last), len(last)
    if ended.endswith(WRITTEN):
        given, start, end = ended.removesuffix(WRITTEN).rstrip(), len(ended) - len(WRITTEN), len(ended)
    if any(WRITTEN in text for text in (*before, given)):
        raise InvalidInput(
            "the text has a gap before its end, and this encoder reads from left to right alone",
            remedy=f"end the text where the word is missing, or ask for an encoder that reads both sides of {WRITTEN}",
        )
    item = TextItem(before[0], given) if before else TextItem(given)
    return GappedText(item, (Gap(len(before), start, end, len(given), len(given)),))


def gap_rows(head: Head, text: GappedText, rows: ItemFeatures) -> Array:
    """Take what the head reads for each gap, (gaps, dim) float32, from the item's rows. InvalidInput where that is missing."""
    assert rows.spans is not None, "TOKEN rows have spans"
    match head.pooling:
        case Pooling.LAST:
            _check_read_to_its_end(text, rows.spans)
            return np.asarray(rows.rows[-1:])
        case Pooling.MASK:
            return rows.rows[[_row_of(gap, rows.spans) for gap in text.gaps]]
    size, mean = int(head.chosen["window"]), bool(head.chosen["mean"])
    around = [rows.rows[_around(gap, rows.spans, size)] for gap in text.gaps]
    return np.stack([one.mean(axis=0) if mean else one.sum(axis=0) for one in around]).astype(np.float32, copy=False)


def _check_read_to_its_end(text: GappedText, spans: Spans) -> None:
    last = text.item.text if text.item.pair is None else text.item.pair
    if last[int(spans.values[-1, 1]) :].strip():
        raise InvalidInput("the end of the text, where the gap is, was cut off", remedy="shorten it")


def _row_of(gap: Gap, spans: Spans) -> int:
    there = np.flatnonzero(_in_part(spans, gap.part) & (spans.values == (gap.given_start, gap.given_end)).all(axis=1))
    if not len(there):
        raise InvalidInput(
            f"the gap at character {gap.start} is in a part of the text that was cut off", remedy="shorten the text before it"
        )
    return int(there[0])


def _around(gap: Gap, spans: Spans, size: int) -> Array:
    """Positions of the `size` rows before the gap, and after it."""
    here = _in_part(spans, gap.part)
    before = np.flatnonzero(here & (spans.values[:, 1] <= gap.given_start))[-size:]
    after = np.flatnonzero(here & (spans.values[:, 0] >= gap.given_end))[:size]
    if not len(before) + len(after):
        raise InvalidInput(
            f"there is no known word beside the gap at character {gap.start}", remedy="send words of the vocabulary beside it"
        )
    return np.concatenate([before, after])


def _in_part(spans: Spans, part: int) -> Array:
    assert spans.parts is not None, "TOKEN rows have parts"
    return np.asarray(spans.parts == part)
