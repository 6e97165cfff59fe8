"""Writes the tokenizer file that the server reads, from the tokenizer files that a model's folder holds. Export process only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput

from topwork_plugins.bert.layout import read_json
from topwork_plugins.bert.tokens import FILE
from topwork_plugins.tokenizer_checks import check_tokenizer

#: Where there is no tokenizer.json: the vocabularies that it is made from, one set of names a family of tokenizers.
VOCABULARIES = (
    *(("vocab.txt",), ("vocab.json", "merges.txt")),
    *(("sentencepiece.bpe.model",), ("spiece.model",), ("spm.model",), ("tokenizer.model",)),
)
#: Architectures whose sentence pieces transformers' AutoTokenizer cannot convert, or reads without the blank before a text.
_CLASSES = {"mistral": "LlamaTokenizer", "mt5": "T5Tokenizer", "umt5": "T5Tokenizer"}
#: What tokenizer_config.json may ask for at the ends of a text, and what it names the token.
_ENDS = {"add_bos_token": "bos_token", "add_eos_token": "eos_token"}


def write_tokenizer(folder: Path, out: Path, *, lower_case: bool, rows: int, framed: bool) -> str:
    """Write `out`/tokenizer.json, truncation and padding off; return a SHA-256 of what it was made from.

    `rows` is the size of the model's word table; `framed` says that special tokens stand around every text. InvalidInput where
    the tokenizer cannot be the model's.
    """
    sources, tokenizer = _published(folder) if (folder / FILE).exists() else _converted(folder)
    tokenizer["truncation"] = tokenizer["padding"] = None
    # Gemma 3 has a token for pictures beyond the table of its model of texts: a text that spells it is made of other tokens.
    added = tokenizer.get("added_tokens") or []
    tokenizer["added_tokens"] = [token for token in added if token["id"] < rows or not token.get("special")]
    if lower_case:
        tokenizer["normalizer"] = _lowering(tokenizer.get("normalizer"))
    ends = {} if framed else _missing_ends(folder, tokenizer)
    if ends:
        tokenizer["post_processor"] = _with_ends(tokenizer, ends)
    _check(folder, write(tokenizer, out, folder.name), rows, framed=framed)
    return digest_of(sources, tokenizer.get("normalizer"), *([ends] if ends else []))


def write(tokenizer: dict[str, Any], out: Path, whose: str) -> Any:
    """Write a tokenizer to `out`/tokenizer.json, and return it as it is read. InvalidInput where it is none to be served (see
    `check_tokenizer`)."""
    (out / FILE).write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), "utf-8")
    return check_tokenizer(out / FILE, whose)


def digest_of(sources: Iterable[Path], *changes: Any) -> str:
    """Make a SHA-256 of the files that a tokenizer was made from and what was changed of it, rather than of what was written,
    which may change with the libraries that convert."""
    digest = hashlib.sha256()
    for change in changes:
        digest.update(json.dumps(change, sort_keys=True).encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def check_size(name: str, words: int, rows: int) -> None:
    """Raise InvalidInput where a vocabulary is not the model's: a larger one would read past the word table; a far smaller one is
    another model's, or a failed conversion."""
    if not rows // 2 <= words <= rows:
        raise InvalidInput(
            f"the tokenizer of {name} has {words} tokens, and the model's word table {rows} rows",
            remedy="its tokenizer and its weights do not belong together; copy the model again",
        )


