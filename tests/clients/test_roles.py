"""Queries and documents that an encoder prompts in different ways: nobody says which is which."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import real_server
import topwork
import toys
from topwork_server import Role

ROLES = {Role.DOCUMENT: {"case": "lower"}, Role.QUERY: {"case": "keep", "repeat": 3}}


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[topwork.Client]:
    monkeypatch.setattr(toys.Letters, "role_options", lambda self, role, options: {**options, **ROLES[role]})
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
