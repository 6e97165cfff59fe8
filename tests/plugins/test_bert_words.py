"""The heads of language models: transformers' own scores out of the trunk's tokens; no part of a fingerprint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from topwork_plugins.bert.architectures import DECODERS
from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.bert.tokens import WORD_MARK, Tokenization
from topwork_server import GapRows, InvalidInput, Sample, Session, TextItem, Trunk
from topwork_server.errors import ExportFailed
from topwork_server.models import pretrained_heads
from topwork_server.types import Array

MASKED, CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"
#: An architecture, and what its configuration says beside the usual.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in tiny_berts.ARCHITECTURES if name != "xlnet"),
    *((name, {"tie_word_embeddings": False}) for name in ("bert", "distilbert", "roberta", "electra", "modernbert")),
    ("deberta-v2", {"legacy": False}),
    ("rembert", {"input_embedding_size": 16}),  # of those that are adopted without a comparison of their taps
]
DECODER_VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DECODERS),
    ("llama", {"tie_word_embeddings": True}),
    ("olmo2", {"num_key_value_heads": 2}),  # as rembert
]
NAMES = [f"{name} {' '.join(changes)}".strip() for name, changes in VARIANTS]


def exported(folder: Path, out: Path) -> Trunk:
    out.mkdir()
    return BertEncoder.export(tiny_berts.spec_of(folder), folder, out)


def fed(folder: Path, text: str) -> Any:
    """What transformers' own tokenizer makes of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    types = json.loads((folder / "config.json").read_text())["model_type"] == "albert" or None
    return tokenizer(text, return_tensors="pt", return_token_type_ids=types)


