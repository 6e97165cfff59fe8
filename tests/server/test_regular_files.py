"""Folders that others delete while they are listed and measured."""

import os
import shutil

import pytest
from topwork_server import atomic_store
from topwork_server.regular_files import bytes_below, names_in


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "place"
    (place / "below").mkdir(parents=True)
    (place / "one").write_bytes(b"1234")
    (place / "below" / "two").write_bytes(b"12")
    return place


def test_the_bytes_of_a_folder_are_those_of_all_files_below_it(folder):
    assert bytes_below(folder) == 6
    assert bytes_below(folder / "none") == 0
    assert bytes_below(folder / "one") == 0


def test_the_names_of_a_folder_are_sorted(folder):
    assert names_in(folder) == ["below", "one"]
    assert names_in(folder / "none") == []
    assert names_in(folder / "one") == []


def test_a_folder_that_goes_before_it_is_read_counts_nothing(folder, monkeypatch):
    scandir = os.scandir

    def deleting(place):
        monkeypatch.undo()
        shutil.rmtree(folder)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", deleting)
    assert bytes_below(folder) == 0


@pytest.mark.parametrize(("gone", "left"), [("below", 4), ("one", 2)])
def test_what_goes_after_a_folder_was_read_counts_nothing(folder, monkeypatch, gone, left):
    scandir = os.scandir

    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    def deleting(place):
        monkeypatch.undo()
        entries = Entries(scandir(place))
        atomic_store.delete(folder / gone)
        return entries

    monkeypatch.setattr(os, "scandir", deleting)
    assert bytes_below(folder) == left
