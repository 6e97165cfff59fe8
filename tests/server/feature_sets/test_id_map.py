"""The id map against a plain dictionary, and in its corners: equal hashes, deleted rows, nothing at all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from topwork_server.feature_sets import id_map
from topwork_server.feature_sets.id_map import IdMap, IdSegment, make_segment


def inserted(first: int, ids: list[str]) -> IdSegment:
    keys = np.arange(first, first + len(ids))
    return make_segment(keys, pa.array(ids, pa.string()), keys.astype(np.uint64) + np.uint64(1 << 32))


def agrees(known: IdMap, model: dict[str, int]) -> bool:
    asked = [*model, "nobody", "n" * 512, "é"]
    keys, addresses = known.find(pa.array(asked, pa.string()))
    expected = [*model.values(), -1, -1, -1]
    every = np.array(sorted(model.values()), np.int64)
    by_key = {key: id for id, key in model.items()}
    assert addresses[keys >= 0].tolist() == [key + (1 << 32) for key in expected if key >= 0]
    found, there = known.addresses(np.array([*every, -5, 10**9], np.int64))
    assert there.tolist() == [True] * len(every) + [False, False]
    assert found[: len(every)].tolist() == (every + (1 << 32)).tolist()
    return (
        known.items == len(model)
        and keys.tolist() == expected
        and known.keys().tolist() == every.tolist()
        and known.ids(np.array([*every, -5])) == [*(by_key[key] for key in every.tolist()), None]
    )


def test_agrees_with_a_dictionary_through_many_changes() -> None:
    rng = np.random.default_rng(0)
    known, model, key = IdMap(), dict[str, int](), 0
    for step in range(150):
        ids = [f"id {n}" for n in rng.choice(400, rng.integers(0, 30), replace=False)]
        gone = [f"id {n}" for n in rng.choice(400, 10, replace=False)]
        deleted = [model.pop(id) for id in {*ids, *gone} if id in model]
        known = known.with_changes(np.sort(np.array(deleted, np.int64)), inserted(key, ids))
        model |= dict(zip(ids, range(key, key + len(ids)), strict=True))
        key += len(ids)
        assert len(known.segments) <= 12
        if step % 10 == 0:
            assert agrees(known, model)
    assert agrees(known, model)


def test_an_older_map_stays_as_it_was() -> None:
    old = IdMap().with_changes(np.zeros(0, np.int64), inserted(0, ["a", "b", "c"]))
    new = old.with_changes(np.array([1]), inserted(3, ["b"]))
    assert agrees(old, {"a": 0, "b": 1, "c": 2})
    assert agrees(new, {"a": 0, "b": 3, "c": 2})


def test_a_compaction_moves_rows_and_nothing_else() -> None:
    known = (
        IdMap()
        .with_changes(np.zeros(0, np.int64), inserted(0, ["a", "b", "c", "d", "e"]))
        .with_changes(np.array([1]), inserted(5, ["f"]))
    )
    keys = known.keys()
    moved = known.with_addresses(keys, keys.astype(np.uint64) + np.uint64(1 << 32))
    assert agrees(moved, {"a": 0, "c": 2, "d": 3, "e": 4, "f": 5})


def test_ids_of_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_map, "hash_ids", lambda ids: np.full(len(ids), 7, np.uint64))
    known = IdMap().with_changes(np.zeros(0, np.int64), inserted(0, list("abcdef"))).with_changes(np.array([2]), None)
    assert agrees(known, {"a": 0, "b": 1, "d": 3, "e": 4, "f": 5})


def test_nothing_is_found_in_nothing() -> None:
    assert agrees(IdMap(), {})
    assert IdMap().ids(np.zeros(0, np.int64)) == []
    assert agrees(IdMap().with_changes(np.zeros(0, np.int64), inserted(0, [])), {})


def test_hashes_do_not_depend_on_where_a_string_stands() -> None:
    ids = pa.array([f"é{n}" * (n % 5 + 1) for n in range(1000)])
    np.testing.assert_array_equal(id_map.hash_ids(ids)[123:456], id_map.hash_ids(ids.slice(123, 333)))
    assert len(np.unique(id_map.hash_ids(ids))) == 1000


def test_a_million_take_less_than_a_hundred_megabytes() -> None:
    """By what its arrays hold, at a tenth of that size."""
    count = 100_000
    known = IdMap().with_changes(np.zeros(0, np.int64), inserted(0, [f"item-{n:08d}" for n in range(count)]))
    (one,) = known.segments
    arrays = (one.keys, one.addresses, one.sorted_hashes, one.by_hash, one.live)
    assert (sum(array.nbytes for array in arrays) + one.ids.nbytes) / count < 60
