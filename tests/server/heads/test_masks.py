"""masks.py: masks as PNG and as boxes, and what class a cell is of."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from topwork_server.errors import InvalidInput
from topwork_server.feature_sets.set_types import Column, ColumnType
from topwork_server.features import cell_boxes
from topwork_server.heads.head_types import Task
from topwork_server.heads.training.labels import read_labels
from topwork_server.heads.training.mask_labels import DATA_URI, box_mask, is_png, png_mask

INDEX = {"background": 0, "owl": 1, "emu": 2}


def png(pixels, mode="L", **how):
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([v for i in range(256) for v in (255 - i, i, 7)])
    elif mode != "L":
        image = image.convert(mode)
    data = BytesIO()
    image.save(data, "PNG", **how)
    return b64encode(data.getvalue()).decode()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width, height, body=b"", depth=8, color=0):
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b64encode(start + body + chunk(b"IEND", b"")).decode()


@pytest.fixture
def quarters():
    """8 x 8: class 0, 3, 7 and ignored, in quarters."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:] = 3, 7, 255
    return pixels


@pytest.mark.parametrize("mode", ["L", "P"])
def test_each_cell_is_of_the_class_that_most_of_its_pixels_are_of(quarters, mode):
    mask = png_mask(DATA_URI + png(quarters, mode))
    assert mask.classes == {"0", "3", "7"}
    index = {"0": 0, "3": 1, "7": 2}
    assert mask.cells(cell_boxes((2, 2), (0, 0, 8, 8)), index).tolist() == [0, 1, 2, -1]
    assert mask.cells(cell_boxes((1, 1), (0, 0, 8, 8)), index).tolist() == [0], "the first of equals"
    assert mask.cells(cell_boxes((1, 1), (3, 1, 8, 5)), index).tolist() == [1]
    assert mask.cells(cell_boxes((1, 1), (0, 3, 3.4, 8)), index).tolist() == [2]


def test_ignored_pixels_count_for_nothing(quarters):
    mask = png_mask(png(quarters))
    boxes = np.array([[3, 4, 8, 8]], np.float32)
    assert mask.cells(boxes, {"0": 0, "3": 1, "7": 2}).tolist() == [2]


def test_cells_agree_with_counting_pixels():
    random = np.random.default_rng(3)
    pixels = random.integers(0, 4, (37, 53)).astype(np.uint8)
    mask = png_mask(png(pixels))
    boxes = cell_boxes((5, 7), (2, 1, 51, 36))
    got = mask.cells(boxes, {str(i): i for i in range(4)})
    for (x0, y0, x1, y1), label in zip(boxes, got, strict=True):
        inside = [pixels[y, x] for y in range(37) for x in range(53) if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1]
        assert label == np.bincount(inside, minlength=4).argmax()


def test_cells_smaller_than_a_pixel_have_the_class_of_theirs():
    mask = png_mask(png([[0, 1], [2, 3]]))
    got = mask.cells(cell_boxes((8, 8), (0, 0, 2, 2)), {str(i): i for i in range(4)})
    np.testing.assert_array_equal(got.reshape(8, 8), np.kron([[0, 1], [2, 3]], np.ones((4, 4))))


def test_boxes_lie_over_one_another():
    mask = box_mask(["0,0,10,10:owl", "4,4,10,10:emu", "4,4,6,6:background"], "")
    assert mask.classes == {"background", "owl", "emu"}
    got = mask.cells(cell_boxes((6, 6), (0, 0, 12, 12)), INDEX).reshape(6, 6)
    expected = np.zeros((6, 6), int)
    expected[:5, :5], expected[2:5, 2:5], expected[2, 2] = 1, 2, 0
    np.testing.assert_array_equal(got, expected)


