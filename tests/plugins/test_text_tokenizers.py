"""Tokenizers of folders without tokenizer.json, and what is added at the ends of a text, against the libraries that made them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiny_berts
from sentencepiece import SentencePieceProcessor
from tiny_berts import Prepared, corpus, prepare
from topwork_plugins.tokenizer_checks import check_tokenizer
from topwork_server import InvalidInput, TextItem

TEXTS = ["A small bird sings.", "Bread  and\tbutter 12345", "Naïve café 漢字 😀!"]
T5: dict[str, Any] = {"model_type": "unigram", "vocab_size": 300, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
BYTES: dict[str, Any] = {
    "model_type": "bpe",
    "vocab_size": 600,
    "byte_fallback": True,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
LLAMA = {**BYTES, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
GEMMA = {**BYTES, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "add_dummy_prefix": False}
GEMMA |= {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}


def trained(**settings: Any) -> bytes:
    """A model of sentencepiece, of our sentences."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus() * 3), model_writer=model, character_coverage=1.0, hard_vocab_limit=False, **settings
    )
    return model.getvalue()


def without_tokenizer(folder: Path, model_type: str, words: int) -> Path:
    source = tiny_berts.write(folder, model_type, vocab_size=words)
    for path in source.glob("*token*"):
        path.unlink()
    return source


def ids(prepared: Prepared, text: str) -> list[int]:
    return [int(number) for number in prepared.samples([TextItem(text)], unknown="allow")[0].inputs["input_ids"]]


@pytest.mark.parametrize(
    ("model_type", "tokenizer", "file", "settings", "before", "after"),
    [
        ("t5", "T5Tokenizer", "spiece.model", T5, [], [1]),
        ("mt5", "MT5Tokenizer", "spiece.model", T5, [], [1]),
        ("umt5", "T5Tokenizer", "spiece.model", T5, [], [1]),
        ("llama", "LlamaTokenizer", "tokenizer.model", LLAMA, [1], []),
        ("mistral", "LlamaTokenizer", "tokenizer.model", LLAMA, [1], []),
        ("gemma", "GemmaTokenizer", "tokenizer.model", GEMMA, [2], []),
    ],
)
def test_sentence_pieces_become_a_tokenizer_file(
    model_type: str, tokenizer: str, file: str, settings: dict[str, Any], before: list[int], after: list[int], tmp_path: Path
) -> None:
    model = trained(**settings)
    pieces = SentencePieceProcessor(model_proto=model)
    source = without_tokenizer(tmp_path / "model", model_type, pieces.vocab_size() + 110)
    (source / file).write_bytes(model)
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer}))
    made = prepare(source, tmp_path / "out")
    for text in TEXTS:
        assert ids(made, text) == [*before, *pieces.encode(text), *after]


@pytest.mark.parametrize(("model_type", "tokenizer"), [("gpt2", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer")])
def test_byte_pairs_become_a_tokenizer_file(model_type: str, tokenizer: str, tmp_path: Path) -> None:
    whole = prepare(tiny_berts.write(tmp_path / "whole", model_type), tmp_path / "first")
    vocabulary = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())["model"]
    words = {**vocabulary["vocab"], "<|endoftext|>": len(vocabulary["vocab"])}
    source = without_tokenizer(tmp_path / "model", model_type, len(words))
    (source / "vocab.json").write_text(json.dumps(words))
    (source / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{' '.join(merge)}\n" for merge in vocabulary["merges"]))
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer}))
    made = prepare(source, tmp_path / "second")
    for text in ("A small bird sings.", "Naïve café 漢字 😀!"):
        assert ids(made, text) == ids(whole, text)


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ({"add_eos_token": True}, [], ["</s>"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>"], ["</s>"]),
        ({"add_bos_token": False, "add_eos_token": False}, [], []),
    ],
)
def test_tokens_that_the_configuration_asks_for_stand_at_the_ends(
    flags: dict[str, bool], before: list[str], after: list[str], tmp_path: Path
) -> None:
    source = tiny_berts.write(tmp_path / "model", "gpt2")
    config = source / "tokenizer_config.json"
    plain = prepare(source, tmp_path / "plain")
    config.write_text(json.dumps(json.loads(config.read_text()) | flags))
    made = prepare(source, tmp_path / "out")
    known = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    expected = [*(known[token] for token in before), *ids(plain, TEXTS[0]), *(known[token] for token in after)]
    assert ids(made, TEXTS[0]) == expected
    [sample] = made.samples([TextItem(TEXTS[0])])
    assert sample.tokens is not None
    assert len(sample.tokens.positions) == len(expected) - len(before) - len(after)  # they are no rows


def test_special_tokens_beyond_the_word_table_are_left_out(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model", "gemma3_text")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    rows = json.loads((source / "config.json").read_text())["vocab_size"]
    added = {"id": rows, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append(added | {"special": True})
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert max(ids(prepare(source, tmp_path / "out"), "A small <image>")) < rows
    tokenizer["added_tokens"][-1]["special"] = False
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InvalidInput, match="word table"):
        prepare(source, tmp_path / "again")


def test_sentence_pieces_that_are_none_are_refused(tmp_path: Path) -> None:
    source = without_tokenizer(tmp_path / "model", "t5", 400)
    (source / "spiece.model").write_bytes(b"version https://git-lfs")
    with pytest.raises(InvalidInput, match="could not be converted"):
        prepare(source, tmp_path / "out")


def hostile(path: Path, **steps: Any) -> Path:
    """A tokenizer.json of words with some step of its own."""
    from tokenizers import Tokenizer, models

    made = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    for name, step in steps.items():
        setattr(made, name, step)
    made.save(str(path))
    return path


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(x+x+)+y", r"^(\w+)*$", r"(\s*\w*\s*)*;", r"(\w+\s?)*!"])
def test_a_pattern_that_runs_away_is_refused_with_its_name(pattern: str, tmp_path: Path) -> None:
    from tokenizers import Regex, pre_tokenizers

    file = hostile(tmp_path / "tokenizer.json", pre_tokenizer=pre_tokenizers.Split(Regex(pattern), "isolated"))
    with pytest.raises(InvalidInput, match=r"the tokenizer of mine (gives up|takes)") as caught:
        check_tokenizer(file, "mine")
    assert repr(pattern) in caught.value.message
    assert caught.value.remedy


def test_a_text_that_grows_and_grows_is_refused(tmp_path: Path) -> None:
    from tokenizers import normalizers, pre_tokenizers

    grows = normalizers.Sequence([normalizers.Replace("a", "a a a a")] * 5)
    file = hostile(tmp_path / "tokenizer.json", normalizer=grows, pre_tokenizer=pre_tokenizers.Whitespace())
    with pytest.raises(InvalidInput, match=r"the tokenizer of mine (makes|takes)"):
        check_tokenizer(file, "mine")


def test_a_tokenizer_with_millions_of_added_tokens_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    file = hostile(tmp_path / "tokenizer.json")
    content = json.loads(file.read_text())
    content["added_tokens"] = [{"id": i, "content": f"t{i}"} for i in range(100_001)]
    file.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="the tokenizer of mine adds 100,001 tokens"):
        check_tokenizer(file, "mine")


@pytest.mark.parametrize(
    "pattern",
    [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
    ids=["GPT-2", "Llama 3"],
)
def test_patterns_of_published_models_are_fine(pattern: str, tmp_path: Path) -> None:
    from tokenizers import Regex, pre_tokenizers

    check_tokenizer(hostile(tmp_path / "tokenizer.json", pre_tokenizer=pre_tokenizers.Split(Regex(pattern), "isolated")), "mine")
