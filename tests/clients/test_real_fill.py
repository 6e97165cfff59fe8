"""Words for gaps, by both clients and the command line, of a real server: what transformers' pipeline gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_server
import tiny_berts
import topwork
from both_clients import ClientFactory, EitherClient
from topwork import cli
from topwork._transport.calls import unary
from topwork._transport.methods import FILL
from topwork.v1 import encoders_pb2, types_pb2
from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.word2vec import output_vectors
from topwork_plugins.word2vec.plugin import WordVectors
from topwork_server import EncoderSpec, Modality
from topwork_server.models import artifacts
from topwork_server.runtime.export import export_encoder
from toys import FakePlugins

#: One whose mask is [MASK], one with another mask, one without a head, and one that goes from left to right.
MODELS = {"bert": "AutoModelForMaskedLM", "roberta": "AutoModelForMaskedLM", "mpnet": "AutoModel", "gpt2": "AutoModelForCausalLM"}
#: CBOW with the mean and with the sum of the words around, and word vectors without those of its output.
WORDS = {"mean": {"cbow_mean": 1}, "sum": {"cbow_mean": 0}, "input-only": {"cbow_mean": 1}}
SENTENCES = ["a red bird sings in the old tree", "the blue whale sings in the deep sea", "an old owl sleeps in a red tree"]
TEXTS = ["A small [MASK] sings.", "the [MASK] and café [MASK] bread", "[MASK] bird", "[MASK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, kind in MODELS.items():
        tiny_berts.write(root / name, name, kind=kind)
    (root / "bert" / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "the blue: "}}))
    for name, settings in WORDS.items():
        model = word_model(name)
        (root / name).mkdir()
        output_vectors.write(root / name, model.wv.index_to_key, model.wv.vectors, model.syn1neg, {"window": 2, **settings})
    (root / "input-only" / "vectors.output.npy").unlink()
    (root / "huge").mkdir()
    huge = np.array([[1e30, 0], [1, 1], [2, 1]], np.float32)
    output_vectors.write(root / "huge", ["red", "owl", "bird"], huge, huge, {"window": 2, "cbow_mean": 1})
    return root


def word_model(name: str) -> Any:
    """A model of gensim, the same whenever it is asked for."""
    from gensim.models import Word2Vec

    texts = [line.split() for line in SENTENCES] * 40
    return Word2Vec(texts, vector_size=8, window=2, min_count=1, workers=1, seed=1, epochs=20, **WORDS[name])


@pytest.fixture(scope="module")
def target(folder: Path) -> Iterator[str]:
    specs = [EncoderSpec(name, BertEncoder, f"file:{folder / name}", Modality.TEXT) for name in MODELS]
    specs += [
        EncoderSpec(name, WordVectors, f"file:{folder / name}", Modality.TEXT, default_tap="mean") for name in (*WORDS, "huge")
    ]
    for spec in specs:
        artifacts.publish(folder / "home", spec, partial(export_encoder, spec, folder / spec.name))
    with real_server.served(folder / "home", FakePlugins(specs)) as address:
        yield address


@pytest.fixture(params=["Client", "AsyncClient"])
def both(request: pytest.FixtureRequest, target: str, runner: asyncio.Runner) -> Iterator[EitherClient]:
    factory = ClientFactory(request.param == "AsyncClient", target, runner)
    yield factory.open()
    factory.close()


@pytest.fixture
def client(target: str) -> Iterator[topwork.Client]:
    with topwork.Client(target) as client:
        yield client


def pipeline_words(folder: Path, text: str, k: int) -> list[list[dict[str, Any]]]:
    """What transformers' pipeline fills each mask with."""
    from transformers import pipeline

    fill = pipeline("fill-mask", model=str(folder), tokenizer=str(folder), top_k=k)
    found = fill(text.replace("[MASK]", fill.tokenizer.mask_token))
    return found if isinstance(found[0], list) else [found]


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_words_and_probabilities_are_those_of_transformers(name: str, folder: Path, client: topwork.Client) -> None:
    found = client.fill(name, TEXTS, k=7)
    assert (found.encoder, found.head, len(found)) == (name, "mlm", len(TEXTS))
    for text, filled in zip(TEXTS, found, strict=True):
        expected = pipeline_words(folder / name, text, 7)
        assert len(filled.gaps) == len(expected) == text.count("[MASK]")
        for gap, words in zip(filled.gaps, expected, strict=True):
            assert text[gap.start : gap.end] == "[MASK]"
            assert [word.entry for word in gap.words] == [word["token"] for word in words]
            assert [word.word for word in gap.words] == [word["token_str"] for word in words]
            np.testing.assert_allclose([word.probability for word in gap.words], [word["score"] for word in words], rtol=1e-3)


