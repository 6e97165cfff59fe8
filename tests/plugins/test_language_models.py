"""Language models trained further: the contract, what is hidden of a text, new heads, and bases that cannot learn so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.language_model import masked
from topwork_plugins.language_model.options import CausalOptions, MaskedOptions
from topwork_plugins.language_model.plugin import CausalLanguageModel, MaskedLanguageModel
from topwork_plugins.language_model.tokenized import Pieces, held_out
from topwork_plugins.word2vec.plugin import WordVectors
from topwork_server import BaseEncoder, EncoderSpec, InvalidInput, Modality, PretrainResult
from topwork_server.testing import PretrainerContract

#: Sentences of the tiny tokenizers' own words, so that a token is a word or a large part of one.
TEXTS = [f"{' '.join(tiny_berts.corpus()[number % 4].split()[:8])} {number}." for number in range(60)]


def base_of(folder: Path, **settings: Any) -> BaseEncoder:
    spec = EncoderSpec("tiny", BertEncoder, f"file:{folder}", Modality.TEXT, settings=settings)
    return BaseEncoder(spec, "bert", folder)


class TestMasked(PretrainerContract):
    kind = "mlm"
    options = {"epochs": 1, "tokens": 16, "batch": 16}  # noqa: RUF012
    texts = TEXTS

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory: pytest.TempPathFactory) -> BaseEncoder:
        return base_of(tiny_berts.write(tmp_path_factory.mktemp("bases") / "bert", kind="AutoModelForMaskedLM"))


class TestCausal(PretrainerContract):
    kind = "lm"
    options = {"epochs": 1, "tokens": 16, "batch": 16}  # noqa: RUF012
    texts = TEXTS

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory: pytest.TempPathFactory) -> BaseEncoder:
        return base_of(tiny_berts.write(tmp_path_factory.mktemp("bases") / "gpt2", "gpt2", kind="AutoModelForCausalLM"))


def learn(base: BaseEncoder, out: Path, texts: Sequence[str] = TEXTS, **options: Any) -> PretrainResult:
    out.mkdir()
    chosen = MaskedOptions(**{"epochs": 2, "tokens": 16, "batch": 16, **options})
    MaskedLanguageModel.check(base, chosen)
    return MaskedLanguageModel.pretrain(texts, base, chosen, 5, 1, out, lambda done, words: None)


@pytest.mark.parametrize("model_type", ["distilbert", "roberta", "mpnet", "albert", "deberta-v2", "modernbert"])
def test_architectures_learn_and_come_back_with_their_head(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    base = base_of(tiny_berts.write(tmp_path / "base", model_type, kind="AutoModelForMaskedLM"))
    result = learn(base, tmp_path / "out", epochs=4, learning_rate=3e-3)
    loss, accuracy, _ = result.measures
    assert loss.before is not None
    assert loss.after < loss.before
    assert 0 <= accuracy.after <= 1
    _, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert BertEncoder.export(base.spec, tmp_path / "out", tmp_path).heads[0].name == "mlm"


def test_a_trunk_without_a_head_gets_one_and_keeps_its_modules(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = tiny_berts.write(tmp_path / "base")
    pooling = {"word_embedding_dimension": tiny_berts.DIM, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    modules = [
        ("sentence_transformers.models.Transformer", "", None),
        ("sentence_transformers.models.Pooling", "1_Pooling", pooling),
        ("sentence_transformers.models.Normalize", "2_Normalize", {}),
    ]
    tiny_berts.write_modules(folder, modules)
    (folder / "README.md").write_text("of the model as it was")
    result = learn(base_of(folder), tmp_path / "out", epochs=3, head_rate=1e-2)
    assert "had no head" in result.warnings[0]
    assert result.measures[0].after < result.measures[0].before  # type: ignore[operator]
    model, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert model.cls.predictions.transform.dense.weight.std() > 0
    assert json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text()) == pooling
    assert json.loads((tmp_path / "out" / "modules.json").read_text())[2]["path"] == "2_Normalize"
    assert not (tmp_path / "out" / "README.md").exists()


def test_what_is_worse_than_before_is_not_kept(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = tiny_berts.write(tmp_path / "base", kind="AutoModelForMaskedLM")
    result = learn(base_of(folder), tmp_path / "out", learning_rate=0.0, weight_decay=0.0, epochs=5, patience=2)
    assert "as it was" in result.warnings[0]
    assert "fell no more" in result.warnings[1]
    assert len(result.history) == 2
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert all((before[name] == after[name]).all() for name in before)


def test_a_time_limit_ends_it_and_the_rate_has_fallen(tmp_path: Path) -> None:
    folder = tiny_berts.write(tmp_path / "base", kind="AutoModelForMaskedLM")
    result = learn(base_of(folder), tmp_path / "out", epochs=10_000, max_seconds=0.3, evaluate_every=1_000_000)
    assert "max_seconds" in result.warnings[-1]
    assert result.history[-1]["learning_rate"] < 2.5e-5


def test_a_short_time_limit_is_spent_on_learning_and_what_it_cost_is_told(tmp_path: Path) -> None:
    base = base_of(tiny_berts.write(tmp_path / "base", kind="AutoModelForMaskedLM"))
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 20)]
    result = learn(base, tmp_path / "out", texts, epochs=100, held_out=0.5, max_seconds=0.5, learning_rate=1e-2, warmup=0.0)
    assert result.history[0]["step"] >= 2
    assert any("held-out pieces, drawn" in warning for warning in result.warnings)
    assert any("steps alone" in warning for warning in result.warnings)


def test_options_that_would_do_nothing_are_refused_or_told(tmp_path: Path) -> None:
    base = base_of(tiny_berts.write(tmp_path / "base", kind="AutoModelForMaskedLM"))
    with pytest.raises(InvalidInput, match="tokens is 5,000"):
        learn(base, tmp_path / "long", tokens=5000)
    result = learn(base, tmp_path / "out", epochs=1, head_rate=0.01)
    assert any("head_rate did nothing" in warning for warning in result.warnings)


def test_words_are_hidden_whole() -> None:
    words, random = np.array([0, 0, 0, 1, 2, 2, -1, -1]), np.random.default_rng(0)
    counts = np.zeros(len(words))
    for _ in range(2000):
        chosen = masked.choose(words, 0.15, random)
        assert chosen.any()
        assert len({*chosen[:3]}) == len({*chosen[4:6]}) == 1
        counts += chosen
    assert (counts / 2000 > 0.12).all()
    assert (counts / 2000 < 0.35).all()  # a bit more than 0.15, since one at least is chosen


def test_equal_texts_are_on_one_side() -> None:
    texts = [f"text {number % 30}" for number in range(300)]
    is_held = held_out(texts, 0.1, 0)
    assert len({text for text in texts if is_held(text)}) == 3
    assert {text for text in texts if held_out(texts, 0.1, 1)(text)} != {text for text in texts if is_held(text)}


def test_bases_that_cannot_learn_so_are_refused(tmp_path: Path) -> None:
    words = BaseEncoder(EncoderSpec("glove", WordVectors, "file:/x", Modality.TEXT), "word2vec", tmp_path)
    with pytest.raises(InvalidInput, match="no model of transformers"):
        MaskedLanguageModel.check(words, MaskedOptions())
    folder = tiny_berts.write(tmp_path / "base", kind="AutoModelForMaskedLM")
    with pytest.raises(InvalidInput, match="both directions"):
        CausalLanguageModel.check(base_of(folder), CausalOptions())
    with pytest.raises(InvalidInput, match="all 2 texts are equal"):
        learn(base_of(folder), tmp_path / "out", ["the same", "the same"])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            settings = json.loads(path.read_text("utf-8"))
            settings.pop("mask_token", None)
            path.write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}), "utf-8")
    with pytest.raises(InvalidInput, match="no mask token"):
        MaskedLanguageModel.check(base_of(folder), MaskedOptions())


def test_a_decoder_learns_the_next_token(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, options = (
        base_of(tiny_berts.write(tmp_path / "base", "gpt2", kind="AutoModelForCausalLM")),
        CausalOptions(epochs=8, batch=8, learning_rate=1e-2, tokens=32),
    )
    CausalLanguageModel.check(base, options)
    with pytest.raises(InvalidInput, match="mask"):
        MaskedLanguageModel.check(base, MaskedOptions())
    out = tmp_path / "out"
    out.mkdir()
    result = CausalLanguageModel.pretrain(TEXTS, base, options, 0, 1, out, lambda done, words: None)
    loss, accuracy, perplexity = result.measures
    assert loss.before is not None
    assert loss.after < loss.before - 1
    assert perplexity.after == pytest.approx(np.exp(loss.after))
    assert accuracy.after > 0.2
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]


def test_pieces_are_read_back() -> None:
    pieces = Pieces()
    pieces.add([5, 6], [0, 0])
    pieces.add([7], [-1])
    assert len(pieces) == 2
    assert [part.tolist() for part in pieces.piece(1)] == [[7], [-1]]
