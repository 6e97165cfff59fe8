"""Records that cannot be records are reported as damaged, at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from topwork_server import json_records
from topwork_server.errors import DataLoss


@dataclass
class Record:
    name: str


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("w") as file:
        file.truncate(json_records.LARGEST + 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "words"), [(pipe, "no regular file"), (device, "no regular file"), (folder, "Is a directory"), (sparse, "bytes")]
)
def test_what_is_no_file_of_a_records_size_is_damaged(make: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert callable(make)
    make(path)
    with pytest.raises(DataLoss, match=words) as caught:
        json_records.read(path, Record)
    assert str(path) in caught.value.message


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json_records.dumps({"name": "owl"}))
    assert json_records.read(path, Record) == Record("owl")
