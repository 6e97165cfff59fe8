"""A filter is asked of the set once for each version, and what is remembered is bounded."""

from __future__ import annotations

import numpy as np
from topwork_server.indexes import row_filter
from topwork_server.indexes.row_filter import FilterCache


class Counted:
    """A set of which every filter matches the keys 0 .. 99."""

    def __init__(self):
        self.version, self.asked = 1, []

    def keys(self, where="", check=None):
        self.asked.append(where)
        return self.version, np.arange(100)


def looked_up(found, feature_set, where):
    """The very array, of the set as it is now."""
    version, keys = found.cached_keys(feature_set, where) or found.keys(feature_set, where)
    assert version == feature_set.version
    return keys


def test_the_same_filter_of_one_version_is_one_array():
    found, birds, fish = FilterCache(), Counted(), Counted()
    first = looked_up(found, birds, "year > 1")
    assert looked_up(found, birds, "year > 1") is first
    assert looked_up(found, fish, "year > 1") is not first
    birds.version = 2
    assert looked_up(found, birds, "year > 1") is not first
    assert birds.asked == ["year > 1"] * 2


def test_the_filters_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(row_filter, "MOST", 3)
    found, birds = FilterCache(), Counted()
    for where in ("a", "b", "c", "a", "d"):
        looked_up(found, birds, where)
    assert [found.cached_keys(birds, where) is not None for where in "abcd"] == [True, False, True, True]
    monkeypatch.setattr(row_filter, "MOST_BYTES", 100)
    looked_up(found, birds, "e")
    assert [found.cached_keys(birds, where) is not None for where in "abcde"] == [False] * 4 + [True]


def test_a_set_that_is_gone_takes_no_memory():
    found, birds = FilterCache(), Counted()
    looked_up(found, birds, "a")
    del birds
    assert not found._of


def test_a_filter_that_asks_the_clock_is_asked_again():
    found, birds = FilterCache(), Counted()
    for _ in range(2):
        looked_up(found, birds, "t > NOW() - interval '1 day'")
    assert len(birds.asked) == 2