def test_what_comes_next_is_what_transformers_says(folder: Path, client: topwork.Client) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder / "gpt2"),
        AutoModelForCausalLM.from_pretrained(folder / "gpt2").eval(),
    )
    with torch.no_grad():
        likely = model(**tokenizer("A small bird sings", return_tensors="pt")).logits[0, -1].softmax(0).topk(6)
    found = client.fill("gpt2", ["A small bird sings", "A small bird sings [MASK]"], k=6, taps=["last"])
    assert found.head == "lm"
    for text in found:
        assert [word.entry for word in text.words] == likely.indices.tolist()
        np.testing.assert_allclose([word.probability for word in text.words], likely.values.numpy(), rtol=1e-3)
        assert [word.word for word in text.words] == [tokenizer.decode([entry]) for entry in likely.indices.tolist()]
    assert [(text.gaps[0].start, text.gaps[0].end) for text in found] == [(18, 18), (19, 25)]
    np.testing.assert_array_equal(found.features["last"].rows[0], found.features["last"].rows[1])
    assert found[0].filled == "A small bird sings" + found[0].words[0].word


@pytest.mark.parametrize(
    ("text", "options", "word"), [("a [MASK] bird", {}, "before its end"), ("bird " * 200, {"truncate": True}, "cut off")]
)
def test_a_gap_that_is_not_at_the_end_of_what_is_read_is_refused(
    text: str, options: dict[str, Any], word: str, client: topwork.Client
) -> None:
    with pytest.raises(topwork.InvalidInput, match=word) as caught:
        client.fill("gpt2", ["fine", text], options=options)
    assert caught.value.item == 1


@pytest.mark.parametrize("name", ["mean", "sum"])
def test_words_are_those_of_gensim(name: str, client: topwork.Client) -> None:
    model = word_model(name)
    around = {
        "a red [MASK] sings in": ["a", "red", "sings", "in"],
        "the deep blue [MASK], sings in the tree": ["deep", "blue", "sings", "in"],  # two on each side
        "an old[MASK]": ["an", "old"],
        "red [MASK] unheard-of tree [MASK]": ["red", "tree"],  # unknown words are passed over, and a gap is no word
    }
    found = client.fill(name, list(around), k=6)
    assert found.head == "cbow"
    for text, filled in zip(around, found, strict=True):
        expected = model.predict_output_word(around[text], topn=6)
        assert [word.word for word in filled.words] == [word for word, _ in expected]
        np.testing.assert_allclose([word.probability for word in filled.words], [score for _, score in expected], rtol=1e-4)
        assert [model.wv.index_to_key[word.entry] for word in filled.words] == [word for word, _ in expected]
    assert [word.word for word in found[3].gaps[1].words] == [word for word, _ in model.predict_output_word(["red", "tree"], 6)]


def test_the_spans_are_those_of_the_text_as_it_was_written(client: topwork.Client) -> None:
    text = "a [MASK] old [MASK] tree"
    tokens = client.fill("mean", [text], taps=["tokens"]).features["tokens"]
    assert tokens.spans is not None
    assert [text[int(start) : int(end)] for start, end in tokens.spans] == ["a", "old", "tree"]


def test_word_vectors_without_a_word_beside_the_gap_are_refused(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match="none of its words"):
        client.fill("mean", ["[MASK], unheard"])
    with pytest.raises(topwork.InvalidInput, match="single texts"):
        client.fill("mean", [("a [MASK]", "b")])


def test_targets_keep_their_probabilities_among_all_words(client: topwork.Client) -> None:
    everything = {word.word: word for word in client.fill("bert", ["a [MASK] bird"], k=300)[0].words}
    named = [word for word in everything if word.isalpha() and len(word) > 3][:3]
    some = client.fill("bert", ["a [MASK] bird"], targets=[*reversed(named), named[0]])[0].words
    assert some == tuple(everything[word] for word in named)
    assert client.fill("bert", ["a [MASK] bird"], k=1, targets=named)[0].words == some[:1]
    assert [word.word for word in client.fill("mean", ["a red [MASK]"], targets=["Owl"])[0].words] == ["owl"]
    for encoder, word in (("bert", "unheardof"), ("bert", ""), ("gpt2", "a bird"), ("mean", "unheardof")):
        with pytest.raises(topwork.InvalidInput, match="no entry of the vocabulary"):
            client.fill(encoder, ["a red [MASK]"], targets=["bird", word])


