"""Items that may be passed, how they are sent, and the error for anything else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from topwork._codec import items as _items
from topwork.v1 import types_pb2


def pack(value: Any, modality: str) -> types_pb2.Item:
    packed = _items.pack(value, modality, 0)
    assert isinstance(packed, types_pb2.Item)
    return packed


def picture(mode: str, size: tuple[int, int] = (3, 2)) -> Any:
    image = pytest.importorskip("PIL.Image")
    return image.new(mode, size)


def test_texts() -> None:
    assert pack("a", "text").text == "a"
    assert pack(np.array(["a", "b"])[1], "text").text == "b"
    for pair in (("a", "b"), ["a", "b"]):
        assert (pack(pair, "text").text_pair.text, pack(pair, "text").text_pair.pair) == ("a", "b")


@pytest.mark.parametrize(("modality", "field"), [("image", "image"), ("video", "video")])
def test_files_and_bytes(tmp_path: Path, modality: str, field: str) -> None:
    path = tmp_path / "file.jpg"
    path.write_bytes(b"content")
    for value in (path, str(path), b"content", bytearray(b"content"), memoryview(b"content")):
        assert getattr(pack(value, modality), field) == b"content"


def test_arrays(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.save(tmp_path / "a.npy", values)
    for value in (values, values[:, ::-1][:, ::-1], tmp_path / "a.npy", str(tmp_path / "a.npy")):
        for modality in ("image", "video", "tensor"):
            tensor = pack(value, modality).tensor
            assert (tuple(tensor.shape), tensor.dtype) == ((2, 4, 3), types_pb2.DTYPE_UINT8)
            assert tensor.data == values.tobytes()


def test_arrays_go_little_endian() -> None:
    assert pack(np.array([1], ">i4"), "tensor").tensor.data == b"\x01\0\0\0"


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    tensor = pack(torch.ones(2, 2, requires_grad=True), "tensor").tensor
    assert tensor.data == np.ones((2, 2), np.float32).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_pil_pictures_go_as_their_pixels(mode: str) -> None:
    assert tuple(pack(picture(mode), "image").tensor.shape) == (2, 3, 3)


def test_large_pil_pictures_go_as_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_items, "LARGEST_RAW", 10)
    from PIL import Image

    image = picture("RGB", (5, 4))
    image.putpixel((1, 2), (7, 8, 9))
    sent = Image.open(io.BytesIO(pack(image, "image").image))
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(image))


@pytest.mark.parametrize(
    ("value", "modality", "message"),
    [
        (b"bytes", "text", "a bytes is not a text"),
        (Path("a.txt"), "text", "'a.txt' is not a text"),
        (("a", 1), "text", "a tuple is not a text"),
        (("a", "b", "c"), "text", "a tuple is not a text"),
        (None, "text", "None is not a text"),
        ("\ud800", "text", "not valid Unicode"),
        ("nowhere.jpg", "image", "there is no file nowhere.jpg (this encoder reads pictures"),
        ("x" * 5000, "image", "cannot be read"),
        ("nul\0byte", "image", "cannot be read"),
        (3, "image", "an int is not a picture"),
        (["a"], "image", "a list is not a picture"),
        (3, "video", "an int is not a video"),
        ("nowhere.mp4", "video", "there is no file nowhere.mp4"),
        ("words", "tensor", "'words' is not an array"),
        (np.zeros(2), "tensor", "an array of float64"),
        (np.array(["a"]), "tensor", "an array of str"),
        (np.array([None]), "tensor", "an array of object"),
        (1j, "tensor", "a complex is not an array"),
    ],
)
def test_what_is_no_item_is_named_with_its_position(value: Any, modality: str, message: str) -> None:
    with pytest.raises(topwork.InvalidInput) as caught:
        _items.pack(value, modality, 7)
    assert str(caught.value).startswith("item 7: ")
    assert message in str(caught.value)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(topwork.InvalidInput, match="is a folder"):
        pack(tmp_path, "image")


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(topwork.InvalidInput, match="is not an array"):
        pack(tmp_path / "evil.npy", "tensor")


def listed(items: Any, modality: str) -> list[Any]:
    return list(_items.listed(items, modality, iter))  # type: ignore[arg-type]


@pytest.mark.parametrize(("items", "kind"), [({"a": 1}, "dict"), (3, "int"), (None, "NoneType"), (np.array(3), "ndarray")])
def test_what_is_no_list_of_items(items: Any, kind: str) -> None:
    with pytest.raises(topwork.InvalidInput, match=kind):
        listed(items, "tensor")


def test_a_modality_of_the_future() -> None:
    with pytest.raises(topwork.InvalidInput, match="newer topwork"):
        listed(["a"], "smell")


@pytest.mark.parametrize(
    ("items", "modality", "brief"),
    [
        (["a", "b"], "text", True),
        ([], "text", True),
        ((b"jpeg",), "image", True),
        (["owl.jpg"], "image", False),  # a file to be read
        (iter(["a"]), "text", False),  # the caller's own code
        ([("a", "b")], "text", False),
        (["a"] * 65, "text", False),
        (["a" * 1_050_000], "text", False),
    ],
)
def test_only_what_is_at_hand_is_packed_at_once(items: Any, modality: str, brief: bool) -> None:
    assert _items.is_brief(items, modality) is brief
