"""Searches of sets without an index: exact, marked as such, and with a hint where an index pays. And the pages of a search."""

from __future__ import annotations

import json

import numpy as np
import pytest
import topwork
from topwork.cli import main
from topwork.cli import search as _cli_search

ROWS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
IDS = [f"i{number}" for number in range(30)]


@pytest.fixture
def client(real_client: topwork.Client) -> topwork.Client:
    real_client.write("plain", vectors=ROWS, ids=IDS, metadata={"n": range(30)})
    return real_client


def nearest(query: np.ndarray, metric: str = "cosine") -> list[str]:
    if metric == "l2":
        return [IDS[i] for i in np.argsort(np.linalg.norm(ROWS - query, axis=1))]
    rows = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True) if metric == "cosine" else ROWS
    return [IDS[i] for i in np.argsort(-rows @ query)]


def test_a_set_without_an_index_is_searched_exactly(client: topwork.Client) -> None:
    found = client.search("plain", vectors=ROWS[3], k=5)
    assert found.ids == nearest(ROWS[3])[:5]
    assert (found.unindexed, found.rows_compared, found.strategy, found.metric) == (True, 30, "exact", "cosine")
    for metric in ("l2", "inner_product"):
        assert client.search("plain", vectors=ROWS[3], k=5, metric=metric).ids == nearest(ROWS[3], metric)[:5]
    several = client.search("plain", stored=["i1", "i2"], k=3, where="n < 10", columns=["n"])
    assert [hits.ids for hits in several] == [
        [id for id in nearest(ROWS[at]) if int(id[1:]) < 10 and int(id[1:]) != at][:3] for at in (1, 2)
    ]
    assert several[0].strategy == "exact over 10 matches"
    client.write("plain", vectors=ROWS[3:4], ids=["new"])
    assert set(client.search("plain", vectors=ROWS[3], k=2).ids) == {"i3", "new"}
    client.delete("plain", ["i3"])
    assert client.search("plain", vectors=ROWS[3], k=1, index="vectors").ids == ["new"]


def test_with_an_index_it_is_the_index_that_answers(client: topwork.Client) -> None:
    client.create_index("plain", kind="flat", metric="l2")
    found = client.search("plain", vectors=ROWS[3], k=5)
    assert (found.ids, found.metric, found.unindexed, found.rows_compared) == (nearest(ROWS[3], "l2")[:5], "l2", False, 0)
    with pytest.raises(topwork.InvalidInput, match="is of the metric l2, not cosine"):
        client.search("plain", vectors=ROWS[3], metric="cosine")
    client.drop_index("plain", "vectors")
    assert client.search("plain", vectors=ROWS[3], k=5).unindexed


def test_what_is_not_there_is_not_found(client: topwork.Client) -> None:
    with pytest.raises(topwork.NotFound, match="no index named 'vektors'"):
        client.search("plain", vectors=ROWS[3], index="vektors")
    with pytest.raises(topwork.NotFound, match="plane"):
        client.search("plane", vectors=ROWS[3])
    with pytest.raises(topwork.NotFound, match="has no index"):
        client.index("plain")


@pytest.mark.parametrize("indexed", [False, True])
def test_pages_of_a_search_are_one_search(client: topwork.Client, indexed: bool) -> None:
    if indexed:
        client.create_index("plain", kind="flat")
    whole = client.search("plain", vectors=ROWS[:2], k=30)
    for start in (0, 7, 28, 40):
        pages = client.search("plain", vectors=ROWS[:2], k=7, offset=start, columns=["n"])
        for page, hits in zip(pages, whole, strict=True):
            assert page.ids == hits.ids[start : start + 7]
            np.testing.assert_array_equal(page.scores, hits.scores[start : start + 7])
            assert page.metadata["n"] == [int(id[1:]) for id in page.ids]
    within = float(whole[0].scores[9])
    assert client.search("plain", vectors=ROWS[0], k=5, offset=8, within=within).ids == whole[0].ids[8:10]
    with pytest.raises(topwork.InvalidInput, match=r"k = 10 behind 9991 others .ask for at most 10000"):
        client.search("plain", vectors=ROWS[0], k=10, offset=9991)


def test_the_command_line_says_so(
    client: topwork.Client, real_target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ["search", "plain", "--server", real_target, "--id", "i1"]
    assert main(search) == 0
    captured = capsys.readouterr()
    assert "exact, no index" in captured.out
    assert "topwork index" not in captured.out + captured.err
    monkeypatch.setattr(_cli_search, "PAYS", 30)
    assert main(search) == 0
    assert "30 rows were read and compared: `topwork index plain` makes" in capsys.readouterr().err.replace("\n", " ")
    assert main([*search, "--json", "-k", "2", "--offset", "1", "--metric", "l2"]) == 0
    (reply,) = json.loads(capsys.readouterr().out)
    assert (reply["unindexed"], reply["metric"]) == (True, "l2")
    assert [hit["id"] for hit in reply["hits"]] == [id for id in nearest(ROWS[1], "l2") if id != "i1"][1:3]


def test_an_encoder_that_is_named_beside_ready_vectors_is_not_ignored(client: topwork.Client) -> None:
    for query in ({"vectors": ROWS[3]}, {"stored": "i3"}):
        with pytest.raises(topwork.NotFound, match="nobody"):
            client.search("plain", encoder="nobody", **query)


def test_a_search_of_vectors_that_is_late_does_not_speak_of_encoders(client: topwork.Client) -> None:
    with pytest.raises(topwork.DeadlineExceeded) as late:
        client.search("plain", vectors=ROWS[3], timeout=1e-9)
    assert late.value.remedy == "pass a longer `timeout`"
    with pytest.raises(topwork.DeadlineExceeded) as late:
        client.search("plain", stored="i3", timeout=1e-9)
    assert "encoder" not in str(late.value)
