"""Tiny random models of texts and pictures in the hub's own folder layouts, of transformers and of open_clip."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
from topwork_plugins.clip import plugin as clip
from topwork_server import EncoderSpec, SourceUri
from topwork_server.models.artifacts import MODEL, Manifest
from topwork_server.models.catalog import Catalog
from topwork_server.models.torch_compat import prepare_torchvision
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.export import export_encoder, publish_towers
from topwork_server.runtime.session import Session
from topwork_server.types import Array, Item

prepare_torchvision()

DIM, LAYERS, PROJECTION, SIDE, PATCH, LENGTH = 32, 2, 16, 32, 8, 24
TEXTS = ["a photo of a small bird", "The  cat sat!", "naïve café", "a", "two red boats on the blue water, far away"]
#: "old clip" has the wrong end token in its config, as OpenAI's folders do: transformers then looks for the highest.
KINDS = ("clip", "old clip", "siglip", "siglip2")


def texts() -> list[str]:
    return [text.text for text in example_inputs.texts()] + TEXTS


def clip_tokenizer() -> Any:
    """All bytes, alone and at the end of a word, and a few words."""
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>"), ("p", "h"), ("ph", "o"), ("pho", "t"), ("phot", "o</w>"), ("o", "f</w>")]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocab = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


@cache
def sentence_pieces() -> bytes:
    """A model of SentencePiece, as T5's."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts() * 3), model_writer=model, vocab_size=150, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return model.getvalue()


def siglip_tokenizer(folder: Path) -> Any:
    from transformers import SiglipTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(sentence_pieces())
    return SiglipTokenizer(vocab_file=str(folder / "spiece.model"), model_max_length=LENGTH, model_input_names=["input_ids"])


def gemma_tokenizer() -> Any:
    from transformers import Siglip2Tokenizer

    letters = sorted({letter for text in texts() for letter in text.replace(" ", "▁").lower()} | {"▁"})
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "a"), ("t", "h"), ("th", "e")]
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys([*special, *letters, *("".join(pair) for pair in merges)]))}
    return Siglip2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=LENGTH, padding_side="right", model_input_names=["input_ids"]
    )


def give_words(folder: Path, words: Sequence[str]) -> Path:
    """Give the folder a tokenizer of whole words, which knows no other."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    fillers = (f"#{number}" for number in range(rows - len(words) - 3))
    vocab = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words, *fillers])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    for path in (*folder.glob("*token*"), *folder.glob("spiece.model"), *folder.glob("vocab.json")):
        path.unlink()
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **named).save_pretrained(folder)
    return folder


def tokenizer_of(kind: str, folder: Path) -> Any:
    if kind == "siglip":
        return siglip_tokenizer(folder)
    return clip_tokenizer() if "clip" in kind else gemma_tokenizer()


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """A folder as transformers' save_pretrained makes it; SigLIP 2 of one size is a SigLIP with Gemma's tokenizer."""
    import transformers as t

    tokenizer = tokenizer_of(kind, folder)
    both = {"hidden_size": DIM, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    vision = {**both, "image_size": SIDE, "patch_size": PATCH}
    text = {**both, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    torch.manual_seed(seed)
    if "clip" in kind:
        end = 2 if kind == "old clip" else tokenizer.eos_token_id
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": 1}
        config = t.CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=PROJECTION)
        model, processor = t.CLIPModel(config), {"image_processor_type": "CLIPImageProcessor", "crop_size": SIDE}
        processor["size"] = {"shortest_edge": SIDE}
    else:
        model = t.SiglipModel(t.SiglipConfig(text_config={**text, "projection_size": DIM}, vision_config=vision))
        processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": SIDE, "width": SIDE}}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_open_clip(folder: Path, *, siglip: bool = False) -> Path:
    """A folder as open_clip's hub repositories are: a CLIP, or as SigLIP 2 with a tokenizer of its own and a net of timm."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    vision_cfg = {"image_size": SIDE, "layers": LAYERS, "width": DIM, "head_width": 8, "patch_size": PATCH}
    text_cfg = {"context_length": LENGTH, "vocab_size": 49408, "width": DIM, "heads": 4, "layers": LAYERS}
    config = {"embed_dim": PROJECTION, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    if siglip:
        tokenizer = gemma_tokenizer()
        tokenizer.save_pretrained(folder)
        vision_cfg = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
        asked = {"hf_tokenizer_name": "org/name", "tokenizer_kwargs": {"clean": "canonicalize"}, "vocab_size": len(tokenizer)}
        trained = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        config |= {"custom_text": True, "init_logit_bias": -10, "vision_cfg": vision_cfg, "text_cfg": text_cfg | asked | trained}
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def pulled(place: Path) -> Path:
    """A home where the CLIP `tiny` was pulled from a folder and exported, in this process, which has torch already."""
    catalog = Catalog(PluginRegistry.load(), place / "home")
    spec = catalog.add(f"file:{write('clip', place / 'model')}", "tiny", "clip")
    publish_towers(catalog.home, spec, partial(catalog.weights, "tiny"))
    return place / "home"


class ExportedTower:
    """The exported tower of a folder, computed without a server."""

    def __init__(self, spec: EncoderSpec, folder: Path, out: Path) -> None:
        out.mkdir()
        self.manifest: Manifest = export_encoder(spec, folder, out)
        self.encoder: Any = spec.encoder(spec, out)
        self.taps = [info.tap.name for info in self.manifest.taps]
        self._session = Session(out / MODEL)

    def samples(self, items: Sequence[Item], **options: Any) -> list[Any]:
        chosen = self.encoder.options(**options)
        return [sample for item in items for sample in self.encoder.preprocess(item, chosen)]

    def rows(self, samples: Sequence[Any]) -> dict[str, Array]:
        """By tap, as the graph gives them in one batch."""
        return dict(zip(self.taps, self._session.run(self.taps, self.encoder.collate(samples)), strict=True))


def export(folder: Path, out: Path) -> tuple[ExportedTower, ExportedTower]:
    """The towers of pictures and of texts."""
    spec = clip.resolve_source("tiny", SourceUri.parse(f"file:{folder}"))
    assert spec is not None
    out.mkdir(exist_ok=True)
    image, text = (ExportedTower(tower, folder, out / tower.modality) for tower in spec.towers)
    return image, text


def photos() -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (height, width, 3), np.uint8) for height, width in ((40, 60), (33, 32), (90, 50))]