def test_areas_of_boxes_are_exact():
    random = np.random.default_rng(5)
    corners = np.round(np.sort(random.uniform(0, 32, (9, 2, 2)), axis=1), 3)
    labels = [("owl", "emu")[i % 2] for i in range(9)]
    written = [f"{a[0]},{a[1]},{b[0]},{b[1]}:{label}" for (a, b), label in zip(corners, labels, strict=True)]
    boxes = cell_boxes((4, 3), (1, 2, 31, 30))
    got = box_mask(written, "").cells(boxes, INDEX)
    steps = (np.arange(1600) + 0.5) / 50
    painted = np.zeros((1600, 1600), int)
    for (a, b), label in zip(corners, labels, strict=True):
        painted[np.ix_((steps >= a[1]) & (steps < b[1]), (steps >= a[0]) & (steps < b[0]))] = INDEX[label]
    for (x0, y0, x1, y1), label in zip(boxes, got, strict=True):
        cell = painted[np.ix_((steps >= y0) & (steps < y1), (steps >= x0) & (steps < x1))]
        assert label == np.bincount(cell.ravel(), minlength=3).argmax()


def test_no_boxes_are_background_and_no_cells_are_nothing():
    assert box_mask([], "").cells(cell_boxes((1, 2), (0, 0, 4, 4)), INDEX).tolist() == [0, 0]
    assert box_mask(["0,0,1,1:owl"], "").cells(np.empty((0, 4)), INDEX).shape == (0,)
    assert png_mask(png([[0, 1]])).cells(np.empty((0, 4)), {"0": 0, "1": 1}).shape == (0,)


def test_a_mask_of_another_size_than_its_picture_is_refused(quarters):
    mask = png_mask(png(quarters))
    with pytest.raises(InvalidInput, match="has 8 x 8 pixels, and the cells of its picture reach to 224 x 100"):
        mask.cells(cell_boxes((2, 2), (0, 0, 224, 100)), {"0": 0, "3": 1, "7": 2})


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ("not base64!", "the mask is not base64"),
        ("", "the mask cannot be read"),
        (b64encode(b"\xff\xd8\xff\xe0 a JPEG").decode(), "the mask cannot be read: it is no PNG"),
        (png(np.zeros((2, 2)), "RGB"), "the mask's pixels are RGB, not one class each"),
        (header(2, 2, depth=16), "the mask's pixels are I;16"),
        (png(np.random.default_rng(0).integers(0, 9, (32, 32)))[:200], "the mask cannot be read"),
        (header(60000, 60000), "the mask"),
        (header(9000, 9000), "the mask has 9000 x 9000 pixels, more than 67,108,864"),
        (header(0, 5), "the mask"),
    ],
)
def test_what_is_no_mask_is_refused(written, pattern):
    with pytest.raises(InvalidInput, match=pattern) as caught:
        png_mask(written)
    assert caught.value.remedy


def test_a_bomb_is_refused_before_it_is_decoded():
    """64 MB of zeros in a small file, whose header says 30000 x 30000."""
    body = chunk(b"IDAT", zlib.compress(bytes(64 << 20)))
    with pytest.raises(InvalidInput, match="the mask"):
        png_mask(header(30000, 30000, body))


def test_labels_are_read_from_both_forms(quarters):
    written = png(quarters)
    assert is_png(written)
    assert is_png(DATA_URI + written)
    labels = read_labels(Column("mask", ColumnType.STRING, [written, DATA_URI + written, None, ""]), None, 2, "mask")
    assert labels.task is Task.SEGMENTATION
    assert labels.names == ("0", "3", "7")
    assert labels.labeled.tolist() == [True, True, False, False]
    assert labels.values[0].cells(cell_boxes((2, 2), (0, 0, 8, 8))).tolist() == [0, 1, 2, -1]
    ten = read_labels(Column("mask", ColumnType.STRING, [png([[2, 10]])]), Task.SEGMENTATION, 1, "mask")
    assert ten.names == ("2", "10")
    with pytest.raises(InvalidInput, match="the class '10' has 1 example, and 2 are needed"):
        read_labels(Column("mask", ColumnType.STRING, [png([[2, 10]]), png([[2, 2]])]), Task.SEGMENTATION, 2, "mask")
    with pytest.raises(InvalidInput, match="item 1: column 'mask': the mask is not base64"):
        read_labels(Column("mask", ColumnType.STRING, [written, "%"]), Task.SEGMENTATION, 2, "mask")
    assert read_labels(Column("kind", ColumnType.STRING, ["a", "b"]), None, 1, "kind").task is Task.CLASSIFICATION