def test_both_clients_fill_any_number_of_texts_in_order(both: EitherClient) -> None:
    alone = [both.fill("bert", text, k=2)[0] for text in TEXTS]
    many = both.fill("bert", TEXTS * 30, k=2, taps=["pooled"])
    assert [text.item for text in many] == TEXTS * 30
    for i, text in enumerate(many):
        assert [word.entry for word in text.words] == [word.entry for word in alone[i % len(TEXTS)].words]
    assert many.features["pooled"].items.tolist() == list(range(30 * len(TEXTS)))
    assert alone[0].filled == f"A small {alone[0].words[0].word} sings."


def test_texts_may_come_from_an_asynchronous_source(target: str, runner: asyncio.Runner) -> None:
    async def texts() -> AsyncIterator[str]:
        for text in TEXTS * 30:
            yield text

    async def fill() -> topwork.Fills:
        async with topwork.AsyncClient(target) as client:
            first, second = await asyncio.gather(client.fill("bert", texts(), k=1), client.fill("bert", TEXTS, k=1))
            assert [text.words for text in first[: len(TEXTS)]] == [text.words for text in second]
            return first

    assert [text.item for text in runner.run(fill())] == TEXTS * 30


def test_features_come_out_of_the_same_pass(client: topwork.Client) -> None:
    client.embed("roberta", "a bird")
    before = client.encoder("roberta").counters["batches"]
    found = client.fill("roberta", ["A small [MASK] sings."], taps=["pooled", "tokens"])
    assert client.encoder("roberta").counters["batches"] == before + 1
    expected = client.embed_taps("roberta", ["A small <mask> sings."], ["pooled", "tokens"])
    for tap, features in expected.items():
        np.testing.assert_allclose(found.features[tap].rows, features.rows, atol=1e-6)
        assert found.features[tap].fingerprint == features.fingerprint
    np.testing.assert_array_equal(found.features["tokens"].spans, expected["tokens"].spans)  # both masks have six characters


def test_the_own_mask_may_be_written_and_a_pair_has_gaps_too(client: topwork.Client) -> None:
    own, general = client.fill("roberta", ["a <mask> bird", "a [MASK] bird"])
    assert own.words == general.words
    assert own.filled == general.filled
    [pair] = client.fill("bert", [("a [MASK] bird", "no, two [MASK]")])
    assert [(gap.part, gap.start, gap.end) for gap in pair.gaps] == [(0, 2, 8), (1, 8, 14)]
    assert isinstance(pair.filled, tuple)
    assert "[MASK]" not in "".join(pair.filled)


