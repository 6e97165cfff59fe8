"""Versions: listed, pinned, pruned under readers; compaction that readers do not notice."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from passes import of_set
from sample_batches import block, everything, names
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound
from topwork_server.feature_sets import maintenance
from topwork_server.feature_sets.feature_set import FeatureSet
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Change, Selection


def fragments(feature_set: FeatureSet) -> int:
    import lance

    return len(lance.dataset(str(feature_set.path)).get_fragments())


def test_pinned_versions_stay_and_the_others_go(birds: FeatureSet) -> None:
    kept = birds.write(block(["a"])).result().version
    assert birds.pin("paper", kept).pins == ("paper",)
    assert birds.pin("also-paper", kept).pins == ("also-paper", "paper")
    for id in "bcd":
        birds.write(block([id])).result()
    assert birds.pin("now").version == birds.version
    birds.write(block(["e"])).result()
    listed = birds.versions()
    assert [info.version for info in listed] == list(range(1, birds.version + 1))
    assert [info.time for info in listed] == sorted(info.time for info in listed)
    assert birds.prune(3600) == (0, 0)
    removed, _ = birds.prune(0)
    assert removed == len(listed) - 3
    assert {info.version: info.pins for info in birds.versions()} == {
        kept: ("also-paper", "paper"),
        birds.version - 1: ("now",),
        birds.version: (),
    }
    assert list(everything(birds, version=kept)) == ["a"]
    birds.unpin("paper")
    birds.unpin("also-paper")
    assert birds.prune(0)[0] == 1
    with pytest.raises(NotFound, match=f"no version {kept}"):
        birds.read(Selection(version=kept))


def test_pins_are_refused_by_name(birds: FeatureSet) -> None:
    birds.pin("paper")
    with pytest.raises(AlreadyExists, match="'paper' holds version 1"):
        birds.pin("paper")
    with pytest.raises(NotFound, match="no version 77"):
        birds.pin("other", 77)
    with pytest.raises(NotFound, match="no pin 'other'"):
        birds.unpin("other")
    for bad in ("", "a b", "../x", "a/b", ".x", "x" * 101):
        with pytest.raises(InvalidInput, match="cannot name a version"):
            birds.pin(bad)
    assert everything(birds) == {}


@pytest.mark.parametrize("bad", ["a..b", "a.lock", "a."])
def test_names_that_lance_would_not_have_are_refused_too(birds: FeatureSet, bad: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a version"):
        birds.pin(bad)


def test_pins_change_while_others_read(sets: FeatureSets, birds: FeatureSet) -> None:
    birds.write(block(["a"])).result()
    ended = threading.Event()

    def read() -> int:
        reads = 0
        while not ended.is_set():
            birds.versions()
            reads += 1
        return reads

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for round in range(30):
                birds.pin(f"head-{round}.x")
                assert sets.pins() == {"birds": [f"head-{round}.x"]}
                birds.unpin(f"head-{round}.x")
        finally:
            ended.set()
        assert all(reader.result() for reader in readers)
    assert sets.pins() == {"birds": []}


def test_a_pin_that_is_moved_while_others_read_is_never_damaged(birds: FeatureSet) -> None:
    version = birds.write(block(["a"])).result().version
    birds.pin("release", version)
    ended = threading.Event()

    def read() -> list[tuple[str, ...]]:
        damaged = []
        while not ended.is_set():
            damaged += [found.damaged_pins for found in birds.versions() if found.damaged_pins]
        return damaged

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for _ in range(40):
                birds.unpin("release")
                birds.pin("release", version)
        finally:
            ended.set()
        assert [reader.result() for reader in readers] == [[], [], []]
    assert birds.prune(0)[0] == 1


def test_a_version_that_is_read_is_not_pruned(birds: FeatureSet) -> None:
    birds.write(block(names(0, 3000))).result()
    reading = birds.read(Selection(batch_bytes=1000))
    first = next(reading.batches)
    birds.delete(names(0, 2999)).result()
    birds.prune(0)
    rest = [id for part in reading.batches for id in part.ids]
    assert [*first.ids, *rest] == names(0, 3000)
    assert reading.version in [info.version for info in birds.versions()][:-1]
    birds.prune(0)
    assert [info.version for info in birds.versions()] == [birds.version]


def test_a_reader_that_never_began_or_gave_up_holds_nothing(birds: FeatureSet) -> None:
    birds.write(block(["a"])).result()
    given_up = birds.read(Selection())
    birds.read(Selection())
    gc.collect()
    given_up.batches.close()  # type: ignore[attr-defined]
    birds.write(block(["b"])).result()
    birds.prune(0)
    assert len(birds.versions()) == 1


def test_small_fragments_are_joined_by_themselves_and_nothing_is_lost(sets: FeatureSets, birds: FeatureSet) -> None:
    changes: list[Change] = []
    birds.add_listener(changes.append)
    for number in range(3 * maintenance.MANY_FRAGMENTS):
        birds.write(block([f"a{number}", "b"], number, n=[number, number])).result()
    _, keys = birds.keys()
    birds.prune(0)  # waits for the maintenance before it
    assert fragments(birds) <= maintenance.MANY_FRAGMENTS + 1
    told = [change.version for change in changes]
    assert told == sorted(set(told))
    assert told[-1] == birds.version
    assert {id: item["n"] for id, item in everything(birds).items()} == {
        **{f"a{number}": number for number in range(3 * maintenance.MANY_FRAGMENTS)},
        "b": 3 * maintenance.MANY_FRAGMENTS - 1,
    }
    check_by_key(birds, keys)
    sets.close()
    again = FeatureSets(sets.folder).get(of_set("birds"))
    np.testing.assert_array_equal(again.keys()[1], keys)
    check_by_key(again, keys)


def check_by_key(feature_set: FeatureSet, keys: np.ndarray) -> None:
    """The id map knows where every row is."""
    stored = everything(feature_set)
    got = feature_set.fetch(keys, taps=None, columns=["n"])
    assert list(got.ids) == feature_set.ids_of(keys)
    for id, row, n in zip(got.ids, got.taps[0].rows, got.metadata[0].values, strict=True):
        np.testing.assert_array_equal(row, stored[id]["rows"][0])
        assert n == stored[id]["n"]


def test_fragments_of_dead_rows_are_written_again(birds: FeatureSet) -> None:
    birds.write(block(names(0, 1000), n=list(range(1000)))).result()
    birds.delete(names(0, 600)).result()
    birds.write(block(names(600, 700), 1, n=[7] * 100)).result()
    before = birds.keys()[1]
    assert birds.compact() > 0
    np.testing.assert_array_equal(birds.keys()[1], before)
    check_by_key(birds, before)
    birds.write(block(names(650, 750), 2, n=[8] * 100)).result()
    assert [everything(birds)[id]["n"] for id in ("item-00600", "item-00650", "item-00749", "item-00750")] == [7, 8, 8, 750]
    check_by_key(birds, birds.keys()[1])
    assert birds.compact() == 0


def test_reading_goes_on_while_fragments_are_joined(birds: FeatureSet) -> None:
    for number in range(maintenance.MANY_FRAGMENTS + 2):
        birds.write(block([f"a{number}"])).result()
    reading = birds.read(Selection(batch_bytes=1))
    seen = list(next(reading.batches).ids)
    birds.compact()
    birds.prune(0)
    seen += [id for part in reading.batches for id in part.ids]
    assert len(set(seen)) == len(seen) == reading.total
