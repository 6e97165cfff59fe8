"""Filled gaps of texts, as `Client.fill` returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, overload

from topwork._display.number_text import counted
from topwork.errors import TopworkError
from topwork.features import Features, Numerics, Timings, by_position, concatenate, weakest

#: Texts that `repr` shows.
SHOWN = 5


class FillWord(NamedTuple):
    """A word that may fill a gap: as the text would have it, which may begin with a space; its probability among the whole
    vocabulary; and its number there."""

    word: str
    probability: float
    entry: int


class FilledGap(NamedTuple):
    """A gap and its likeliest words, likeliest first. `start` to `end` are its characters (half-open) in the text (part 0) or its
    pair (part 1); of what comes after a text both are its end."""

    start: int
    end: int
    part: int
    words: tuple[FillWord, ...]


@dataclass(frozen=True)
class FilledText:
    """An item and its gaps, each filled on its own: none where it failed, and then `error` says why."""

    item: str | tuple[str, str]
    gaps: tuple[FilledGap, ...] = ()
    error: TopworkError | None = None

    @property
    def words(self) -> tuple[FillWord, ...]:
        """The words of its first gap, likeliest first; none where it failed."""
        return self.gaps[0].words if self.gaps else ()

    @property
    def filled(self) -> str | tuple[str, str]:
        """The item with the likeliest word in each of its gaps."""
        texts = [self.item] if isinstance(self.item, str) else list(self.item)
        for gap in reversed(self.gaps):  # from the last, so that those before are still where they were
            text, word = texts[gap.part], gap.words[0].word
            placed = word.strip() if gap.start < gap.end else word
            texts[gap.part] = text[: gap.start] + placed + text[gap.end :]
        return texts[0] if isinstance(self.item, str) else (texts[0], texts[1])

    def __str__(self) -> str:
        return f"{self.item!r}: {self.words_text}"

    @property
    def words_text(self) -> str:
        """The words of each gap with their probabilities, in one line; or why it failed."""
        if self.error:
            return f"failed: {self.error}"
        return "; ".join(", ".join(f"{one.word.strip()} {one.probability:.3f}" for one in gap.words) for gap in self.gaps)


@dataclass(frozen=True, repr=False)
class Fills(Sequence[FilledText]):
    """The results of `fill`, a FilledText an item, in their order.

    head       the name of the head that filled the gaps: "mlm", "lm" or "cbow"
    features   of the taps that were asked for, by name, out of the same pass
    notes      by item, what the encoder counted
    failures   by item, with `skip_bad_items`
    """

    encoder: str
    head: str
    texts: tuple[FilledText, ...]
    features: Mapping[str, Features] = field(default_factory=dict)
    notes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    failures: Mapping[int, TopworkError] = field(default_factory=dict)
    numerics: Numerics | None = None
    timings: Timings = field(default_factory=Timings)

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> FilledText: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FilledText]: ...

    def __getitem__(self, index: int | slice) -> FilledText | Sequence[FilledText]:
        return self.texts[index]

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        lines = [f"<Fills of {self.encoder}/{self.head}: {len(self)} text{'s' * (len(self) != 1)}{failed}>"]
        lines += [f"  {text}" for text in islice(self, SHOWN)]
        return "\n".join([*lines, *([f"  ... and {len(self) - SHOWN} more"] if len(self) > SHOWN else [])])

    def _repr_html_(self) -> str:
        from topwork._display import html

        rows = [(html.shown(text.item), text.words_text) for text in islice(self, SHOWN)]
        more = f"and {len(self) - SHOWN:,} more" if len(self) > SHOWN else ""
        return html.table(f"{self.encoder}/{self.head}, {counted(len(self), 'text')}", ("text", "words"), rows, more)


def joined(pieces: Sequence[Fills]) -> Fills:
    """Join the fills of chunks that follow each other."""
    first, lengths = pieces[0], list(map(len, pieces))
    if len(pieces) == 1:
        return first
    return Fills(
        encoder=first.encoder,
        head=first.head,
        texts=tuple(text for piece in pieces for text in piece.texts),
        features={tap: concatenate([piece.features[tap] for piece in pieces]) for tap in first.features},
        notes=by_position(lengths, [piece.notes for piece in pieces]),
        failures=by_position(lengths, [piece.failures for piece in pieces]),
        numerics=weakest([piece.numerics for piece in pieces]),
        timings=Timings.sum(piece.timings for piece in pieces),
    )
