"""Checks of a tokenizer.json that others made, which is to serve texts of callers: how much it adds, and how it behaves on texts
that make patterns run away. Export process only.

A pattern with nested repetitions takes twice as long for each further character, until the library of patterns gives up and the
tokenizer ends the call of whoever sent the text. That cannot be told from a pattern by looking at it, so each is tried.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server import InvalidInput, check_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Published tokenizers add some hundred tokens.
MOST_ADDED = 100_000
#: Characters of the texts that are tried, CPU seconds that the longest may take (a usual tokenizer takes some milliseconds), and
#: the most tokens for a character.
LENGTHS, SECONDS, MOST_TOKENS = (4, 24, 256, 4096), 0.5, 64
#: Characters of every kind that patterns tell apart, and the most that are taken out of patterns.
KINDS, MOST_CHARACTERS = "aA1 \n!'é漢", 32
#: What patterns are written with, beside the characters that they name.
_SIGNS = frozenset("\\^$.|?*+()[]{}")
REMEDY = "take the tokenizer.json of the model's publisher; if this is it, take another model"


def check_tokenizer(file: Path, whose: str) -> Tokenizer:
    """Read a tokenizer. InvalidInput for one that cannot be read, that adds more tokens than one does, or that takes far longer,
    or makes far more tokens, than a text is long. `whose` it is begins the message."""
    from tokenizers import Tokenizer

    check_file(file)
    content = json.loads(file.read_text("utf-8"))
    if len(added := content.get("added_tokens") or []) > MOST_ADDED:
        raise InvalidInput(f"the tokenizer of {whose} adds {len(added):,} tokens, and {MOST_ADDED:,} are the most", remedy=REMEDY)
    patterns = sorted(set(_patterns(content)))
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise InvalidInput(f"the tokenizer of {whose} cannot be read: {error}", remedy="copy the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    units = _units(patterns)
    # What ends a text so that a pattern which has matched all of it has to try again.
    ends = ("", "\0", "\0" + "".join(units)) if patterns else ("",)
    for length in LENGTHS:
        for unit in units:
            for end in ends:
                _try(tokenizer, (unit * length)[:length] + end, unit, whose, patterns)
    return tokenizer


def _try(tokenizer: Any, text: str, unit: str, whose: str, patterns: list[str]) -> None:
    began = time.thread_time()
    try:
        count = len(tokenizer.encode(text).ids)
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(f"the tokenizer of {whose} fails on {unit!r}: {error}", remedy=REMEDY) from error
    except BaseException as error:  # of a panic in Rust, which is no Exception
        if type(error).__name__ != "PanicException":
            raise
        fault = f"gives up on {unit!r} repeated {len(text):,} times: {error}"
    else:
        seconds = time.thread_time() - began
        fault = f"takes {seconds:.1f} s for {unit!r} repeated to {len(text):,} characters" if seconds > SECONDS else ""
        if count > MOST_TOKENS * len(text) + 1000:
            fault = f"makes {count:,} tokens of {len(text):,} characters ({unit!r} repeated)"
    if fault:
        named = f"; its patterns are {', '.join(map(repr, patterns))[:300]}" if patterns else ""
        raise InvalidInput(f"the tokenizer of {whose} {fault}{named}", remedy=REMEDY)


def _patterns(content: Any) -> Iterator[str]:
    """Yield the regular expressions of a tokenizer's steps."""
    if isinstance(content, dict):
        if isinstance(content.get("Regex"), str):
            yield content["Regex"]
        for name, value in content.items():
            if name != "vocab":
                yield from _patterns(value)
    elif isinstance(content, list) and not (content and isinstance(content[0], str)):
        for value in content:
            yield from _patterns(value)


def _units(patterns: list[str]) -> list[str]:
    """List what is repeated: characters of each kind and those that patterns name, alone and two in turn."""
    named = dict.fromkeys(re.sub(r"\\[pP]\{\^?\w+\}|\\.", "", "".join(patterns)))
    characters = dict.fromkeys([*KINDS, *(c for c in named if c not in _SIGNS)][: len(KINDS) + MOST_CHARACTERS])
    return [*characters, "a ", "a1", "ab", "a'"]
