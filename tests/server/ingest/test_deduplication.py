"""Content hashes: equal content, equal digest; and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from topwork_server import AudioItem, ImageItem, TextItem, VideoItem
from topwork_server.ingest import deduplication
from topwork_server.ingest.deduplication import content_hash

NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)

DIFFERENT = [
    TextItem("ab"),
    TextItem("ab", ""),
    TextItem("a", "b"),
    TextItem("", "ab"),
    TextItem("a\0b"),
    TextItem("a:1:b"),
    TextItem("a", "1:b"),
    TextItem("\ud800"),
    ImageItem(b"ab"),
    VideoItem(b"ab"),
    AudioItem(b"ab"),
    NUMBERS,
    NUMBERS.reshape(4, 3),
    NUMBERS.astype(np.int32),
    NUMBERS.view(np.int32),
    NUMBERS[:2],
]


def test_different_items_have_different_digests():
    found = [content_hash(item) for item in DIFFERENT]
    assert len(set(found)) == len(DIFFERENT)
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TextItem("ein Käuzchen"), TextItem("".join(["ein ", "Käuzchen"]))),
        (ImageItem(b"abc"), ImageItem(bytes(bytearray(b"abc")))),
        (NUMBERS, NUMBERS.astype(">f4")),
        (NUMBERS.T.copy(), NUMBERS.T),
        (np.array(3.0), np.array(3.0)),
    ],
)
def test_equal_items_have_equal_digests(one, other):
    assert content_hash(one) == content_hash(other)


@pytest.mark.parametrize("kind", [VideoItem, AudioItem])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
def test_a_clip_is_the_same_as_bytes_and_as_a_file_of_many_pieces(tmp_path, monkeypatch, size, kind):
    monkeypatch.setattr(deduplication, "CHUNK_BYTES", 100)
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "clip.mp4").write_bytes(data)
    assert content_hash(kind(tmp_path / "clip.mp4")) == content_hash(kind(data))


@pytest.mark.parametrize(
    ("item", "first_digits"),
    [
        (TextItem("a red bird"), "e3000f43117f"),
        (TextItem("a", "b"), "921af3782a93"),
        (np.zeros((2, 3), np.uint8), "b4682d729752"),
    ],
)
def test_digests_do_not_change_between_releases(item, first_digits):
    """They are stored: another way to take them would encode every set again."""
    assert content_hash(item).startswith(first_digits)
