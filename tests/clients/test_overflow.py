"""Vectors whose squares or scores float32 does not hold, through the client and a real server."""

from __future__ import annotations

import numpy as np
import pytest
import topwork

ROWS = np.random.default_rng(0).normal(size=(45, 6)).astype(np.float32)
HUGE = np.array([1e38, -1e38, 3e38, 1e38, -3e38, 2e38], np.float32)
#: The same direction, of a usual length.
USUAL = HUGE / np.float32(1e38)


@pytest.fixture
def client(real_client: topwork.Client) -> topwork.Client:
    labels = [{"label": "abc"[i % 3], "tags": ["x", "abc"[i % 3]], "sum": float(row.sum())} for i, row in enumerate(ROWS)]
    real_client.write("rows", vectors=ROWS, ids=[f"r{i}" for i in range(len(ROWS))], metadata=labels)
    return real_client


def test_an_item_whose_scores_overflow_is_named_and_the_others_are_served(client: topwork.Client) -> None:
    head = client.train("rows", target="sum", kind="linear", folds=2)
    queries = np.stack([ROWS[0], np.full(6, -3e38, np.float32), HUGE, ROWS[1]])
    with pytest.raises(topwork.InvalidInput, match="not finite") as caught:
        client.predict(head.name, vectors=queries)
    assert (caught.value.item, bool(caught.value.remedy)) == (1, True)
    found = client.predict(head.name, vectors=queries, skip_bad_items=True)
    assert found.values is not None
    assert next(iter(found.failures)) == 1
    assert np.isnan(found.values[[*found.failures]]).all()
    np.testing.assert_allclose(found.values[[0, 3]], client.predict(head.name, vectors=ROWS[:2]).values)
    client.write("rows", vectors=queries[1:2], ids=["huge"], metadata=[{"label": "a"}])
    stored = client.predict(head.name, set="rows", ids=["r0", "huge"], skip_bad_items=True)
    assert [*stored.failures] == [1]
    with pytest.raises(topwork.InvalidInput, match="not finite"):
        client.predict(head.name, set="rows", ids=["r0", "huge"])


@pytest.mark.parametrize(("kind", "target"), [("knn", "label"), ("prototype", "tags")])
def test_heads_that_compare_directions_know_those_of_huge_vectors(client: topwork.Client, kind: str, target: str) -> None:
    head = client.train("rows", target=target, kind=kind, folds=2, options={"center": False})
    huge, usual = (client.predict(head.name, vectors=rows[None], unlike=0.03) for rows in (HUGE, USUAL))
    np.testing.assert_allclose(huge.probabilities, usual.probabilities, atol=1e-5)


def test_the_typicality_of_a_huge_vector_is_that_of_its_direction(client: topwork.Client) -> None:
    head = client.train("rows", target="label", kind="linear", folds=2)
    along = ROWS[:3] * np.float32(1e37)
    assert client.predict(head.name, vectors=along, unlike=0.03).typicality.min() > 0.5


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_a_query_whose_scores_overflow_is_refused(client: topwork.Client, metric: str) -> None:
    client.create_index("rows", name=metric, metric=metric)
    for exact in (False, True):
        with pytest.raises(topwork.InvalidInput, match="float32") as caught:
            client.search("rows", vectors=np.stack([ROWS[0], HUGE]), index=metric, exact=exact)
        assert caught.value.item == 1
        assert client.search("rows", vectors=ROWS[0], index=metric, exact=exact)[0].id


@pytest.mark.parametrize("exact", [False, True])
def test_a_stored_row_that_is_too_long_does_not_hide_the_others(client: topwork.Client, exact: bool) -> None:
    client.write("rows", vectors=np.stack([HUGE, -HUGE]), ids=["huge", "against"], metadata=[{"label": "a"}] * 2)
    for metric in ("l2", "cosine"):
        client.create_index("rows", name=metric, metric=metric)
        found = client.search("rows", vectors=ROWS[3], k=5, index=metric, exact=exact)
        assert (found[0].id, len(found)) == ("r3", 5)
    client.create_index("rows", name="products", metric="inner_product")
    with pytest.raises(topwork.InvalidInput, match="more than float32"):
        client.search("rows", vectors=10 * USUAL, index="products", exact=exact)