BAD: dict[str, tuple[dict[str, Any], int | None, str]] = {
    "no gap": ({"items": ["a [MASK]", "none"]}, 1, "write [MASK]"),
    "too many": ({"items": ["[MASK] " * 1000]}, 0, "1,000 gaps"),
    "cut off": ({"items": ["bird " * 200 + "[MASK]"], "options": {"truncate": True}}, 0, "cut off"),
    "too long": ({"items": ["[MASK] " + "bird " * 200]}, 0, "the limit is 96"),
    "more words than there are": ({"items": ["[MASK]"], "k": 900}, None, "at most 300"),
    "more words than a reply has": ({"items": ["[MASK]"], "k": 1001}, None, "at most 1000"),
    "no word": ({"items": ["a [MASK]"], "k": 0}, None, "k is 0"),
    "no texts": ({"items": []}, None, "no items"),
    "a picture": ({"items": [np.zeros((4, 4, 3), np.uint8)]}, 0, "array"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_filled_is_refused_with_its_place(what: str, client: topwork.Client) -> None:
    asked, item, word = BAD[what]
    with pytest.raises(topwork.InvalidInput) as caught:
        client.fill("bert", **asked)
    assert caught.value.item == item
    assert word in str(caught.value)


def test_a_picture_on_the_wire_is_refused(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match="an image") as caught:
        _filled(client, types_pb2.Item(image=b"png"))
    assert caught.value.item == 0


def test_the_prompt_of_a_role_goes_before_the_text(client: topwork.Client) -> None:
    def entries(**settings: Any) -> list[int]:
        [result] = _filled(client, types_pb2.Item(text="a [MASK] bird"), **settings).results
        [gap] = result.gaps
        assert (gap.start, gap.end) == (2, 8)
        return [word.entry for word in gap.words]

    prompted = client.fill("bert", ["a [MASK] bird"], options={"prompt": "the blue: "})[0].words
    assert entries(role=encoders_pb2.ROLE_QUERY) == [word.entry for word in prompted]
    assert entries(role=encoders_pb2.ROLE_DOCUMENT) == entries() != entries(role=encoders_pb2.ROLE_QUERY)
    with pytest.raises(topwork.InvalidInput, match="role query and the option prompt"):
        entries(role=encoders_pb2.ROLE_QUERY, options={"prompt": "another: "})


def _filled(client: topwork.Client, item: types_pb2.Item, **settings: Any) -> Any:
    """The reply to a request that no client makes."""

    def steps() -> Any:
        request = encoders_pb2.FillRequest(settings={"encoder": "bert", **settings}, items=[item])
        return (yield from unary(FILL, request, None))

    return client._run(steps())


def test_an_encoder_without_such_a_head_says_what_to_do(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match="mpnet has no head that fills gaps") as caught:
        client.fill("mpnet", ["a [MASK]"])
    assert "ForMaskedLM" in caught.value.remedy
    with pytest.raises(topwork.InvalidInput, match="no head") as caught:
        client.fill("input-only", ["a [MASK]"])
    assert "NAME.output.txt" in caught.value.remedy
    with pytest.raises(topwork.NotFound):
        client.fill("nobody", ["a [MASK]"])


def test_bad_texts_may_be_skipped(client: topwork.Client) -> None:
    texts = ["none", "a [MASK]", "bird " * 200 + "[MASK]", "[MASK] bird"]
    found = client.fill("bert", texts, skip_bad_items=True, taps=["pooled"])
    assert sorted(found.failures) == [0, 2]
    assert [len(text.gaps) for text in found] == [0, 1, 0, 1]
    assert found[0].words == ()
    assert found.features["pooled"].items.tolist() == [1, 3]
    assert found[3].words == client.fill("bert", ["[MASK] bird"])[0].words


def test_a_gap_whose_scores_overflow_is_named_and_the_others_are_filled(client: topwork.Client) -> None:
    texts = ["owl [MASK]", "red [MASK]"]
    with pytest.raises(topwork.InvalidInput, match="not finite") as caught:
        client.fill("huge", texts, k=2)
    assert (caught.value.item, bool(caught.value.remedy)) == (1, True)
    fills = client.fill("huge", texts, k=2, skip_bad_items=True)
    assert [*fills.failures] == [1]
    assert np.isfinite([word.probability for word in fills[0].words]).all()


def test_what_fails_after_its_pass_has_no_rows(client: topwork.Client) -> None:
    texts = ["bird " * 200 + "[MASK]", "a [MASK]", "none"]
    found = client.fill("bert", texts, skip_bad_items=True, taps=["pooled", "tokens"], options={"truncate": True})
    assert sorted(found.failures) == [0, 2]
    assert found.features["pooled"].items.tolist() == [1]
    assert set(found.features["tokens"].items.tolist()) == {1}
    nothing = client.fill("bert", ["none", "nor here"], skip_bad_items=True, taps=["tokens"])
    assert len(nothing.failures) == 2
    assert len(nothing.features["tokens"].rows) == 0


def test_the_head_is_listed_and_is_no_predictor(client: topwork.Client) -> None:
    assert client.encoder("bert").heads == ("mlm",)
    assert client.encoder("mpnet").heads == ()
    head = client.head("bert/mlm")
    assert (head.task, head.tap, head.pooling, head.chosen) == ("fill", "tokens", "mask", {"words": 300})
    with pytest.raises(topwork.InvalidInput, match=r"fill\('bert'\)"):
        client.predict("bert/mlm", ["a [MASK]"])
    with pytest.raises(topwork.InvalidInput, match="call `fill`"):
        client.export_head("bert/mlm", "never.onnx")


def test_a_deadline_holds(client: topwork.Client) -> None:
    with pytest.raises(topwork.DeadlineExceeded):
        client.fill("bert", TEXTS, timeout=1e-6)


def test_the_command_line(target: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = tmp_path / "cloze.txt"
    lines.write_text("a [MASK] bird\nno gap\n[MASK] and [MASK]\n")
    asked = ["fill", "bert", "--from", str(lines), "-k", "2", "--skip-bad-items", "--server", target]
    assert cli.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["encoder"], found["head"]) == ("bert", "mlm")
    assert [len(text["gaps"]) for text in found["texts"]] == [1, 0, 2]
    assert "no gap" in found["texts"][1]["error"]
    word = found["texts"][0]["gaps"][0]["words"][0]
    assert cli.main(asked) == 0
    printed = capsys.readouterr()
    assert f"{word['probability']:.3f}  {word['word']}" in printed.out
    assert "gap 2, after '[MASK] and'" in printed.out
    assert "skipped 'no gap'" in printed.err
    assert cli.main(["fill", "bert", "no gap", "--server", target]) == 1
    assert "write [MASK]" in capsys.readouterr().err
