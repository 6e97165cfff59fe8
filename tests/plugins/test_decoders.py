"""Decoders' graphs against transformers, on a tiny random model of each architecture: a token sees those before it, wherever its
padding stands and whatever it shares a batch with."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from tiny_berts import DIM, LAYERS, POSITIONS, Exported, export, loader_of, numpy_poolings, transformers_outputs
from topwork_plugins.bert.architectures import DECODERS
from topwork_server import InvalidInput, TextItem
from topwork_server.types import Array

#: Of the largest number of a row: attention of the tiny models is sharp, which makes more of rounding.
TOLERANCE = 2e-4
TEXTS = [
    "A small bird sings.",
    "Bread",
    "The train to the coast leaves at seven, and the last carriage is the quiet one; bring your own coffee and a book.",
    "Naïve café 漢字 😀!",
]
ITEMS = [TextItem(text) for text in TEXTS]


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    return export(tiny_berts.write(folder / "model", request.param), folder / "out")


def distance(ours: Array, theirs: Array) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("items", [ITEMS[1:2], ITEMS[:2], ITEMS], ids=["one", "two", "mixed"])
def test_every_decoder_equals_transformers(decoder: Exported, items: list[TextItem]) -> None:
    ours = decoder.embed(items)
    theirs, mask = transformers_outputs(decoder.source, items)
    assert set(ours) == {"pooled", "last", "mean", "max", *theirs}
    assert len(theirs) == LAYERS + 2
    for name, expected in theirs.items():
        real = mask[..., None]
        assert distance(ours[name] * real, expected * real) < TOLERANCE, name
    poolings = numpy_poolings(theirs["tokens"], mask)
    for name, mode in (("last", "lasttoken"), ("mean", "mean"), ("max", "max")):
        assert distance(ours[name], poolings[mode]) < TOLERANCE, name
    assert np.array_equal(ours["pooled"], ours["mean"])  # the default of a plain transformers folder


def test_batch_mates_change_nothing(decoder: Exported) -> None:
    long = TextItem(("bird sings " * POSITIONS)[:POSITIONS])
    samples = decoder.samples([*ITEMS, TextItem("Who sings?", "A small bird."), long], truncate=True)
    for batch in (samples, samples[::-1], samples[1:3]):
        together = decoder.run(batch)
        for position, sample in enumerate(batch):
            alone, length = decoder.run([sample]), decoder.encoder.cost(sample)
            for name, rows in alone.items():
                mate = together[name][position]
                assert distance(mate[:length] if rows.ndim == 3 else mate, rows[0]) < TOLERANCE, name


def test_padding_on_the_left_is_the_same(decoder: Exported) -> None:
    """As generation pads, with positions counted from the first real token: what a caller of transformers may compare with."""
    import torch

    samples = decoder.samples(ITEMS)
    ids = [sample.inputs["input_ids"] for sample in samples]
    width = max(map(len, ids))
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    fed = {"input_ids": torch.tensor([[0] * (width - len(row)) + row.tolist() for row in ids]), "attention_mask": mask}
    model: Any = loader_of(decoder.source).from_pretrained(decoder.source, attn_implementation="eager").eval()
    if model.config.model_type != "bloom":  # it counts positions by the mask itself
        fed["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = model(**fed).last_hidden_state[:, -1].numpy()
    assert distance(decoder.run(samples)["last"], theirs) < TOLERANCE


def test_a_token_sees_only_those_before_it(decoder: Exported) -> None:
    """Rows of a beginning are those of the whole text; an encoder's would differ."""
    begun, whole = decoder.embed([TextItem("A small bird")]), decoder.embed([TextItem("A small bird sings.")])
    count = begun["tokens"].shape[1]
    assert distance(whole["tokens"][:, :count], begun["tokens"]) < TOLERANCE
    assert distance(whole["last"], begun["last"]) > 0.01


