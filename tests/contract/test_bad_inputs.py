"""A table of bad inputs, sent over real gRPC to a real server: each has its status, its message and a remedy, and the server
goes on serving."""

from __future__ import annotations

import io
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
import sample_videos
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image
from topwork.v1 import encoders_pb2, encoders_pb2_grpc, types_pb2
from topwork_server.commands.demo import server

pytestmark = pytest.mark.weights

TEXT, IMAGE, VIDEO, WORDS = "all-minilm-l6-v2", "efficientnet-lite0", "i3d-resnet50-thin", "glove-6b-50d"
ITEMS = types_pb2.Item


def text(content: str) -> types_pb2.Item:
    return ITEMS(text=content)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((80, 60), 90).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 60,000 x 60,000."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def corrupt_video() -> bytes:
    """An mp4 whose index was never written."""
    with tempfile.TemporaryDirectory() as folder:
        whole = sample_videos.write(Path(folder) / "clip.mp4", sample_videos.shades(20)).read_bytes()
    return whole[: len(whole) // 2]


def frameless() -> bytes:
    """A container with a picture stream in which there is no picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mkv"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        return path.read_bytes()


def tensor(shape: list[int], data: bytes, dtype: str = "DTYPE_UINT8") -> types_pb2.Item:
    return ITEMS(tensor=types_pb2.Tensor(dtype=dtype, shape=shape, data=data))


# To which encoder, what is sent beside a good item, and words of the message. The status is always INVALID_ARGUMENT.
BAD: dict[str, tuple[str, Callable[[], types_pb2.Item], str]] = {
    "an empty text": (TEXT, lambda: text(""), "empty"),
    "a text too long": (TEXT, lambda: text("owl " * 600), "602 tokens"),
    "a pair of which one is empty": (
        TEXT,
        lambda: ITEMS(text_pair=types_pb2.TextPair(text="owls", pair="")),
        "empty",
    ),
    "a pair for word vectors": (
        WORDS,
        lambda: ITEMS(text_pair=types_pb2.TextPair(text="owls", pair="birds")),
        "pair",
    ),
    "unknown words only": (WORDS, lambda: text("qzxv wqzzk"), "qzxv"),
    "an empty picture": (IMAGE, lambda: ITEMS(image=b""), "empty"),
    "not a picture": (IMAGE, lambda: ITEMS(image=b"%PDF-1.4 this is no picture"), "not a picture"),
    "a truncated JPEG": (IMAGE, lambda: ITEMS(image=jpeg()[:-300]), "damaged|truncated|cut"),
    "a decompression bomb": (IMAGE, lambda: ITEMS(image=bomb()), "60000|60,000|3,600,000,000"),
    "a text for pictures": (IMAGE, lambda: text("a cat"), "text"),
    "a picture for texts": (TEXT, lambda: ITEMS(image=jpeg()), "picture|text"),
    "a picture for clips": (VIDEO, lambda: ITEMS(image=jpeg()), "picture|video|clip"),
    "an empty video": (VIDEO, lambda: ITEMS(video=b""), "empty"),
    "not a video": (VIDEO, lambda: ITEMS(video=b"no video at all" * 100), "video"),
    "a corrupt video": (VIDEO, lambda: ITEMS(video=corrupt_video()), "video"),
    "a video without frames": (VIDEO, lambda: ITEMS(video=frameless()), "frame|picture stream|video"),
    "an item without content": (TEXT, lambda: ITEMS(), "nothing|no content|empty|content"),
    "a zero-dimensional array": (IMAGE, lambda: tensor([], b"\1"), "shape"),
    "an array without pixels": (IMAGE, lambda: tensor([0, 5, 3], b""), "shape"),
    "an array of the wrong shape": (IMAGE, lambda: tensor([4, 5], bytes(20)), "4, 5"),
    "an array of too few bytes": (IMAGE, lambda: tensor([4, 5, 3], bytes(59)), "60 bytes"),
    "an array of absurd shape": (IMAGE, lambda: tensor([1 << 40, 1 << 40, 3], b"x"), "shape"),
}


def good(encoder: str) -> types_pb2.Item:
    if encoder in (TEXT, WORDS):
        return text("owls")
    if encoder == IMAGE:
        return ITEMS(image=jpeg())
    return tensor([16, 32, 32, 3], bytes(16 * 32 * 32 * 3))


@pytest.fixture(scope="module")
def stub(weights_home: Path) -> Iterator[encoders_pb2_grpc.EncodersStub]:
    with (
        server(weights_home, lambda *words: None) as address,
        grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel,
    ):
        yield encoders_pb2_grpc.EncodersStub(channel)  # type: ignore[no-untyped-call]


def embed(stub: encoders_pb2_grpc.EncodersStub, encoder: str, *items: types_pb2.Item, **settings: Any) -> Any:
    request = encoders_pb2.EmbedRequest(settings=encoders_pb2.EmbedSettings(encoder=encoder, **settings), items=items)
    return stub.Embed(request, timeout=120)


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status, message, and the metadata of the server's ErrorInfo."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    if status is not None:
        assert status.details[0].Unpack(info)
    return caught.value.code(), caught.value.details() or "", dict(info.metadata)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_is_named_and_nothing_is_lost(stub: encoders_pb2_grpc.EncodersStub, name: str) -> None:
    encoder, make, pattern = BAD[name]
    code, message, info = refusal(lambda: embed(stub, encoder, good(encoder), make()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT, message
    assert info["item"] == "1", message
    assert info["remedy"], message
    assert re.search(pattern, message), message
    skipped = embed(stub, encoder, make(), good(encoder), skip_bad_items=True)
    assert [failure.item for failure in skipped.failures] == [0]
    assert skipped.failures[0].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert len(skipped.features[0].rows.data) > 0, "the good item beside it is served"


def test_an_unknown_encoder_gets_what_is_near(stub: encoders_pb2_grpc.EncodersStub) -> None:
    code, message, info = refusal(lambda: embed(stub, "all-minilm-l6", text("owls")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "did you mean all-minilm-l6-v2" in info["remedy"]
    assert "all-minilm-l6" in message


def test_an_unknown_tap_gets_the_list(stub: encoders_pb2_grpc.EncodersStub) -> None:
    code, message, info = refusal(lambda: embed(stub, TEXT, text("owls"), taps=["hidden.99"]))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "hidden.99" in message
    assert "hidden.6" in info["remedy"]


def test_weights_that_are_not_here_say_what_fetches_them(stub: encoders_pb2_grpc.EncodersStub) -> None:
    code, _, info = refusal(lambda: embed(stub, "bert-large-uncased", text("owls")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "topwork pull bert-large-uncased" in info["remedy"]


def test_another_fingerprint_is_refused_with_both(stub: encoders_pb2_grpc.EncodersStub) -> None:
    code, message, _ = refusal(lambda: embed(stub, TEXT, text("owls"), fingerprint="ab" * 32))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "ab" * 32 in message
    assert len(message.split("fingerprint ")[1].split(",")[0]) == 64


def test_no_items_and_too_many(stub: encoders_pb2_grpc.EncodersStub) -> None:
    assert refusal(lambda: embed(stub, TEXT))[0] is grpc.StatusCode.INVALID_ARGUMENT
    code, message, info = refusal(lambda: embed(stub, TEXT, *[text("owl")] * 5000))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "5000" in message
    assert "EmbedStream" in info["remedy"]


def test_an_oversized_message_is_refused_by_grpc(stub: encoders_pb2_grpc.EncodersStub) -> None:
    code, message, _ = refusal(lambda: embed(stub, IMAGE, ITEMS(image=bytes(65 << 20))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in message


def test_options_are_checked(stub: encoders_pb2_grpc.EncodersStub) -> None:
    for given, key in (({"window": 3}, "window"), ({"frames": 7}, "7"), ({"frames": "many"}, "many")):
        options = struct_pb2.Struct()
        options.update(given)
        code, message, info = refusal(lambda o=options: embed(stub, VIDEO, good(VIDEO), options=o))  # type: ignore[misc]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert key in message + info["remedy"]


def test_dimensions_are_those_of_the_tap(stub: encoders_pb2_grpc.EncodersStub) -> None:
    code, message, _ = refusal(lambda: embed(stub, TEXT, text("owls"), dimensions=385))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "385" in message


def test_only_word_vectors_have_nearest_words(stub: encoders_pb2_grpc.EncodersStub) -> None:
    request = encoders_pb2.NearestWordsRequest(encoder=TEXT, items=[text("owls")])
    assert refusal(lambda: stub.NearestWords(request))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_long_text_is_truncated_when_asked(stub: encoders_pb2_grpc.EncodersStub) -> None:
    options = struct_pb2.Struct()
    options.update({"truncate": True})
    reply = embed(stub, TEXT, text("owl " * 600), options=options)
    assert reply.notes[0].counts["truncated_tokens"] > 0
    assert np.isfinite(np.frombuffer(reply.features[0].rows.data, "<f4")).all()
