"""Text to token ids with character spans, by the `tokenizers` library alone: the server never imports transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from topwork_server import Array, InvalidInput, TextItem, Token, TokenSpans, starts_of, sums_of

from topwork_plugins.bert.text_prefix import MARGIN, Beginnings, Condensed
from topwork_plugins.bert.token_rows import WORD_MARK as WORD_MARK
from topwork_plugins.bert.token_rows import Tokens as Tokens
from topwork_plugins.bert.token_rows import covered
from topwork_plugins.bert.windows import Windows

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

#: What becomes of tokens that are not in the vocabulary, and its words for a caller.
Unknown: TypeAlias = Literal["keep", "allow", "error"]
UNKNOWN_HELP = "unknown tokens: keep them and refuse a text without a known one, allow such a text too, or refuse any"
FILE = "tokenizer.json"
#: Texts of more characters together than so many times the limit in tokens go one by one.
FAR = 64


class Tokenization:
    """A tokenizer file with truncation and padding off, and the most tokens, special ones included, that a text may have."""

    def __init__(self, file: Path, limit: int) -> None:
        from tokenizers import Tokenizer

        # Each call brings one text, from a thread of the server's pool: the library's own threads would only compete.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.limit = limit
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        self._beginnings = Beginnings(self._tokenizer, limit)
        self._unknown = _unknown_ids(self._tokenizer, file)

    def length(self, text: str, pair: str | None = None) -> int:
        """Number of tokens, special ones included."""
        return len(_encode(self._tokenizer, text, pair))

    def words(self, count: int) -> list[str]:
        """Return some of the vocabulary's whole words."""
        found = (word for word in sorted(self._tokenizer.get_vocab()) if word.isalpha() and len(word) > 1)
        return [word for word in islice(found, 1000) if not self.encode(word).strange][:count]

    def words_of(self, ids: Sequence[int], *, spaced: bool = False) -> list[str]:
        """Decode tokens one by one, as transformers' pipelines show them; "" for a row of the word table without a token.
        `spaced` keeps the space before a word that SentencePiece marks, which decoding drops at the beginning of a text."""
        words = [self._tokenizer.decode([id], skip_special_tokens=False) for id in ids]
        if not spaced:
            return words
        marked = [(self._tokenizer.id_to_token(id) or "").startswith(WORD_MARK) for id in ids]
        return [f" {word}" if mark and not word.startswith(" ") else word for word, mark in zip(words, marked, strict=True)]

    def id_of(self, word: str) -> int:
        """The token that is spelled so, or else the only one that the word is split into; -1 where there is none."""
        found = self._tokenizer.token_to_id(word)
        ids = [found] if found is not None else self._tokenizer.encode(word, add_special_tokens=False).ids
        return int(ids[0]) if len(ids) == 1 and (found is not None or ids[0] not in self._unknown) else -1

    def tokens_of(self, text: str) -> list[Token]:
        """The tokens of a text of any number of them, special ones included. InvalidInput for one that is not read whole."""
        if len(text) > self._beginnings.most:
            raise self._too_long(0, exact=False, read=False)
        found = _encode(self._tokenizer, text, None)
        parts = zip(found.ids, found.tokens, found.offsets, found.special_tokens_mask, strict=True)
        return [
            Token(id, token) if special else Token(id, text[start:end], (start, end))
            for id, token, (start, end), special in parts
        ]

    def text_of(self, ids: Sequence[int], *, special: bool) -> str:
        """Decode the tokens of a text. InvalidInput for ids that the tokenizer does not have."""
        if ids:
            self._check_ids(min(ids), max(ids))
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))
        # CLIP's file has no decoder that takes the ends of words for blanks: transformers does it in code.
        suffix = getattr(self._tokenizer.model, "end_of_word_suffix", None)
        return text.replace(suffix, " ").strip() if suffix else text

    def encode(
        self, text: str, pair: str | None = None, *, prompt: str = "", truncate: bool = False, pair_tokens: int = 0
    ) -> Tokens:
        """Tokens of `prompt` + `text` (and `pair`, cut to `pair_tokens` where that is not 0); spans are characters of `text` and
        of `pair`.

        InvalidInput where there is nothing to encode, or more than `limit` tokens and not `truncate`.
        """
        for part, given in (("text", text), ("text of the pair", pair)):
            if given is not None and (not given or given.isspace()):
                raise InvalidInput(f"the {part} is empty", remedy="send at least one word")
        read = self._beginnings.condensed(text)
        pair_read, dropped = (None, 0) if pair is None else self._shortened(self._beginnings.condensed(pair), pair_tokens)
        kept, length = self._fitted(prompt, read, pair_read, truncate=truncate)
        spans = _spans(kept, len(prompt), read, pair_read)
        if not len(spans.positions):
            raise InvalidInput("no token of the text is left", remedy="send words that the tokenizer knows, after a short prompt")
        ids = np.array(kept.ids, np.int64)
        unknown = np.isin(ids[spans.positions], self._unknown)
        known = ~unknown & (ids[spans.positions] != self._word_mark)
        return Tokens(
            ids,
            np.array(kept.type_ids, np.int64),
            spans,
            int(spans.positions[0]) if prompt else 0,
            length - len(kept) + dropped,
            int(unknown.sum()),
            tuple(part for part in np.unique(spans.parts).tolist() if not known[spans.parts == part].any()),
        )

    def of_ids(self, ids: Array, *, truncate: bool = False) -> Tokens:
        """Take token ids (tokens,) of integers as they are, special ones included; their spans are empty, since there is no text.
        InvalidInput for ids that the tokenizer does not have, and for more than `limit` of them and not `truncate`."""
        self._check_ids(int(ids.min()), int(ids.max()))
        if len(ids) > self.limit and not truncate:
            raise self._too_long(len(ids), exact=True, read=True)
        kept = ids[: self.limit].astype(np.int64)
        positions = np.flatnonzero(~np.isin(kept, self._unknown))
        if not len(positions):
            raise InvalidInput("all token ids are special or unknown", remedy="send those of a text")
        nothing, parts = np.zeros((len(positions), 2), np.int32), np.zeros(len(positions), np.int32)
        return Tokens(kept, np.zeros_like(kept), TokenSpans(positions, nothing, parts), prompt=0, cut=len(ids) - len(kept))

    def encode_many(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Encode texts that are not blank, each as `encode` does; None for one out of the ordinary: too long, with tokens that
        take a closer look, or without a known one. The library works on all of them at once, without the interpreter lock."""
        if self._word_mark is not None or sum(map(len, texts)) > FAR * self.limit:
            return [None] * len(texts)
        try:
            codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
        except UnicodeEncodeError:  # half of a surrogate pair, which the library does not take
            return [None] * len(texts)
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = _flat((e.ids for e in encodings), counts)
        types = _flat((e.type_ids for e in encodings), counts)
        ours = _flat(([part is not None for part in e.sequence_ids] for e in encodings), counts).astype(bool)
        chars = _flat((chain.from_iterable(e.offsets) for e in encodings), 2 * counts).astype(np.int32).reshape(-1, 2)
        usual = _usual(codes, texts, chars, ours, counts) & (counts <= self.limit)
        unknown = sums_of(ours & np.isin(ids, self._unknown), counts)
        usual &= unknown < sums_of(ours, counts)
        parts = np.zeros(int(counts.max(initial=0)), np.int32)
        made: list[Tokens | None] = []
        for good, end, count, lost in np.stack([usual, np.cumsum(counts), counts, unknown], axis=1).tolist():
            part = slice(end - count, end)
            positions = np.flatnonzero(ours[part])
            spans = TokenSpans(positions, chars[part][positions], parts[: len(positions)])
            made.append(Tokens(ids[part], types[part], spans, prompt=0, cut=0, unknown=lost) if good else None)
        return made

    @cached_property
    def windows(self) -> Windows:
        """Texts of any length, as windows of the limit."""
        return Windows(self._tokenizer, self.limit, self._unknown)

    def _check_ids(self, least: int, most: int) -> None:
        size = self._tokenizer.get_vocab_size()
        if least < 0 or most >= size:
            raise InvalidInput(
                f"the token ids go from {least} to {most}", remedy=f"send those of its own tokenizer, 0 to {size - 1}"
            )

    @cached_property
    def _word_mark(self) -> int | None:
        """The token of a word's beginning by itself, where these are marked as SentencePiece does."""
        return self._tokenizer.token_to_id(WORD_MARK)

    def _shortened(self, pair: Condensed, tokens: int) -> tuple[Condensed, int]:
        """The beginning of a text that has so many tokens, and how many it has more."""
        if not 0 < tokens < self.limit:
            return pair, 0
        begun = self._beginnings.of("", pair)
        if len(begun.ends) <= tokens:
            return pair, 0
        return replace(pair, text=begun.cut(tokens).text, rest=0), begun.tokens - tokens

    def _fitted(self, prompt: str, text: Condensed, pair: Condensed | None, *, truncate: bool) -> tuple[Encoding, int]:
        """An encoding within the limit, and how many tokens the text has: an estimate where it is far over the limit."""
        if text.whole and (pair is None or pair.whole) and self._is_short(prompt, text, pair):
            found = _encode(self._tokenizer, prompt + text.text, pair.text if pair else None)
            if len(found) <= self.limit:
                return found, len(found)
        return self._cut(prompt, text, pair, truncate=truncate)

    def _is_short(self, prompt: str, text: Condensed, pair: Condensed | None) -> bool:
        return len(prompt) + len(text.text) + (len(pair.text) if pair else 0) <= self._beginnings.first

    def _cut(self, prompt: str, text: Condensed, pair: Condensed | None, *, truncate: bool) -> tuple[Encoding, int]:
        begun, other = self._beginnings.of(prompt, text), self._beginnings.of("", pair) if pair else None
        length = begun.tokens + (other.tokens if other else 0) + self._tokenizer.num_special_tokens_to_add(other is not None)
        read = text.whole and (pair is None or pair.whole)
        if read and length <= self.limit:
            return _encode(self._tokenizer, prompt + text.text, pair.text if pair else None), length
        exact = begun.whole and (other is None or other.whole)
        if not truncate:
            raise self._too_long(length, exact, read=read or length > self.limit)
        if other:
            begun, other = self._beginnings.both(begun, other)
        else:
            begun = begun.cut(MARGIN + 2 * self.limit)
        kept = _encode(self._truncating, begun.text, other.text if other else None)
        return kept, length if exact else max(length, len(kept) + 1)

    def _too_long(self, length: int, exact: bool, *, read: bool) -> InvalidInput:
        remedy = "shorten it or split it, or set the option truncate to true"
        if not read:
            return InvalidInput(
                f"the text is too long: no more than {self._beginnings.most:,} characters of a text are tokenized", remedy=remedy
            )
        count = f"{'' if exact else 'about '}{length}"
        return InvalidInput(f"the text has {count} tokens (prompt and pair included); the limit is {self.limit}", remedy=remedy)

    @cached_property
    def _truncating(self) -> Tokenizer:
        """A second tokenizer: truncation is a state of the object, and others encode in other threads meanwhile."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.enable_truncation(self.limit)
        return tokenizer


def check_known(tokens: Tokens, item: TextItem, unknown: Unknown, encoder: str) -> None:
    """Texts of unknown tokens alone all have one and the same vector: InvalidInput, unless the caller allows it."""
    if unknown == "allow" or not (tokens.strange or (tokens.unknown and unknown == "error")):
        return
    strange = tokens.strange[0] if tokens.strange else 0
    given = (item.text, item.pair)[strange] or ""
    shown = repr(given[:40]) + ("..." if len(given) > 40 else "")
    if tokens.strange:
        what = f"{encoder} knows no token of the {'text of the pair' if strange else 'text'}: {shown}"
        remedy = "check the language and the writing, or set unknown to 'allow': all such texts have the same vector"
    else:
        what = f"{encoder} does not know {tokens.unknown} of the tokens: {shown}"
        remedy = "check the language and the writing, or set unknown to 'keep'"
    raise InvalidInput(what, remedy=remedy)


def known_examples(tokenization: Tokenization, texts: Iterable[TextItem], encode: Callable[[TextItem], Tokens]) -> list[TextItem]:
    """Leave out the texts of which the vocabulary knows nothing, which may be of another script; where that is all of them, give
    three of its words. `encode` tokenizes a text as a request does."""

    def knows(text: TextItem) -> bool:
        try:
            return not encode(text).strange
        except InvalidInput:  # no token is left of it
            return False

    return list(filter(knows, texts)) or [TextItem(word) for word in tokenization.words(3)]


def stacked(rows: Sequence[Array], filler: int) -> Array:
    """Stack rows of numbers, (rows, the longest) int64, with `filler` behind those that are shorter."""
    made = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for number, row in enumerate(rows):
        made[number, : len(row)] = row
    return made


def _unknown_ids(tokenizer: Tokenizer, file: Path) -> Array:
    """Tokens that say nothing of a text: of what is not in the vocabulary (none where bytes are tokens), and the special ones
    ([PAD], [MASK], </s>), which a text may spell."""
    special = [id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    unknown = _unknown_id(tokenizer, file)
    return np.array([*special, *([] if unknown is None else [unknown])], np.int64)


def _unknown_id(tokenizer: Tokenizer, file: Path) -> int | None:
    token = getattr(tokenizer.model, "unk_token", None)
    if token is not None:
        return tokenizer.token_to_id(token)
    found = json.loads(file.read_text("utf-8"))["model"].get("unk_id")  # of Unigram, which does not tell it otherwise
    return None if found is None else int(found)


def _flat(values: Iterable[Iterable[int]], counts: Array) -> Array:
    """Join all numbers, one after another: (sum of counts,) int64."""
    return np.fromiter(chain.from_iterable(values), np.int64, int(counts.sum()))


def _usual(codes: Array, texts: Sequence[str], chars: Array, ours: Array, counts: Array) -> Array:
    """Return (texts,) bool: the texts that have no token of ours which begins with what may be white space. `codes` are their
    characters."""
    begins = np.repeat(starts_of(np.fromiter(map(len, texts), np.int64, len(texts))), counts)
    first = codes[np.minimum(begins + chars[:, 0], len(codes) - 1)]
    blank = (first <= 0x20) | (first == 0x85) | (first == 0xA0) | ((first >= 0x1680) & (first <= 0x3000))
    return np.asarray(sums_of(blank & ours, counts) == 0)


def _encode(tokenizer: Tokenizer, text: str, pair: str | None) -> Encoding:
    """Encode by `encode_batch`, which releases the interpreter lock; `encode` keeps it, and a long text would stop the server."""
    return tokenizer.encode_batch([text if pair is None else (text, pair)])[0]


def _spans(encoding: Encoding, prompt: int, text: Condensed, pair: Condensed | None) -> TokenSpans:
    """Rows are the tokens of the text and of the pair: not special ones, and none that lies in the prompt."""
    positions, chars, parts = [], [], []
    texts = (text, pair or text)
    found = zip(encoding.sequence_ids, encoding.offsets, encoding.tokens, strict=True)
    for position, (part, (start, end), token) in enumerate(found):
        if part is None or (part == 0 and prompt and end <= prompt):
            continue
        shift = prompt if part == 0 else 0
        positions.append(position)
        parts.append(part)
        chars.append(covered(texts[part].text, max(start - shift, 0), end - shift, token))
    rows, of_part = np.array(chars, np.int32).reshape(-1, 2), np.array(parts, np.int32)
    for part in (0, 1):
        rows[of_part == part] = texts[part].places(rows[of_part == part])
    return TokenSpans(np.array(positions, np.int64), rows, of_part)
