"""Queries and documents that an encoder prompts in different ways."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import real_server
import topwork
import toys
from topwork_server import Prompt, Role

ROLES = {Role.DOCUMENT: {"case": "lower"}, Role.QUERY: {"case": "keep", "repeat": 3}}


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[topwork.Client]:
    prompts = [Prompt("ask", "Q: ", Role.QUERY), Prompt("title", "T: ", default=True)]
    monkeypatch.setattr(toys.Letters, "role_options", lambda self, role, options: {**options, **ROLES[role]})
    monkeypatch.setattr(toys.Letters, "prompts", classmethod(lambda cls, folder: prompts if folder.is_dir() else []))
    with real_server.with_toys(tmp_path_factory) as address, topwork.Client(address) as client:
        yield client


def test_what_is_written_is_a_document_and_what_searches_a_query(client: topwork.Client) -> None:
    client.write("roles", ["ABBA", "Xyz"], ids=["one", "two"], encoder="letters")
    assert client.set("roles").options == {"case": "lower", "repeat": 1}
    stored = client.read("roles").features["mean"].rows
    np.testing.assert_allclose(stored, client.embed("letters", ["abba", "xyz"]).rows, atol=1e-6)
    query = client.embed("letters", ["AX"], options={"case": "keep", "repeat": 3}).rows[0]
    expected = stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
    [hits] = client.search("roles", ["AX"], k=2)
    assert sorted(zip(hits.ids, hits.scores, strict=True)) == [
        ("one", pytest.approx(expected[0], abs=1e-5)),
        ("two", pytest.approx(expected[1], abs=1e-5)),
    ]


def test_options_that_a_later_write_repeats_are_those_of_the_set(client: topwork.Client) -> None:
    client.write("again", ["AB"], ids=["one"], encoder="letters", options={"repeat": 2})
    client.write("again", ["CD"], ids=["two"], options={"repeat": 2})
    with pytest.raises(topwork.NotReady, match="repeat"):
        client.write("again", ["EF"], ids=["three"], options={"repeat": 4})


def test_a_request_may_say_what_its_items_are_for(client: topwork.Client) -> None:
    """The same rows as of the options that the encoder has for the role; what the caller sets beside it stays."""
    plain = {role.value: client.embed("letters", ["AbC"], options=ROLES[role]).rows for role in Role}
    np.testing.assert_array_equal(client.embed("letters", ["AbC"], role="document").rows, plain["document"])
    for found in client.embed_stream("letters", ["AbC"], role="query", options={"repeat": 3}):
        np.testing.assert_array_equal(found.rows, plain["query"])
    twice = client.embed_taps("letters", ["AbC"], ["letters"], role="document", options={"repeat": 2})["letters"]
    assert twice.counts.tolist() == [6]
    assert not np.array_equal(plain["query"], plain["document"])


def test_an_option_against_the_role_is_refused(client: topwork.Client) -> None:
    with pytest.raises(topwork.InvalidInput, match=r"role query.*repeat.*contradict"):
        client.embed("letters", ["a"], role="query", options={"repeat": 2})
    client.embed("letters", ["a"], role="query", options={"repeat": 1})  # the default is no choice


def test_options_for_queries_are_refused_in_a_write(client: topwork.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {Role.DOCUMENT: {"repeat": 1}, Role.QUERY: {"repeat": 3}}
    monkeypatch.setattr(toys.Letters, "role_options", lambda self, role, options: {**options, **roles[role]})
    with pytest.raises(topwork.InvalidInput, match=r"document.*repeat"):
        client.write("wrong", ["AB"], ids=["one"], encoder="letters", options={"repeat": 3})
    assert "wrong" not in [found.name for found in client.sets()]


def test_the_catalog_tells_prompts_and_their_roles(client: topwork.Client) -> None:
    assert client.encoder("letters").prompts == (
        topwork.PromptInfo("ask", "Q: ", role="query"),
        topwork.PromptInfo("title", "T: ", default=True),
    )


def test_prompts_that_cannot_be_read_hide_no_encoder(client: topwork.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(cls: type, folder: object) -> None:
        raise ValueError("not JSON")

    monkeypatch.setattr(toys.Letters, "prompts", classmethod(damaged))
    assert [found.prompts for found in client.encoders() if found.name == "letters"] == [()]