def scores_of(trunk: Trunk, encoder: BertEncoder, text: str, graph: Path, rows: Callable[[Sample], list[int]]) -> Array:
    """The scores of some of a text's rows, by the trunk in torch and the graph of its head."""
    import torch

    [head] = trunk.heads
    assert trunk.module is not None
    assert head.module is not None
    dim = next(tap.dim for tap in trunk.taps if tap.name == head.tap)
    pretrained_heads.save(*pretrained_heads.module_graph(head.module, dim), graph)
    [sample] = encoder.preprocess(TextItem(text), encoder.example_options)
    assert sample.tokens is not None
    batch = encoder.collate([sample])
    with torch.no_grad():
        tokens = trunk.module(*(torch.from_numpy(batch[name]) for name in trunk.inputs))[1][0].numpy()
    found: Array = Session(graph, threads=1).run(["scores"], {"rows": tokens[sample.tokens.positions[rows(sample)]]})[0]
    return found


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS, ids=NAMES)
def test_the_scores_of_masks_are_those_of_transformers(model_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    folder = tiny_berts.write(tmp_path / "model", model_type, kind=MASKED, **changes)
    trunk, model = exported(folder, tmp_path / "out"), AutoModelForMaskedLM.from_pretrained(folder).eval()
    [head] = trunk.heads
    assert (head.name, head.tap, head.gaps, head.names) == ("mlm", "tokens", GapRows.MASK, ())
    assert trunk.unused == []
    encoder = BertEncoder(tiny_berts.spec_of(folder), tmp_path / "out")
    for text in (f"A small {encoder.mask} sings.", f"{encoder.mask} and café {encoder.mask} bread."):
        inputs, mask = fed(folder, text), tiny_berts.tokenizer_of(model_type).mask_token_id
        with torch.no_grad():
            expected = model(**inputs).logits[0, inputs["input_ids"][0] == mask].numpy()

        def masks(sample: Sample, text: str = text) -> list[int]:
            assert sample.tokens is not None
            return [i for i, (start, end) in enumerate(sample.tokens.chars.tolist()) if text[start:end] == encoder.mask]

        found = scores_of(trunk, encoder, text, tmp_path / "head.onnx", masks)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        assert len(encoder.words(range(found.shape[1]))) == found.shape[1]


@pytest.mark.parametrize(("model_type", "changes"), DECODER_VARIANTS, ids=str)
def test_the_scores_of_what_comes_next_are_those_of_transformers(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_berts.write(tmp_path / "model", model_type, kind=CAUSAL, **changes)
    trunk, model = exported(folder, tmp_path / "out"), AutoModelForCausalLM.from_pretrained(folder).eval()
    [head] = trunk.heads
    assert (head.name, head.tap, head.gaps) == ("lm", "tokens", GapRows.LAST)
    assert trunk.unused == []
    encoder = BertEncoder(tiny_berts.spec_of(folder), tmp_path / "out")
    [sample] = encoder.preprocess(TextItem("A small bird sings"), encoder.example_options)
    assert sample.tokens is not None
    with torch.no_grad():
        expected = model(**fed(folder, "A small bird sings")).logits[0, sample.tokens.positions[-1:]].numpy()
    found = scores_of(trunk, encoder, "A small bird sings", tmp_path / "head.onnx", lambda sample: [-1])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_language_model_that_sees_what_comes_after_brings_no_head(tmp_path: Path) -> None:
    trunk = exported(tiny_berts.write(tmp_path / "model", "xlnet", kind=CAUSAL), tmp_path / "out")
    assert not trunk.heads
    assert "lm_loss.weight" in trunk.unused or "lm_loss.bias" in trunk.unused


def test_a_head_that_does_more_than_score_its_rows_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertForMaskedLM

    forward = BertForMaskedLM.forward

    def by_the_tokens(model: Any, input_ids: Any = None, **given: Any) -> Any:
        found = forward(model, input_ids, **given)
        if input_ids is not None:
            found.logits = found.logits + input_ids[..., None]
        return found

    monkeypatch.setattr(BertForMaskedLM, "forward", by_the_tokens)
    trunk = exported(tiny_berts.write(tmp_path / "model", kind=MASKED), tmp_path / "out")
    assert not trunk.heads
    assert "cls.predictions.bias" in trunk.unused


def test_a_word_keeps_the_space_before_it_where_a_text_goes_on(tmp_path: Path) -> None:
    folder = tiny_berts.write(tmp_path / "model", "albert")
    tokenization, vocabulary = Tokenization(folder / "tokenizer.json", 96), tiny_berts.tokenizer_of("albert").get_vocab()
    begun = next(token for token in vocabulary if token.startswith(WORD_MARK) and token[1:].isalpha())
    within = next(token for token in vocabulary if token.isalpha())
    ids = [vocabulary[begun], vocabulary[within]]
    assert tokenization.words_of(ids) == [begun[1:], within]
    assert tokenization.words_of(ids, spaced=True) == [f" {begun[1:]}", within]


def test_words_are_decoded_as_transformers_does(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for model_type in ("bert", "roberta", "deberta-v2"):
        folder = tiny_berts.write(tmp_path / model_type, model_type, kind=MASKED)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        words = tiny_berts.prepare(folder, tmp_path / f"{model_type}-out").encoder.words(range(len(tokenizer) + 2))
        assert words == [*(tokenizer.decode([entry]) for entry in range(len(tokenizer))), "", ""]


def test_a_trunk_is_the_same_with_and_without_its_head(tmp_path: Path) -> None:
    masked = tiny_berts.write(tmp_path / "masked", kind=MASKED)
    plain = shutil.copytree(masked, tmp_path / "plain")
    config = json.loads((masked / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    found, without = (tiny_berts.export(folder, tmp_path / f"{folder.name}-out") for folder in (masked, plain))
    assert found.manifest.taps == without.manifest.taps  # their fingerprints too
    assert found.manifest.parameters == without.manifest.parameters
    assert found.manifest.blocks == 1 + tiny_berts.LAYERS  # its embeddings are one
    graphs = [(tmp_path / f"{name}-out" / "default.onnx").stat().st_size for name in ("masked", "plain")]
    assert abs(graphs[0] - graphs[1]) < 2000  # names of values alone
    assert pretrained_heads.names_in(tmp_path / "masked-out") == ["mlm"]
    assert pretrained_heads.names_in(tmp_path / "plain-out") == []
    assert "cls.predictions.bias" in without.manifest.unused


def without_mask(folder: Path) -> None:
    """By a class that has none where no file names one."""
    path = folder / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "mask_token"}
    path.write_text(json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def without_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "predictions" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("spoil", "unused"), [(without_mask, True), (without_weights, False)])
def test_what_cannot_fill_brings_no_head(spoil: Any, unused: bool, tmp_path: Path) -> None:
    folder = tiny_berts.write(tmp_path / "model", kind=MASKED)
    spoil(folder)
    trunk = exported(folder, tmp_path / "out")
    assert not trunk.heads
    assert ("cls.predictions.bias" in trunk.unused) is unused
    assert any("mask_token" in remark for remark in trunk.remarks) is unused


@pytest.mark.parametrize(("model_type", "mask"), [("bert", "[MASK]"), ("roberta", "<mask>")])
@pytest.mark.parametrize("named", [{"tokenizer_class": True}, {}], ids=["class", "nothing"])
def test_a_mask_that_no_file_names_is_that_of_the_class(
    model_type: str, mask: str, named: dict[str, Any], tmp_path: Path
) -> None:
    """Old folders hold a vocabulary and little else."""
    folder = tiny_berts.write(tmp_path / "model", model_type, kind=MASKED)
    path = folder / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key in named}
    path.write_text(json.dumps(kept))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).mask_token == mask
    assert [head.name for head in exported(folder, tmp_path / "out").heads] == ["mlm"]
    assert tiny_berts.prepare(folder, tmp_path / "prepared").encoder.mask == mask


def test_the_weights_of_other_heads_and_the_pooler_are_named(tmp_path: Path) -> None:
    trunk = exported(tiny_berts.write(tmp_path / "model", kind="AutoModelForPreTraining"), tmp_path / "out")
    assert [head.name for head in trunk.heads] == ["mlm"]
    assert trunk.unused == [f"{name}.{part}" for name in ("cls.seq_relationship", "pooler.dense") for part in ("bias", "weight")]


def test_a_masked_model_that_lacks_a_weight_of_its_trunk_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_berts.write(tmp_path / "model", kind=MASKED)
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match=r"lacks 1 weight .*encoder.layer.1.output.dense.weight"):
        exported(folder, tmp_path / "out")


def test_weights_that_are_too_large_for_one_file_stand_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = exported(tiny_berts.write(tmp_path / "model", kind=MASKED), tmp_path / "out")
    [head] = trunk.heads
    assert head.module is not None
    rows, found = np.random.default_rng(0).normal(size=(4, tiny_berts.DIM)).astype(np.float32), []
    for name, most in (("one", pretrained_heads.LARGEST), ("two", 0)):
        monkeypatch.setattr(pretrained_heads, "LARGEST", most)
        pretrained_heads.save(*pretrained_heads.module_graph(head.module, tiny_berts.DIM), tmp_path / f"{name}.onnx")
        found.append(Session(tmp_path / f"{name}.onnx", threads=1).run(["scores"], {"rows": rows})[0])
    np.testing.assert_array_equal(*found)
    assert sorted(path.name for path in tmp_path.glob("*.weights")) == ["two.weights"]


def test_a_head_whose_graph_is_not_its_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Noisy(torch.nn.Module):
        def forward(self, rows: Any) -> Any:
            return rows + torch.rand(rows.shape)

    def with_noise(spec: Any, assets: Path, out: Path) -> Trunk:
        trunk = original(spec, assets, out)
        return replace(trunk, heads=(replace(trunk.heads[0], module=Noisy()),))

    folder, original = tiny_berts.write(tmp_path / "model", kind=MASKED), BertEncoder.export
    monkeypatch.setattr(BertEncoder, "export", with_noise)
    with pytest.raises(ExportFailed, match="the head mlm of tiny is not its module"):
        tiny_berts.export(folder, tmp_path / "out")
