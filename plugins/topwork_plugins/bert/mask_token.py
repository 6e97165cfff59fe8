"""Finds the mask of a tokenizer, which stands for a missing word, in the files of its folder. JSON and text only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from topwork_plugins import json_files

#: Where a tokenizer's files name its mask.
NAMED_IN = ("tokenizer_config.json", "special_tokens_map.json")
#: The mask that tokenizer classes of transformers have where no file names one, by their names without "Tokenizer", which are
#: those of model types too.
_BERTS = (
    "albert bert bigbird convbert deberta debertav2 distilbert electra ernie fnet layoutlm mobilebert rembert roformer"
    " squeezebert"
)
_ROBERTAS = "bart camembert esm funnel longformer mpnet mvp roberta xlmroberta xlnet"
USUAL = {**dict.fromkeys(_BERTS.split(), "[MASK]"), **dict.fromkeys(_ROBERTAS.split(), "<mask>")}
WANTED = "copy the tokenizer's files again"


def mask_of(folder: Path) -> str:
    """The mask of the tokenizer of a folder: the one that its files name, or that its class has where the vocabulary holds it; ""
    where there is none."""
    for name in NAMED_IN:
        mask = _read(folder / name).get("mask_token") or ""
        found = mask.get("content", "") if isinstance(mask, dict) else mask
        if found:
            return str(found)
    usual = USUAL.get(_class_of(folder), "")
    return usual if usual and any(usual == word for word in _vocabulary(folder)) else ""


def _class_of(folder: Path) -> str:
    """The tokenizer's class, without what all their names have; where no file names it, that of the model's type."""
    named = str(_read(folder / "tokenizer_config.json").get("tokenizer_class") or "")
    model_type = str(_read(folder / "config.json").get("model_type") or "")
    return (named.removesuffix("Fast").removesuffix("Tokenizer") or model_type).lower().replace("-", "").replace("_", "")


def _vocabulary(folder: Path) -> Iterator[str]:
    whole = _read(folder / "tokenizer.json")
    words = whole.get("model", {}).get("vocab") or ()  # pairs of a word and its score, of Unigram
    yield from (token["content"] for token in whole.get("added_tokens") or ())
    yield from (word if isinstance(word, str) else word[0] for word in words)
    yield from chain(_read(folder / "vocab.json"), _read(folder / "added_tokens.json"))
    if (lines := folder / "vocab.txt").exists():
        yield from lines.read_text("utf-8", errors="replace").splitlines()


def _read(path: Path) -> Mapping[str, Any]:
    return json_files.read_json(path, WANTED, missing_ok=True)
