"""Writes the tokenizer file that the server reads. Export process only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from topwork_server import InvalidInput

from topwork_plugins.bert.tokenizer_file import check_size, digest_of, write
from topwork_plugins.bert.tokens import FILE
from topwork_plugins.clip.settings import Side
from topwork_plugins.json_files import read_json

#: Files that a tokenizer is made from.
SOURCES = (
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)
SIGLIP_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
LONGEST = 1 << 20


class WrittenTokenizer(NamedTuple):
    """A tokenizer that was written: the SHA-256 of what it was made from, and what its folder says of it."""

    sha256: str
    padding: int
    side: Side
    max_tokens: int
    masks: bool


def write_tokenizer(folder: Path, out: Path, rows: int) -> WrittenTokenizer:
    """Write `out`/tokenizer.json, as transformers reads that of the folder; `rows` is the size of the model's word table.
    InvalidInput where there is none, or not the model's."""
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in (FILE, "vocab.json", "spiece.model", "tokenizer.model")):
        raise InvalidInput(f"{folder.name} has no tokenizer", remedy="add its tokenizer.json, as the hub has it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        made = getattr(tokenizer, "backend_tokenizer", None) or _of_sentence_pieces(tokenizer)
        written = {**json.loads(made.to_str()), "truncation": None, "padding": None}
    except InvalidInput:
        raise
    except Exception as error:  # transformers and its readers raise errors of any type
        raise InvalidInput(
            f"the tokenizer of {folder.name} cannot be read: {' '.join(str(error).split())[:300]}",
            remedy="add a tokenizer.json, which transformers writes with tokenizer.save_pretrained",
        ) from error
    check_size(folder.name, made.get_vocab_size(), rows)
    write(written, out, folder.name)
    said = read_json(folder / "tokenizer_config.json", missing_ok=True)
    return WrittenTokenizer(
        sha256=digest_of([folder / name for name in SOURCES if (folder / name).exists()], written.get("normalizer")),
        padding=int(tokenizer.pad_token_id or 0),
        side="left" if tokenizer.padding_side == "left" else "right",
        max_tokens=min(int(tokenizer.model_max_length), LONGEST),
        masks="attention_mask" in (said.get("model_input_names") or []),
    )


def write_clip_tokenizer(out: Path, rows: int, name: str) -> str:
    """Write the tokenizer of CLIP that open_clip brings; return the SHA-256 of its vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    simple = SimpleTokenizer()
    merges = [pair for pair, _ in sorted(simple.bpe_ranks.items(), key=lambda entry: entry[1])]
    tokenizer = Tokenizer(models.BPE(vocab=simple.encoder, merges=merges, end_of_word_suffix="</w>"))
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    splits = [
        pre_tokenizers.Split(words, behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<start_of_text>", "<end_of_text>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>",
        special_tokens=[("<start_of_text>", simple.sot_token_id), ("<end_of_text>", simple.eot_token_id)],
    )
    check_size(name, tokenizer.get_vocab_size(), rows)
    write(json.loads(tokenizer.to_str()), out, name)
    return hashlib.sha256(json.dumps([simple.encoder, merges], sort_keys=True).encode()).hexdigest()


def _of_sentence_pieces(slow: Any) -> Any:
    """SigLIP's tokenizer, which transformers has in Python alone: no punctuation, joined white space, and then T5's."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(Path(slow.vocab_file).read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(
        models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=proto.trainer_spec.byte_fallback)
    )
    charsmap = proto.normalizer_spec.precompiled_charsmap
    steps: list[Any] = [normalizers.Lowercase()] if slow.do_lower_case else []
    steps += [normalizers.Replace(Regex(SIGLIP_PUNCTUATION), ""), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    steps += [normalizers.Precompiled(charsmap)] if charsmap else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in slow.all_special_tokens])
    end = slow.eos_token
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, slow.convert_tokens_to_ids(end))]
    )
    return tokenizer
