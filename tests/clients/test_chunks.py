"""Late chunking: texts that are encoded whole, with a row for each chunk; by a client and a real server, on a toy encoder and
on a tiny BERT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import http_calls
import numpy as np
import pytest
import real_server
import tiny_berts
import topwork
import toys
from cli_command import Command
from topwork_plugins.bert.plugin import BertEncoder
from topwork_server import ChunkOptions, EncoderSpec, Modality
from topwork_server.app import ReadyMessage
from topwork_server.models import artifacts
from topwork_server.runtime.export import export_encoder

TEXT = "The red bird sings. It flies, e.g. over Dr. Owl's house! Is it far?"
SENTENCES = ["The red bird sings.", "It flies, e.g. over Dr. Owl's house!", "Is it far?"]


@dataclass(frozen=True)
class ChunkedLetterOptions(toys.LetterOptions, ChunkOptions):
    pass


class ChunkedLetters(toys.Letters):
    """Letters, whose texts may be embedded by chunks; a row a letter."""

    options = ChunkedLetterOptions


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadyMessage]:
    """What a server says of itself that has the toy, a BERT of a few numbers, and an encoder without chunks."""
    folder = tmp_path_factory.mktemp("chunks")
    weights, home = tiny_berts.write(folder / "model"), folder / "home"
    bert = EncoderSpec("bert", BertEncoder, f"file:{weights}", Modality.TEXT)
    plugins = real_server.ToyEncoders()
    plugins.specs = [toys.letters_spec("pieces", ChunkedLetters), toys.letters_spec("letters"), bert]
    for spec in plugins.specs:
        artifacts.publish(home, spec, lambda scratch, spec=spec: export_encoder(spec, weights, scratch))  # type: ignore[misc]
    with real_server.started(home, plugins, http="127.0.0.1:0") as ready:
        yield ready


@pytest.fixture(scope="module")
def client(server: ReadyMessage) -> Iterator[topwork.Client]:
    with topwork.Client(server.address) as client:
        yield client


def means(tokens: topwork.Features, item: int, ranges: Sequence[tuple[int, int]]) -> Any:
    """The reference: the mean of the token rows that share a character with each range."""
    assert tokens.spans is not None
    rows, spans = tokens.of(item), tokens.spans[tokens.items == item]
    return np.stack([rows[(spans[:, 0] < end) & (spans[:, 1] > start)].mean(axis=0) for start, end in ranges])


def ranges_of(found: topwork.Features, item: int = 0) -> list[tuple[int, int]]:
    assert found.spans is not None
    return [(int(start), int(end)) for start, end in found.spans[found.items == item]]


@pytest.mark.parametrize("encoder", ["pieces", "bert"])
def test_chunks_are_means_of_the_token_rows_and_tell_their_characters(client: topwork.Client, encoder: str) -> None:
    texts = [TEXT, "One.", "The cat. The dog sees it!"]
    found = client.embed(encoder, texts, tap="chunks")
    tokens = client.embed(encoder, texts, tap="letters" if encoder == "pieces" else "tokens")
    assert (found.granularity, found.span_kind, found.counts.tolist()) == ("chunk", "characters", [3, 1, 2])
    assert [TEXT[start:end] for start, end in ranges_of(found)] == SENTENCES
    for item in range(3):
        np.testing.assert_allclose(found.of(item), means(tokens, item, ranges_of(found, item)), atol=1e-6)
    assert found.fingerprint != tokens.fingerprint
    assert client.encoder(encoder).tap("chunks").fingerprint == found.fingerprint
    for item, text in enumerate(texts):  # alone as in a batch
        np.testing.assert_allclose(client.embed(encoder, [text], tap="chunks").rows, found.of(item), atol=1e-6)


def test_chunks_of_a_number_of_tokens_and_of_the_whole_text(client: topwork.Client) -> None:
    tokens = client.embed("bert", [TEXT], tap="tokens")
    by_four = client.embed("bert", [TEXT], tap="chunks", options={"chunk_by": "tokens", "chunk_tokens": 4})
    expected = [tokens.rows[at : at + 4].mean(axis=0) for at in range(0, len(tokens), 4)]
    np.testing.assert_allclose(by_four.rows, expected, atol=1e-6)
    assert tokens.spans is not None
    assert ranges_of(by_four)[0] == (int(tokens.spans[0, 0]), int(tokens.spans[3, 1]))
    [whole] = client.embed("bert", [TEXT], tap="chunks", options={"chunk_by": "text"}).rows
    np.testing.assert_allclose(whole, tokens.rows.mean(axis=0), atol=1e-6)


def test_chunks_that_are_given_may_overlap_leave_gaps_and_cut_words_and_emoji(client: topwork.Client) -> None:
    text = "Nai\u0308ve 👩‍🚀 bird 漢字 sings"
    ranges = [(7, 15), (0, 3), (0, len(text)), (2, 12), (16, 17)]
    given = topwork.DividedText(text, ranges)
    found = client.embed("bert", [given], tap="chunks")
    assert ranges_of(found) == ranges
    np.testing.assert_allclose(found.rows, means(client.embed("bert", [text], tap="tokens"), 0, ranges), atol=1e-6)


WRONG: list[tuple[Any, str]] = [
    (topwork.DividedText("a bird", [(2, 2)]), "empty"),
    (topwork.DividedText("a bird", [(3, 2)]), "no range"),
    (topwork.DividedText("a bird", [(0, 2), (0, 7)]), "chunk 1 .* no range"),
    (topwork.DividedText("a bird", [(1, 2)]), "no token"),
    (topwork.DividedText("a bird", []), "no chunks"),
    (topwork.DividedText("a bird", [(-1, 2)]), "whole numbers"),
    (topwork.DividedText("a bird", [(1,)]), "whole numbers"),  # type: ignore[list-item]
    (("a bird", "a cat"), "single text"),
    ("", "empty"),
    (" \n", "empty"),
]


@pytest.mark.parametrize(("item", "word"), WRONG)
def test_what_cannot_be_divided_is_refused_by_name_or_skipped(client: topwork.Client, item: Any, word: str) -> None:
    with pytest.raises(topwork.InvalidInput, match=word) as caught:
        client.embed("bert", ["a bird", item], tap="chunks")
    assert caught.value.item == 1
    found = client.embed("bert", ["a bird", item, "a cat. a dog."], tap="chunks", skip_bad_items=True)
    assert (found.counts.tolist(), list(found.failures)) == ([1, 0, 1], [1])


@pytest.mark.parametrize(
    ("item", "settings", "word"),
    [
        ("a", {"tap": "pooled", "options": {"chunk_by": "tokens"}}, "without the tap chunks"),
        ("a", {"tap": "chunks", "options": {"chunk_tokens": 4}}, "chunk_tokens does nothing"),
        ("a", {"tap": "chunks", "options": {"chunk_by": "tokens", "chunk_tokens": 0}}, "chunk_tokens"),
        ("a", {"tap": "chunks", "options": {"chunk_by": "words"}}, "chunk_by"),
        (topwork.DividedText("a bird", [(0, 1)]), {"tap": "tokens"}, "without the tap chunks"),
    ],
)
def test_a_division_that_does_nothing_is_refused(client: topwork.Client, item: Any, settings: Any, word: str) -> None:
    with pytest.raises(topwork.InvalidInput, match=word):
        client.embed("bert", [item], **settings)


def test_encoders_without_these_options_have_no_chunks(client: topwork.Client) -> None:
    with pytest.raises(topwork.NotFound, match="chunks"):
        client.embed("letters", ["a"], tap="chunks")
    assert "chunks" not in [tap.name for tap in client.encoder("letters").taps]


def test_a_text_over_the_limit_goes_in_windows_and_truncate_still_cuts_it(client: topwork.Client) -> None:
    text = " ".join(f"The bird {word}." for word in ("sings", "flies", "sees") * 40)
    with pytest.raises(topwork.InvalidInput, match="limit"):
        client.embed("bert", [text], tap="tokens")
    with pytest.raises(topwork.InvalidInput, match="limit"):
        client.embed_taps("bert", [text], ["chunks", "pooled"])
    found = client.embed("bert", [text], tap="chunks")
    assert found.counts.tolist() == [120]
    assert [text[start:end] for start, end in ranges_of(found)] == [f"{part}." for part in text[:-1].split(". ")]
    cut = client.embed("bert", [text], tap="chunks", options={"truncate": True})
    assert 0 < cut.counts[0] < 120
    assert cut.notes[0]["truncated_tokens"] > 0
    np.testing.assert_allclose(cut.rows[:1], found.rows[:1], atol=0.2)  # the same but for what stands behind the window


def test_a_set_remembers_its_chunks_and_hits_tell_the_passage(client: topwork.Client) -> None:
    options = {"chunk_by": "tokens", "chunk_tokens": 6}
    texts = ["the red bird sings over the hill and the cat sees it", "the dog"]
    client.write("passages", texts, ids=["long", "short"], encoder="bert", taps=["chunks"], options=options, keep_inputs=True)
    assert client.set("passages").options["chunk_tokens"] == 6
    assert client.write("passages", texts, ids=["long", "short"]).unchanged == 2
    stored = client.read("passages").features["chunks"]
    np.testing.assert_allclose(stored.rows, client.embed("bert", texts, tap="chunks", options=options).rows, atol=1e-6)
    with pytest.raises(topwork.NotReady, match="chunk_tokens"):
        client.write("passages", ["a"], ids=["other"], options={"chunk_by": "tokens", "chunk_tokens": 7})
    query = "the cat sees a bird and sings, and the dog is over the hill"  # of more tokens than a chunk: one row all the same
    [row] = client.embed("bert", [query], tap="chunks", options={"chunk_by": "text"}).rows
    [hits] = client.search("passages", [query], k=9, every_row=True)
    unit = stored.rows / np.linalg.norm(stored.rows, axis=1, keepdims=True)
    expected = unit @ (row / np.linalg.norm(row))
    assert len(hits) == len(expected)
    best = int(expected.argmax())
    assert hits[0].score == pytest.approx(expected[best], abs=1e-5)
    assert stored.spans is not None
    assert hits[0].span == tuple(stored.spans[best])


def test_sets_without_chunks_and_other_taps_beside_them_are_searched_by_texts(client: topwork.Client) -> None:
    texts, by_tokens = ["the red bird sings", "the dog"], {"chunk_by": "tokens", "chunk_tokens": 6}
    client.write("plain", texts, ids=["bird", "dog"], encoder="bert")
    assert client.search("plain", ["the dog"], k=1)[0].ids == ["dog"]
    client.write("both", texts, ids=["bird", "dog"], encoder="bert", taps=["pooled", "chunks"], options=by_tokens)
    for tap in ("pooled", "chunks"):
        client.create_index("both", tap=tap)
        assert client.search("both", ["the dog"], k=1, index=tap)[0].ids == ["dog"]


def test_given_chunks_are_part_of_what_is_written(client: topwork.Client) -> None:
    text = "the bird sings and the cat sees it"
    first, second = topwork.DividedText(text, [(0, 14), (15, 34)]), topwork.DividedText(text, [(0, 34)])
    client.write("given", [first], ids=["one"], encoder="bert", taps=["chunks"])
    assert client.write("given", [first], ids=["one"]).unchanged == 1
    report = client.write("given", [second], ids=["one"])
    assert (report.unchanged, report.encoded) == (0, 1)
    assert ranges_of(client.read("given").features["chunks"]) == [(0, 34)]


async def posted(http: str, body: dict[str, Any]) -> Any:
    return await http_calls.post(http, "/v1/embeddings", {"model": "bert", **body})


async def test_late_chunking_of_jina_joins_inputs_and_gives_each_its_row(server: ReadyMessage, client: topwork.Client) -> None:
    inputs = ["The red bird sings.", "It flies", "over the hill."]
    reply = await posted(server.http, {"input": inputs, "late_chunking": True, "normalized": False})
    ranges = [(0, 19), (20, 28), (29, 43)]
    expected = client.embed("bert", [topwork.DividedText(" ".join(inputs), ranges)], tap="chunks")
    np.testing.assert_allclose([one["embedding"] for one in reply.json["data"]], expected.rows, atol=1e-6)
    assert [one["index"] for one in reply.json["data"]] == [0, 1, 2]
    apart = await posted(server.http, {"input": inputs, "tap": "mean", "normalized": False})
    assert np.abs(np.array(apart.json["data"][1]["embedding"]) - expected.rows[1]).max() > 0.01
    long = await posted(server.http, {"input": [{"text": "The bird flies."}] * 200, "late_chunking": True})
    assert len(long.json["data"]) == 200  # in windows


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"input": ["a bird", " "]}, "item 1.*empty"),
        ({"input": [[5, 6]]}, "item 0.*no text"),
        ({"input": ["a"], "tap": "pooled"}, "chunks"),
        ({"input": ["a"], "model": "letters"}, "chunks"),
        ({"input": ["bird " * 200, "cat"], "truncate": True}, "chunk 1 .*truncate"),
    ],
)
async def test_what_late_chunking_cannot_join_is_refused(server: ReadyMessage, fields: dict[str, Any], word: str) -> None:
    reply = await posted(server.http, {"late_chunking": True, **fields})
    assert reply.status in (400, 404)
    assert re.search(word, reply.json["error"]["message"])


def test_the_command_line_shows_the_characters_of_a_hit(
    server: ReadyMessage, client: topwork.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.write("shown", [TEXT], ids=["one"], encoder="bert", taps=["chunks"])
    run = Command(server.address, capsys)
    assert run("search", "shown", "The red bird sings.") == 0
    assert "characters" in run.stdout
    [found] = run.json("search", "shown", "The red bird sings.")
    [hit] = found["hits"]
    assert hit["id"] == "one"
    assert tuple(hit["span"]) in [(TEXT.index(one), TEXT.index(one) + len(one)) for one in SENTENCES]


def test_heads_learn_from_chunks_and_are_served_but_not_exported_or_tuned(client: topwork.Client, tmp_path: Path) -> None:
    texts = [f"The {'red bird sings' if number % 2 else 'cat sees it'}. It is {number}." for number in range(24)]
    kinds = {"kind": ["bird" if number % 2 else "cat" for number in range(24)]}
    settings: Any = {"encoder": "bert", "taps": ["chunks"], "keep_inputs": True}
    client.write("learn", texts, ids=range(24), metadata=kinds, **settings)
    client.train("learn", target="kind", name="kinds")
    long = "The red bird sings. " * 60  # over the limit
    assert client.predict("kinds", [texts[1], texts[2], long]).labels == ["bird", "cat", "bird"]
    with pytest.raises(topwork.InvalidInput, match="chunks"):
        client.export_head("kinds", tmp_path / "kinds.onnx")
    with pytest.raises(topwork.InvalidInput, match="chunks"):
        client.train("learn", target="kind", name="tuned", kind="fine-tune")
