"""Tiny random models of texts in the hub's folder layout: real architectures, and tokenizers trained in a moment."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from topwork_plugins.bert.architectures import DECODERS, ENCODER_DECODERS
from topwork_plugins.bert.plugin import BertEncoder, BertOptions
from topwork_server import EncoderSpec, Modality, Sample, TextItem
from topwork_server.models.artifacts import MODEL, Manifest
from topwork_server.models.torch_compat import prepare_torchvision
from topwork_server.plugin_api import example_inputs
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session
from topwork_server.types import Array

prepare_torchvision()

DIM = 32
LAYERS = 3
#: Tokens, special ones included, that every tiny model takes.
POSITIONS = 96

_BRACKETS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ANGLES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_FAMILIES = {
    "word pieces": ("bert", "electra", "distilbert", "mpnet", "ernie", "megatron-bert", "modernbert", "nomic_bert"),
    "byte pairs": ("roberta", "roberta-prelayernorm", "deberta", "longformer"),
    "sentence pieces": ("albert", "camembert", "deberta-v2", "xlm-roberta", "xlm-roberta-xl"),
}
ARCHITECTURES = tuple(name for names in _FAMILIES.values() for name in names)
#: Those whose tokenizer begins a text with a token of its own.
_BEGUN = ("gemma", "gemma2", "gemma3_text", "llama", "mistral")
#: These number positions from the padding index on, and have one token type.
_ROBERTAS = ("camembert", "longformer", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
_QUERY_OR_KEY = re.compile(r"query|key|q_lin|k_lin|attn\.[qk]\.|[qk]_proj|attn\.[qk]$")
#: T5 does not divide by the square root of the width.
_UNSCALED = re.compile(r"SelfAttention\.[qk]\.")
_EXTRA = ["naïve café façade", "漢字 and emoji 😀😀", "query: passage:"]


def corpus() -> list[str]:
    return [text.text for text in example_inputs.texts()] + _EXTRA


@cache
def word_pieces(special: tuple[str, ...] = _BRACKETS) -> dict[str, int]:
    """Every character, alone and within a word, and the most frequent words: WordPieceTrainer breaks ties by chance, so that each
    process would have another vocabulary."""
    normalize, split = normalizers.BertNormalizer().normalize_str, pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = Counter(word for text in corpus() for word, _ in split(normalize(text)))
    letters = sorted({letter for word in words for letter in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *frequent])
    return {piece: number for number, piece in enumerate(islice(pieces, 400))}


@cache
def byte_pairs(special: tuple[str, ...] = _ANGLES) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@cache
def unigrams(special: tuple[str, ...]) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = next(token for token in special if token.lower() in ("<unk>", "[unk]"))
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=list(special), unk_token=unknown, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    found = [piece for piece, _ in json.loads(tokenizer.to_str())["model"]["vocab"]][len(special) :]
    text = "".join("\u2581" + line.replace(" ", "\u2581") for line in corpus())
    scores = {
        piece: math.log(max(text.count(piece), 1) / len(text)) for piece in found
    }  # the trainer's own differ from run to run
    return [*((token, 0.0) for token in special), *sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))]


def tokenizer_of(model_type: str) -> Any:
    """transformers' own tokenizer class for the architecture, with a small vocabulary."""
    import transformers as t

    if model_type == "mpnet":
        return t.MPNetTokenizer(vocab=word_pieces(("<s>", "<pad>", "</s>", "[UNK]", "<mask>")))
    if model_type in _FAMILIES["word pieces"]:
        maker = t.DistilBertTokenizer if model_type == "distilbert" else t.BertTokenizer
        return maker(vocab=word_pieces())
    if model_type in _FAMILIES["byte pairs"]:
        vocab, merges = byte_pairs(_BRACKETS if model_type == "deberta" else _ANGLES)
        return (t.DebertaTokenizer if model_type == "deberta" else t.RobertaTokenizer)(vocab=vocab, merges=merges)
    if model_type in ENCODER_DECODERS:
        return t.T5Tokenizer(vocab=unigrams(("<pad>", "</s>", "<unk>")), extra_ids=0)
    if model_type.startswith("qwen"):
        vocab, merges = byte_pairs()
        return t.Qwen2Tokenizer(vocab={**vocab, "<|endoftext|>": len(vocab)}, merges=merges)
    if model_type in DECODERS:
        return _of_a_decoder(begun=model_type in _BEGUN)
    special = {
        "xlnet": (t.XLNetTokenizer, ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>")),
        "albert": (t.AlbertTokenizer, ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
        "camembert": (t.CamembertTokenizer, _ANGLES),
        "deberta-v2": (t.DebertaV2Tokenizer, _BRACKETS),
    }
    maker, tokens = special.get(model_type, (t.XLMRobertaTokenizer, _ANGLES))
    return maker(vocab=unigrams(tokens))


def _of_a_decoder(*, begun: bool) -> Any:
    """Byte pairs with nothing around a text, as GPT-2 has it, or with <s> before it, as Llama; nothing to pad with."""
    from transformers import PreTrainedTokenizerFast

    vocab, merges = byte_pairs()
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if begun:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", vocab["<s>"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def config_of(model_type: str, words: int, padding: int, **changes: Any) -> Any:
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "hidden_size": DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "initializer_range": 0.1,
        "vocab_size": words,
        "pad_token_id": padding,
        "max_position_embeddings": POSITIONS,
    }
    if model_type in _ROBERTAS:
        sizes |= {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + padding + 1}
    if model_type in ("xlnet", *ENCODER_DECODERS):
        del sizes["max_position_embeddings"]  # XLNet has no limit, and refuses to be given one; T5 has another word for it
    if model_type == "funnel":
        del sizes["num_hidden_layers"]  # it counts those of its blocks
    sizes |= _own_sizes(padding).get(model_type, {})
    return AutoConfig.for_model(model_type, **{**sizes, **changes})


def _own_sizes(padding: int) -> dict[str, dict[str, Any]]:
    gpt = {"n_embd": DIM, "n_layer": LAYERS, "n_head": 4, "n_positions": POSITIONS}
    t5 = {"d_model": DIM, "d_kv": 8, "d_ff": 64, "num_layers": LAYERS, "num_heads": 4, "n_positions": POSITIONS}
    grouped = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": padding}
    sliding = {**grouped, "sliding_window": 12}  # shorter than the texts of the tests
    buckets = {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
    return {
        "albert": {"embedding_size": 16},  # projected to the hidden size before the first layer
        "electra": {"embedding_size": 16},
        "distilbert": {"dim": DIM, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 64},
        "mpnet": {"max_position_embeddings": POSITIONS + padding + 1},
        "modernbert": {"local_attention": 8},
        "longformer": {"attention_window": 8},
        "deberta": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "xlnet": {"d_model": DIM, "n_layer": LAYERS, "n_head": 4, "d_inner": 64},
        "bloom": {"n_layer": LAYERS, "n_head": 4},
        "gpt2": gpt,
        "gpt_neo": {
            "num_layers": LAYERS,
            "num_heads": 4,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 12,
        },
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},  # the last layer's output is narrower than the others
        **dict.fromkeys(("gemma", "llama", "qwen2", "qwen3"), grouped),
        **dict.fromkeys(("gemma2", "gemma3_text", "mistral"), sliding),
        "phi3": {"num_key_value_heads": 2, "sliding_window": 12},
        **dict.fromkeys(("t5", "mt5", "umt5"), t5),
        "deberta-v2": {**buckets, "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0},
    }


def write(folder: Path, model_type: str = "bert", seed: int = 0, kind: str = "AutoModel", **changes: Any) -> Path:
    """A transformers folder: config.json, model.safetensors, the tokenizer's files. `kind` is an auto class, such as
    AutoModelForMaskedLM; `changes` go into the configuration."""
    import torch
    import transformers

    tokenizer = tokenizer_of(model_type)
    tokenizer.model_max_length = POSITIONS
    torch.manual_seed(seed)
    encoder_alone = model_type in ENCODER_DECODERS and kind == "AutoModel"
    loader = getattr(transformers, "AutoModelForTextEncoding" if encoder_alone else kind)
    model = loader.from_config(config_of(model_type, len(tokenizer), tokenizer.pad_token_id or 0, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # biases and LayerNorms too: at their neutral start they would hide a mistake
                parameter += 0.1 * torch.randn_like(parameter)
            elif _QUERY_OR_KEY.search(name):
                parameter *= 8  # sharp attention: else every token becomes the mean of all, and no mistake would show
            elif _UNSCALED.search(name):
                parameter *= 4
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_modules(folder: Path, modules: list[tuple[str, str, dict[str, Any] | None]]) -> None:
    """modules.json of sentence-transformers: (class, path, its config.json or None)."""
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path, _) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    for _, path, config in modules:
        if config is not None:
            (folder / path).mkdir(exist_ok=True)
            (folder / path / "config.json").write_text(json.dumps(config))


@dataclass
class Prepared:
    """An encoder that reads texts as a tiny model does. No graph was written, which takes most of an export."""

    source: Path
    encoder: BertEncoder

    def samples(self, items: Sequence[TextItem], **options: Any) -> list[Sample]:
        return [next(iter(self.encoder.preprocess(item, BertOptions(**options)))) for item in items]


@dataclass
class Exported(Prepared):
    """An exported tiny model, and what transformers makes of the same folder."""

    manifest: Manifest
    session: Session

    def run(self, samples: Sequence[Sample]) -> dict[str, Array]:
        names = [info.tap.name for info in self.manifest.taps]
        return dict(zip(names, self.session.run(names, self.encoder.collate(samples)), strict=True))

    def embed(self, items: Sequence[TextItem], **options: Any) -> dict[str, Array]:
        return self.run(self.samples(items, **options))


def spec_of(source: Path, **settings: Any) -> EncoderSpec:
    return EncoderSpec("tiny", BertEncoder, f"file:{source}", Modality.TEXT, settings=settings)


def prepare(source: Path, out: Path, **settings: Any) -> Prepared:
    out.mkdir()
    spec = spec_of(source, **settings)
    BertEncoder.export(spec, source, out)
    return Prepared(source, BertEncoder(spec, out))


def export(source: Path, out: Path, **settings: Any) -> Exported:
    out.mkdir()
    spec = spec_of(source, **settings)
    export_encoder(spec, source, out)
    return opened(source, spec, out)


def opened(source: Path, spec: EncoderSpec, out: Path) -> Exported:
    """Open what the export of `source` left in the folder `out`."""
    return Exported(source, BertEncoder(spec, out), Manifest.read(out), Session(out / MODEL, threads=1))


def transformers_outputs(source: Path, items: Sequence[TextItem]) -> tuple[dict[str, Array], Array]:
    """transformers' own tokenizer and model: tap name to array, and the attention mask."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pairs = [item.pair for item in items] if items[0].pair is not None else None
    model = loader_of(source).from_pretrained(source).eval()
    # ALBERT and XLNet were trained with token types; their tokenizers in transformers 5 leave them out unless asked.
    types = model.config.model_type in ("albert", "xlnet") or None
    fed = tokenizer([i.text for i in items], pairs, padding=True, return_tensors="pt", return_token_type_ids=types)
    with torch.no_grad():
        found = model(**fed, output_hidden_states=True)
    outputs = {f"hidden.{n}": state.numpy() for n, state in enumerate(found.hidden_states)}
    return {"tokens": found.last_hidden_state.numpy(), **outputs}, fed["attention_mask"].numpy()


def loader_of(source: Path) -> Any:
    """The class of transformers whose model gives a folder's features."""
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if AutoConfig.from_pretrained(source).model_type in ENCODER_DECODERS else AutoModel


def numpy_poolings(tokens: Array, mask: Array) -> dict[str, Array]:
    """Row by row over the real tokens alone: no padding can leak in."""
    real = [row[: int(n)] for row, n in zip(tokens, mask.sum(1), strict=True)]
    return {
        "cls": np.stack([row[0] for row in real]),
        "mean": np.stack([row.mean(0) for row in real]),
        "max": np.stack([row.max(0) for row in real]),
        "mean_sqrt_len_tokens": np.stack([row.sum(0) / np.sqrt(len(row)) for row in real]),
        "weightedmean": np.stack([np.average(row, 0, np.arange(1, len(row) + 1)) for row in real]),
        "lasttoken": np.stack([row[-1] for row in real]),
    }
