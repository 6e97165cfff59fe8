"""The feature cache: what was put is found, within its bound, also after damage to the file."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import threading

import numpy as np
import pytest
from topwork_server.features import ItemFeatures, Spans
from topwork_server.ingest import feature_cache as cache_module
from topwork_server.ingest.feature_cache import CacheEntry, FeatureCache, key_of, pack_entry, unpack_entry
from topwork_server.types import Numerics

NUMERICS = Numerics("cpu", "fp32", 1.0, 0.0)
MIB = 1 << 20


def entry(value=0.0, rows=1, dim=8, spans=None, parity=1.0):
    return CacheEntry(ItemFeatures(np.full((rows, dim), value, np.float32), spans), Numerics("cpu", "fp32", parity, 0.0))


def key(i):
    return key_of("f" * 64, {}, str(i))


def equal(one, other):
    assert one.numerics == other.numerics
    assert np.array_equal(one.features.rows, other.features.rows)
    assert one.features.rows.dtype == np.float32
    mine, theirs = one.features.spans, other.features.spans
    assert (mine is None) == (theirs is None)
    if mine is not None:
        assert (mine.kind, mine.parts is None) == (theirs.kind, theirs.parts is None)
        assert np.array_equal(mine.values, theirs.values)
        assert np.array_equal(mine.parts, theirs.parts)


@pytest.fixture
def cache(tmp_path):
    cache = FeatureCache(tmp_path / "cache", 64 * MIB)
    yield cache
    cache.close()


@pytest.mark.parametrize(
    "kept",
    [
        entry(1.5),
        entry(2, rows=0),
        entry(3, rows=3, spans=Spans("seconds", np.array([[0, 1], [1, 2], [2, 3.5]], np.float32))),
        entry(4, rows=2, spans=Spans("chars", np.array([[0, 1], [1, 2]], np.float32), np.array([0, 1], np.int32))),
        entry(5, rows=1, spans=Spans("box", np.array([[0, 1, 2, 3]], np.float32))),
    ],
)
def test_an_entry_comes_back_as_it_went(cache, kept):
    equal(unpack_entry(key(1), pack_entry(key(1), kept)), kept)
    cache.put({key(1): kept})
    equal(cache.get([key(1)])[key(1)], kept)


def test_it_is_there_after_a_restart(tmp_path, cache):
    cache.put({key(i): entry(i) for i in range(3)})
    cache.close()
    again = FeatureCache(tmp_path / "cache", 64 * MIB)
    assert {k: v.features.rows[0, 0] for k, v in again.get([key(2), key(7), key(0)]).items()} == {key(0): 0, key(2): 2}
    again.close()


def test_more_keys_than_one_query_takes(cache):
    n = cache_module.BATCH * 2 + 3
    cache.put({key(i): entry(i) for i in range(n)})
    assert len(cache.get([key(i) for i in range(n)])) == n
    assert cache.get([]) == {}


def test_keys_tell_apart_all_that_decides_a_feature():
    keys = [
        key_of("a", {}, "x"),
        key_of("b", {}, "x"),
        key_of("a", {}, "y"),
        key_of("a", {"window": 16}, "x"),
        key_of("a", {"window": 16, "stride": None}, "x"),
    ]
    assert len(set(keys)) == 5
    assert key_of("a", {"b": 1, "c": 2}, "x") == key_of("a", {"c": 2, "b": 1}, "x")


def test_rows_that_must_not_mix_are_not_kept(cache):
    cache.put({key(1): entry(parity=0.9989), key(2): entry(parity=0.999)})
    assert set(cache.get([key(1), key(2)])) == {key(2)}


def test_the_longest_unused_are_evicted_and_the_file_stays_within_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "EVICTED", 20)
    cache = FeatureCache(tmp_path, 4 * MIB)
    wide = {key(i): entry(i, rows=10, dim=384) for i in range(1000)}  # 15 KiB each
    favorite = key(0)
    for i in range(0, 1000, 50):
        cache.put({k: wide[k] for k in list(wide)[i : i + 50]})
        assert favorite in cache.get([favorite])
    left = set(cache.get(list(wide)))
    assert 200 < len(left) < 4 * MIB / 15360
    assert left == {favorite, *list(wide)[-(len(left) - 1) :]}
    cache.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5 * MIB


def test_a_lower_bound_takes_effect_at_the_next_start(tmp_path):
    cache = FeatureCache(tmp_path, 16 * MIB)
    cache.put({key(i): entry(i, rows=10, dim=384) for i in range(800)})
    cache.close()
    small = FeatureCache(tmp_path, 2 * MIB)
    assert 0 < len(small.get([key(i) for i in range(800)])) < 2 * MIB / 15360
    small.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * MIB


def test_one_huge_entry_does_not_throw_out_all_others(tmp_path):
    cache = FeatureCache(tmp_path, MIB)
    cache.put({key(1): entry()})
    cache.put({key(2): entry(rows=100, dim=1024)})
    assert set(cache.get([key(1), key(2)])) == {key(1)}
    cache.close()


def test_without_a_bound_there_is_no_file(tmp_path):
    cache = FeatureCache(tmp_path / "cache", 0)
    cache.put({key(1): entry()})
    assert cache.get([key(1)]) == {}
    cache.close()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"no database at all" * 500, b""])
def test_a_corrupt_file_starts_again(tmp_path, caplog, damage):
    first = FeatureCache(tmp_path, MIB)
    first.put({key(1): entry()})
    first.close()
    (tmp_path / "features.sqlite").write_bytes(damage)
    cache = FeatureCache(tmp_path, MIB)
    assert cache.get([key(1)]) == {}
    cache.put({key(2): entry(2)})
    assert set(cache.get([key(1), key(2)])) == {key(2)}
    assert ("is emptied" in caplog.text) == bool(damage)
    cache.close()


def test_pages_that_went_bad_are_noticed(tmp_path, caplog):
    first = FeatureCache(tmp_path, 8 * MIB)
    first.put({key(i): entry(i, rows=4, dim=384) for i in range(300)})
    first.close()
    path = tmp_path / "features.sqlite"
    data = bytearray(path.read_bytes())
    data[cache_module.PAGE :] = b"\xff" * (len(data) - cache_module.PAGE)
    path.write_bytes(data)
    cache = FeatureCache(tmp_path, 8 * MIB)
    assert cache.get([key(i) for i in range(300)]) == {}
    assert "is emptied" in caplog.text
    cache.put({key(1): entry(1)})
    assert set(cache.get([key(1)])) == {key(1)}
    cache.close()


def test_a_changed_bit_of_an_entry_is_a_miss_and_it_is_forgotten(tmp_path, cache):
    cache.put({key(1): entry(1), key(2): entry(2)})
    cache.close()
    with sqlite3.connect(tmp_path / "cache" / "features.sqlite") as file:
        ((value,),) = file.execute("SELECT value FROM features WHERE key = ?", (key(1),)).fetchall()
        wrong = value[:-1] + bytes([value[-1] ^ 1])
        file.execute("UPDATE features SET value = ? WHERE key = ?", (wrong, key(1)))
    assert set(cache.get([key(1), key(2)])) == {key(2)}
    assert file.execute("SELECT count(*) FROM features").fetchone() == (1,)
    file.close()
    assert unpack_entry(key(1), wrong) is None
    assert unpack_entry(key(1), b"") is None


def test_a_cache_that_cannot_be_written_is_left_out_and_said_once(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file stands where the folder would")
    cache = FeatureCache(tmp_path / "cache", MIB)
    for _ in range(3):
        cache.put({key(1): entry()})
        assert cache.get([key(1)]) == {}
    assert caplog.text.count("left out") == 1
    (tmp_path / "cache").unlink()
    cache.put({key(1): entry()})
    assert set(cache.get([key(1)])) == {key(1)}
    cache.close()


def test_a_full_disk_loses_nothing_but_the_new(cache, monkeypatch, caplog):
    cache.put({key(1): entry(1)})
    cache._open.execute("PRAGMA max_page_count = 1")  # it cannot grow: SQLITE_FULL, as on a full disk
    cache.put({key(i): entry(i, rows=100) for i in range(2, 40)})
    assert "full" in caplog.text
    assert set(cache.get([key(i) for i in range(40)])) == {key(1)}
    cache.put({key(2): entry(2)})  # there is room again
    assert set(cache.get([key(1), key(2)])) == {key(1), key(2)}


def test_a_disk_that_cannot_be_opened_is_left_out(cache, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    cache.put({key(1): entry()})
    assert cache.get([key(1)]) == {}
    assert "No space left" in caplog.text


def test_a_folder_that_is_deleted_while_it_is_served_is_no_error(tmp_path, cache):
    cache.put({key(1): entry()})
    shutil.rmtree(tmp_path / "cache")
    for i in range(3):
        cache.put({key(i): entry()})
        cache.get([key(i)])


def test_many_threads_share_it(cache):
    failures = []

    def work(n):
        for i in range(20):
            mine = {key((n, i, j)): entry(n * 1000 + i) for j in range(5)}
            cache.put(mine)
            found = cache.get(list(mine))
            if {k: v.features.rows[0, 0] for k, v in found.items()} != dict.fromkeys(mine, n * 1000 + i):
                failures.append((n, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
