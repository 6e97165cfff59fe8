"""An index that is measured on its caller's own queries, which are unlike the rows of its set."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import topwork
from topwork.cli import main

DIM = 16
KINDS = {"kind": "ivf", "target_recall": 0.95}


@pytest.fixture
def client(real_client: topwork.Client) -> topwork.Client:
    return real_client


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Rows close about 64 centers, and queries that are between them: a row's neighbors are of its list, a query's of many."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(64, DIM))
    rows = centers[np.repeat(np.arange(64), 48)] + 0.05 * random.normal(size=(64 * 48, DIM))
    return rows.astype(np.float32), random.normal(size=(200, DIM)).astype(np.float32)


def recall(client: topwork.Client, queries: np.ndarray, index: str) -> float:
    """Of what it answers now, against exact search."""
    found = client.search("noisy", vectors=queries, index=index, columns=[])
    right = client.search("noisy", vectors=queries, index=index, columns=[], exact=True)
    return float(np.mean([len({*one.ids} & {*other.ids}) / 10 for one, other in zip(found, right, strict=True)]))


def test_recall_on_the_callers_queries_is_what_they_get(client: topwork.Client) -> None:
    rows, queries = clusters()
    client.write("noisy", vectors=rows, ids=range(len(rows)))
    of_rows = client.create_index("noisy", name="of-rows", **KINDS)
    own = client.create_index("noisy", name="own", queries=queries, **KINDS)
    assert (of_rows.own_queries, own.own_queries, own.held_out) == (False, True, 200)
    assert own.recall >= 0.95
    assert own.effort > of_rows.effort
    live = np.random.default_rng(1).normal(size=(100, DIM)).astype(np.float32)
    assert recall(client, live, "own") > max(0.9, recall(client, live, "of-rows"))
    until = time.monotonic() + 60
    while not (found := client.index("noisy", "own")).live_recall and time.monotonic() < until:
        pass
    (live_recall,) = found.live_recall
    assert (live_recall.filtered, live_recall.searches) == (False, 1)
    assert live_recall.recall > 0.5
    again = client.rebuild_index("noisy", "own")
    assert again.live_recall == ()
    assert (again.own_queries, again.effort) == (True, own.effort)
    assert client.index("noisy", "own").rows == len(rows)


def test_queries_may_be_items_and_bad_ones_are_refused(
    client: topwork.Client, real_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"text {number}" for number in range(60)]
    client.write("texts", texts, texts, encoder="letters")
    info = client.create_index("texts", queries=["an owl", "a wren"], kind="flat")
    assert (info.own_queries, info.held_out) == (True, 2)
    for queries, error, words in (
        (np.ones((3, 5), np.float32), topwork.InvalidInput, "shape"),
        (np.zeros((1, info.dim), np.float32), topwork.InvalidInput, "zeros"),
        ([], topwork.InvalidInput, "no queries"),
        (client.embed("second", ["an owl"]), topwork.NotReady, "fingerprint"),
    ):
        with pytest.raises(error, match=words):
            client.create_index("texts", name="other", queries=queries)
    assert [index.name for index in client.indexes("texts")] == [info.name]
    (tmp_path / "queries.txt").write_text("an owl\na kite\na wren\n")
    arguments = ["index", "texts", "--name", "sampled", "--kind", "flat", "--server", real_target]
    assert main([*arguments, "--queries", str(tmp_path / "queries.txt")]) == 0
    np.save(tmp_path / "queries.npy", client.embed("letters", ["an owl"]).rows)
    by_rows = ["index", "texts", "--name", "rows", "--kind", "flat", "--server", real_target]
    assert main([*by_rows, "--queries", str(tmp_path / "queries.npy")]) == 0
    assert [(index.name, index.held_out) for index in client.indexes("texts") if index.own_queries] == [
        (info.name, 2),
        ("rows", 1),
        ("sampled", 3),
    ]
    capsys.readouterr()
    assert main(["indexes", "texts", "sampled", "--server", real_target]) == 0
    assert "3 queries of your own" in capsys.readouterr().out