def _published(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    tokenizer = read_json(folder / FILE)
    normalizer = tokenizer.get("normalizer") or {}
    lowercase = read_json(folder / "tokenizer_config.json", missing_ok=True).get("do_lower_case")
    if normalizer.get("type") == "BertNormalizer" and lowercase is not None:
        normalizer["lowercase"] = bool(lowercase)  # transformers, too, lets tokenizer_config.json win
    return [folder / FILE], tokenizer


def _converted(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    for names in VOCABULARIES:
        sources = [folder / name for name in names]
        if all(source.exists() for source in sources):
            if names[0].endswith(".model") and find_spec("sentencepiece") is None:
                raise InvalidInput(
                    f"{folder.name} has no tokenizer.json, and {names[0]} is read by the sentencepiece package",
                    remedy="pip install sentencepiece, or add a tokenizer.json",
                )
            return sources, json.loads(_convert(folder).to_str())
    raise InvalidInput(f"{folder.name} has no tokenizer", remedy="add its tokenizer.json, as the hub has it")


def _convert(folder: Path) -> Any:
    """transformers' own conversion. Not `BertTokenizerFast(vocab_file=...)`: 5.23 drops that argument in silence, and gives
    a tokenizer of five words."""
    import transformers

    config = read_json(folder / "tokenizer_config.json", missing_ok=True)
    maker = getattr(transformers, _CLASSES.get(read_json(folder / "config.json").get("model_type", ""), "AutoTokenizer"))
    # Decoders of sentence pieces were all trained with <s> before a text; older releases of transformers did not write it down.
    said = {"add_bos_token": True} if (folder / "tokenizer.model").exists() and "add_bos_token" not in config else {}
    try:
        return maker.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **said).backend_tokenizer
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise InvalidInput(
            f"the tokenizer of {folder.name} could not be converted: {str(error).splitlines()[0]}",
            remedy="add a tokenizer.json, which transformers writes with tokenizer.save_pretrained",
        ) from error


def _missing_ends(folder: Path, tokenizer: dict[str, Any]) -> dict[str, str]:
    """The tokens that tokenizer_config.json asks for before or after every text, by its flag, and that tokenizer.json does not
    add: transformers adds them, and a model that pools its last token was trained with them."""
    from tokenizers import Tokenizer

    config = read_json(folder / "tokenizer_config.json", missing_ok=True)
    named = {flag: config.get(key) for flag, key in _ENDS.items() if config.get(flag) is True}
    found = {flag: token["content"] if isinstance(token, dict) else token for flag, token in named.items() if token}
    if not found:
        return {}
    tokens = Tokenizer.from_str(json.dumps(tokenizer)).encode("a").tokens
    place = {"add_bos_token": 0, "add_eos_token": -1}
    return {flag: token for flag, token in found.items() if not tokens or tokens[place[flag]] != token}


def _with_ends(tokenizer: dict[str, Any], ends: dict[str, str]) -> dict[str, Any]:
    """The tokenizer's post-processor, and after it one that adds the tokens."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    first, last = ([ends[flag]] if flag in ends else [] for flag in _ENDS)
    whole = Tokenizer.from_str(json.dumps(tokenizer))
    single, other = ([*first, part, *last] for part in ("$A", "$B:1"))
    known = [(token, whole.token_to_id(token)) for token in dict.fromkeys(first + last)]
    whole.post_processor = TemplateProcessing(single=single, pair=single + other, special_tokens=known)
    made: dict[str, Any] = json.loads(whole.to_str())["post_processor"]
    before = tokenizer.get("post_processor")
    return {"type": "Sequence", "processors": [before, made]} if before else made


def _check(folder: Path, tokenizer: Any, rows: int, *, framed: bool) -> None:
    """Raise InvalidInput where the tokenizer that was written is not the model's."""
    check_size(folder.name, tokenizer.get_vocab_size(), rows)
    if framed and not tokenizer.num_special_tokens_to_add(is_pair=False):
        raise InvalidInput(
            f"the tokenizer of {folder.name} puts no special tokens around a text, as every model of its architecture expects",
            remedy="its tokenizer.json is not whole; write it anew with transformers' tokenizer.save_pretrained",
        )


def _lowering(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """The tokenizer's normalizer after a lowercase step, as sentence-transformers' do_lower_case asks."""
    steps = [{"type": "Lowercase"}] + ([normalizer] if normalizer else [])
    return {"type": "Sequence", "normalizers": steps}