def test_a_text_as_long_as_the_limit_equals_transformers(decoder: Exported) -> None:
    text = "bird sings " * POSITIONS
    while decoder.encoder._tokenization.length(text) > POSITIONS:
        text = text[:-1]
    [sample] = decoder.samples([TextItem(text)])
    assert decoder.encoder.cost(sample) == POSITIONS
    theirs, _ = transformers_outputs(decoder.source, [TextItem(text)])
    assert distance(decoder.run([sample])["tokens"], theirs["tokens"]) < TOLERANCE
    with pytest.raises(InvalidInput, match=f"the limit is {POSITIONS}"):
        decoder.samples([TextItem("bird sings " * POSITIONS)])


def test_an_embedding_model_on_a_decoder_pools_and_prompts_as_it_says(tmp_path: Path) -> None:
    """The folder that Qwen3-Embedding has: a token that ends every text, the last token pooled, a prompt for queries alone."""
    source = tiny_berts.write(tmp_path / "model", "qwen3")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    end = tokenizer["model"]["vocab"]["<|endoftext|>"]
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    ended = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, ended],
        "pair": [piece, {"Sequence": {"id": "B", "type_id": 1}}, ended],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}},
    }
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    prompts = {"query": "Instruct: find it\nQuery:", "document": ""}
    (source / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts, "default_prompt_name": None}))
    kind = "sentence_transformers.models."
    pooling = {"word_embedding_dimension": DIM, "pooling_mode_lasttoken": True, "include_prompt": True}
    tiny_berts.write_modules(
        source,
        [
            (f"{kind}Transformer", "", None),
            (f"{kind}Pooling", "1_Pooling", pooling),
            (f"{kind}Normalize", "2_Normalize", None),
        ],
    )
    exported = export(source, tmp_path / "out")
    for options, prompt in (({}, ""), ({"prompt_name": "document"}, ""), ({"prompt_name": "query"}, prompts["query"])):
        samples = exported.samples(ITEMS, **options)
        assert {int(sample.inputs["input_ids"][-1]) for sample in samples} == {end}
        theirs, mask = transformers_outputs(source, [TextItem(prompt + text) for text in TEXTS])
        expected = numpy_poolings(theirs["tokens"], mask)["lasttoken"]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.abs(exported.run(samples)["pooled"] - expected).max() < TOLERANCE


def test_a_gemma_whose_tokens_see_those_after_them_too(tmp_path: Path) -> None:
    """The folder that EmbeddingGemma has: no causal mask, a window, the mean, two dense layers."""
    from safetensors.numpy import save_file

    source = tiny_berts.write(tmp_path / "model", "gemma3_text", use_bidirectional_attention=True, sliding_window=9)
    kind = "sentence_transformers.models."
    random, sizes = np.random.default_rng(5), (DIM, 48, DIM)
    dense: list[tuple[str, str, dict[str, Any] | None]] = []
    weights = []
    for n, (wide, out) in enumerate(pairwise(sizes), 2):
        config = {
            "in_features": wide,
            "out_features": out,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        dense.append((f"{kind}Dense", f"{n}_Dense", config))
        weights.append(random.normal(size=(out, wide)).astype(np.float32))
    pooling = (f"{kind}Pooling", "1_Pooling", {"word_embedding_dimension": DIM, "pooling_mode_mean_tokens": True})
    tiny_berts.write_modules(
        source, [(f"{kind}Transformer", "", None), pooling, *dense, (f"{kind}Normalize", "4_Normalize", None)]
    )
    for (_, place, _), weight in zip(dense, weights, strict=True):
        save_file({"linear.weight": weight}, source / place / "model.safetensors")
    exported = export(source, tmp_path / "out")
    ours, (theirs, mask) = exported.embed(ITEMS), transformers_outputs(source, ITEMS)
    for name, expected in theirs.items():
        assert distance(ours[name] * mask[..., None], expected * mask[..., None]) < TOLERANCE, name
    expected = numpy_poolings(theirs["tokens"], mask)["mean"] @ weights[0].T @ weights[1].T
    assert distance(ours["pooled"], expected / np.linalg.norm(expected, axis=1, keepdims=True)) < TOLERANCE
    alone = exported.embed(ITEMS[:1])
    assert distance(ours["pooled"][:1], alone["pooled"]) < TOLERANCE
    longer = exported.embed([TextItem(TEXTS[0] + " Bread")])
    count = alone["tokens"].shape[1]
    assert distance(longer["tokens"][:, :count], alone["tokens"]) > 0.01
