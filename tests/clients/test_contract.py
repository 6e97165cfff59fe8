"""What both clients promise: each test runs on Client and on AsyncClient."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import topwork
from both_clients import ClientFactory, EitherClient
from fake_server import DIM, FINGERPRINT, FakeServer, Refusal, overloaded, shed, too_large, unavailable
from topwork._codec import items
from topwork._ops import item_requests
from topwork._transport.upload_stream import WINDOW


def numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_the_catalog(both: EitherClient) -> None:
    found = {info.name: info for info in both.encoders()}
    assert found["letters"].modality == "text"
    assert found["pictures"].modality == "image"
    assert [tap.name for tap in found["letters"].taps] == ["pooled", "tokens", "cells"]
    assert found["letters"].tap().granularity == "item"
    assert found["letters"].tap("cells").grid == (2, 2)
    assert found["letters"].numerics.parity == pytest.approx(0.99999)
    assert found["letters"].options[0].name == "truncate"
    assert both.encoder("words").has_vocabulary
    assert both.encoder("letters").state == "ready"


def test_an_unknown_encoder_is_named_with_its_remedy(both: EitherClient) -> None:
    with pytest.raises(topwork.NotFound) as caught:
        both.embed("nobody", ["a"])
    assert str(caught.value) == "no encoder 'nobody' (see `topwork encoders`)"
    assert caught.value.code.name == "NOT_FOUND"


def test_health(both: EitherClient) -> None:
    assert both.health() == "serving"
    assert both.health("topwork.v1.Encoders") == "not serving"
    with pytest.raises(topwork.NotFound):
        both.health("nobody")


def test_a_few_items_are_one_message(both: EitherClient, server: FakeServer) -> None:
    features = both.embed("letters", ["a", "noted", ("b", "c")], normalize=True, dimensions=2, options={"truncate": True, "n": 3})
    assert np.asarray(features).shape == (3, DIM)
    assert features.rows[:, 1].tolist() == [1, 5, 3]
    assert features.rows.dtype == np.float32
    assert features.rows.flags.writeable
    assert (features.tap, features.fingerprint, features.granularity) == ("pooled", FINGERPRINT, "item")
    assert features.items.tolist() == [0, 1, 2]
    assert features.notes == {1: {"letters": 5}}
    assert features.numerics.provider == "fake"
    assert features.timings.compute == 1.0
    settings = server.requests[-1].settings
    assert (settings.normalize, settings.dimensions) == (True, 2)
    assert dict(settings.options) == {"truncate": True, "n": 3}
    assert server.tries == {"GetEncoder": 1, "Embed": 1}


def test_the_encoder_is_asked_for_once(both: EitherClient, server: FakeServer) -> None:
    for _ in range(3):
        both.embed("letters", ["a"])
    assert server.tries == {"GetEncoder": 1, "Embed": 3}


def test_a_lone_item_is_one_item(both: EitherClient, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    assert len(both.embed("letters", "a red bird")) == 1
    assert both.embed("pictures", tmp_path / "a.jpg")[0, 1] == 5
    assert len(both.embed("pictures", np.zeros((2, 3, 3), np.uint8))) == 1
    assert len(both.embed("pictures", np.zeros((4, 2, 3, 3), np.uint8))) == 4
    assert len(both.embed("clips", np.zeros((4, 2, 3, 3), np.uint8))) == 1
    assert both.embed("sounds", tmp_path / "a.jpg")[0, 1] == 5
    assert both.embed("sounds", (np.zeros(10, np.float32), 16000))[0, 1] == 44 + 40


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (np.zeros(10, np.float32), "without their rate"),
        ((np.zeros((2, 10), np.float32), 16000), "one channel"),
        ((np.zeros(10, np.int64), 16000), "int64"),
        ((np.zeros(10, np.float32), 0), "rate"),
        ((np.zeros(10, np.float32), 16000.5), "rate"),
        ((np.zeros(10, np.float32), float("nan")), "rate"),
        (("a", "b"), "rate"),
        ("sound.npy", "rate"),
    ],
)
def test_what_is_no_recording_is_refused(both: EitherClient, wrong: Any, word: str) -> None:
    with pytest.raises(topwork.InvalidInput, match=word) as caught:
        both.embed("sounds", [b"sound", wrong])
    assert caught.value.item == 1


def test_samples_without_their_rate_are_no_recordings(both: EitherClient) -> None:
    with pytest.raises(topwork.InvalidInput, match="without their rate"):
        both.embed("sounds", np.zeros(10, np.float32))


def test_many_items_are_streamed_in_order(both: EitherClient, server: FakeServer) -> None:
    features = both.embed("letters", (str(i) for i in range(200)))
    assert features.rows[:, 0].tolist() == list(range(200))
    assert features.items.tolist() == list(range(200))
    assert server.chunks == [64, 64, 64, 8]
    assert server.tries["Embed"] == 0
    assert features.timings.compute == 4.0


def test_several_taps_of_many_items(both: EitherClient) -> None:
    texts = [f"{i} two" if i % 2 else str(i) for i in range(100)]
    found = both.embed_taps("letters", texts, ["tokens", "pooled"])
    assert list(found) == ["tokens", "pooled"]
    tokens = found["tokens"]
    assert len(found["pooled"]) == 100
    assert tokens.counts.tolist() == [1, 2] * 50
    assert tokens.items.tolist() == [i for i in range(100) for _ in range(1 + i % 2)]
    assert tokens.of(99).shape == (2, DIM)
    assert tokens.of(98)[0, 0] == 98
    assert tokens.spans[-1].tolist() == [0, 3]
    assert (tokens.span_kind, tokens.parts.tolist()) == ("characters", [0] * 150)
    assert found["pooled"].spans is None


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "f4"), ("float16", "f2"), ("int8", "i1"), ("binary", "u1")])
@pytest.mark.parametrize("count", [3, 100])
def test_row_types(both: EitherClient, dtype: str, kind: str, count: int) -> None:
    features = both.embed("letters", numbers(count), dtype=dtype)
    exact = both.embed("letters", numbers(count)).rows
    assert features.rows.dtype == np.dtype(kind)
    assert (features.dtype, features.dim) == (dtype, DIM)
    values = features.dequantized()
    assert values.shape == (count, DIM)
    if dtype == "binary":
        np.testing.assert_array_equal(values, np.where(exact > 10, 1, -1))
    else:
        np.testing.assert_allclose(values, exact, rtol=1e-2, atol=np.abs(exact).max() / 127)


def test_what_cannot_be_asked_is_refused_here(both: EitherClient, server: FakeServer) -> None:
    with pytest.raises(topwork.InvalidInput, match="float32, float16, int8, binary"):
        both.embed("letters", ["a"], dtype="float64")
    with pytest.raises(topwork.InvalidInput, match="dimensions is -1"):
        both.embed("letters", ["a"], dimensions=-1)
    with pytest.raises(topwork.InvalidInput, match="option 'truncate'"):
        both.embed("letters", ["a"], options={"truncate": object()})
    assert not server.requests


def test_no_items_are_the_servers_to_judge(both: EitherClient) -> None:
    with pytest.raises(topwork.InvalidInput, match="there are no items"):
        both.embed("letters", [])
    assert list(both.embed_stream("letters", [])) == []


@pytest.mark.parametrize("position", [2, 64, 130])
def test_a_bad_item_is_named_by_the_callers_position(both: EitherClient, position: int) -> None:
    texts = numbers(150 if position > 10 else 4)
    texts[position] = "bad"
    with pytest.raises(topwork.InvalidInput) as caught:
        both.embed("letters", texts)
    assert caught.value.item == position
    assert caught.value.remedy == "send a good one"
    assert isinstance(caught.value, ValueError)


def test_priority_is_passed_on_and_another_word_is_refused(both: EitherClient, server: FakeServer) -> None:
    both.embed("letters", ["a"])
    both.embed("letters", ["a"], priority="low")
    both.embed_taps("letters", ["a"], ["pooled"], priority="high")
    assert [request.settings.priority for request in server.requests[-3:]] == [2, 1, 3]
    with pytest.raises(topwork.InvalidInput, match=r"'urgent'.*normal"):
        both.embed("letters", ["a"], priority="urgent")
    seen = len(server.requests)
    assert len(list(both.embed_stream("letters", ["a"], priority="high"))) == 1
    assert server.requests[seen].priority == 3


def test_a_role_is_passed_on_and_another_word_is_refused(both: EitherClient, server: FakeServer) -> None:
    both.embed("letters", ["a"])
    both.embed("letters", ["a"], role="query")
    both.embed_taps("letters", ["a"], ["pooled"], role="document")
    assert [request.settings.role for request in server.requests[-3:]] == [0, 1, 2]
    with pytest.raises(topwork.InvalidInput, match=r"'passage'.*document"):
        both.embed("letters", ["a"], role="passage")
    seen = len(server.requests)
    assert len(list(both.embed_stream("letters", ["a"], role="query"))) == 1
    assert server.requests[seen].role == 1


@pytest.mark.parametrize("count", [6, 150])
def test_bad_items_may_be_skipped(both: EitherClient, tmp_path: Path, count: int) -> None:
    path = tmp_path / "there.jpg"
    path.write_bytes(b"there")
    paths = [path] * count
    paths[1] = paths[-2] = tmp_path / "missing.jpg"
    features = both.embed("pictures", paths, skip_bad_items=True)
    assert len(features) == count - 2
    assert sorted(features.failures) == [1, count - 2]
    assert features.failures[count - 2].item == count - 2
    assert "there is no file" in features.failures[1].message
    assert features.counts[[0, 1, count - 2, count - 1]].tolist() == [1, 0, 0, 1]


def test_failures_of_the_server_carry_their_remedy(both: EitherClient) -> None:
    features = both.embed("letters", ["bad", "a"], skip_bad_items=True)
    assert isinstance(features.failures[0], topwork.InvalidInput)
    assert features.failures[0].remedy == "send a good one"
    assert features.of(0).shape == (0, DIM)
    assert features.of(1).shape == (1, DIM)


def test_a_missing_file_names_its_path_and_position(both: EitherClient, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "there.jpg"
    path.write_bytes(b"there")
    with pytest.raises(topwork.InvalidInput) as caught:
        both.embed("pictures", [path] * 100 + [tmp_path / "missing.jpg"])
    assert caught.value.item == 100
    assert str(tmp_path / "missing.jpg") in str(caught.value)


def test_chunks_of_an_endless_source(both: EitherClient, server: FakeServer) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken - 1)

    stream = both.embed_stream("letters", endless(), chunk=5)
    for start in range(0, 100, 5):
        features = next(stream)
        assert features.start == start
        assert features.rows[:, 0].tolist() == list(range(start, start + 5))
        assert features.items.tolist() == [0, 1, 2, 3, 4]
        assert taken <= start + 5 * (WINDOW + 2)
    stream.close()
    assert server.cancelled.wait(10)


def test_nothing_is_read_ahead_beyond_the_window(factory: ClientFactory, server: FakeServer) -> None:
    server.gate.clear()
    full, beyond = threading.Event(), threading.Event()

    def source() -> Iterator[str]:
        for i in range(100):
            if i + 1 == WINDOW:
                full.set()
            if i + 1 > WINDOW:
                beyond.set()
            yield str(i)

    stream = factory.open().embed_stream("letters", source(), chunk=1)
    answered = threading.Thread(target=lambda: next(stream))
    answered.start()
    assert full.wait(10)
    assert not beyond.wait(0.3)
    server.gate.set()
    answered.join()
    assert beyond.wait(10)
    stream.close()


def test_a_chunk_of_one_is_answered_as_soon_as_it_comes(both: EitherClient) -> None:
    answered = threading.Event()

    def source() -> Iterator[str]:
        for i in range(5):
            if i:
                assert answered.wait(10), "the answer to the item before did not come"
                answered.clear()
            yield str(i)

    for i, features in enumerate(both.embed_stream("letters", source(), chunk=1)):
        assert features[0, 0] == i
        answered.set()


def test_an_error_comes_after_the_chunks_before_it(both: EitherClient) -> None:
    stream = both.embed_stream("letters", [*numbers(7), b"not a text", "8"], chunk=3)
    assert [next(stream).start for _ in range(3)] == [0, 3, 6]
    with pytest.raises(topwork.InvalidInput, match="item 7: a bytes is not a text"):
        next(stream)


def test_the_callers_own_error_comes_through(both: EitherClient) -> None:
    def source() -> Iterator[str]:
        yield from numbers(100)
        raise ZeroDivisionError("of the caller's")

    with pytest.raises(ZeroDivisionError, match="of the caller's"):
        both.embed("letters", source())
    with pytest.raises(ZeroDivisionError):
        list(both.embed_stream("letters", source(), chunk=10))


def test_chunks_must_hold_something(both: EitherClient) -> None:
    with pytest.raises(topwork.InvalidInput, match="chunk is 0"):
        list(both.embed_stream("letters", ["a"], chunk=0))


def test_heavy_items_make_small_chunks(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_requests, "REQUEST", 2500)
    features = both.embed("pictures", [bytes(1000)] * 5 + [bytes(9000)])
    assert features.rows[:, 1].tolist() == [1000] * 5 + [9000]
    assert server.chunks == [2, 2, 1, 1]


def test_large_rows_make_small_chunks(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_requests, "REPLY", 10 * 12 * DIM * 4)
    both.embed("letters", ["ten letter"] * 25, tap="tokens")
    assert server.chunks == [10, 10, 5]


@pytest.mark.parametrize("encoder", ["clips", "sounds"])
@pytest.mark.parametrize("from_file", [True, False])
def test_a_long_file_goes_in_parts(
    both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_file: bool, encoder: str
) -> None:
    monkeypatch.setattr(items, "LONG_FILE", 1000)
    monkeypatch.setattr(items, "CHUNK_BYTES", 300)
    content = np.random.default_rng(0).bytes(1234)
    (tmp_path / "long.mp4").write_bytes(content)
    long: Any = tmp_path / "long.mp4" if from_file else content
    features = both.embed(encoder, [b"short", long, b"short too"])
    assert features.rows[:, 1].tolist() == [5, 1234, 9]
    assert features.rows[1, 3] == ord("c")
    assert server.chunks == [1, 1, 1]
    alone = both.embed(encoder, long)
    np.testing.assert_array_equal(alone.rows[0], features.rows[1])


def test_progress(both: EitherClient) -> None:
    seen: list[tuple[int, int | None]] = []
    both.embed("letters", numbers(130), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 130), (128, 130), (130, 130)]
    seen.clear()
    both.embed("letters", iter(numbers(3)), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, None)]


def test_nearest_words(both: EitherClient) -> None:
    found = both.nearest_words("words", ["a"] * 70, k=2)
    assert len(found) == 70
    assert found[0] == [("bird", 1.0), ("whale", 0.875)]
    assert found[0][0].word == "bird"
    with pytest.raises(topwork.InvalidInput) as caught:
        both.nearest_words("words", ["a"] * 69 + ["bad"])
    assert caught.value.item == 69
    with pytest.raises(topwork.InvalidInput, match="pictures has no vocabulary") as caught:
        both.nearest_words("pictures", ["owl"])
    assert caught.value.item is None
    assert "word vectors" in caught.value.remedy


def test_settings_of_the_connection(factory: ClientFactory, server: FakeServer) -> None:
    client = factory.open(gzip=True, timeout=30, metadata=[("authorization", "Bearer me")])
    client.embed("letters", ["a"])
    assert server.metadata[-1]["authorization"] == "Bearer me"
    assert 20 < (server.timeouts[-1] or 0) <= 30.5
    client.embed("letters", ["a"], timeout=9)
    assert 5 < (server.timeouts[-1] or 0) <= 9.5
    list(client.embed_stream("letters", ["a"]))
    assert server.metadata[-1]["authorization"] == "Bearer me"
    assert (server.timeouts[-1] or 1e9) > 1e6  # a stream may take as long as it likes


@pytest.mark.usefixtures("_briskly")
@pytest.mark.parametrize("refusal", [unavailable, overloaded, shed])
def test_a_call_is_tried_again(both: EitherClient, server: FakeServer, refusal: Any) -> None:
    server.plan = lambda method, attempt, answers: refusal() if attempt <= 2 else None
    assert both.embed("letters", ["12"])[0, 0] == 12
    assert server.tries == {"GetEncoder": 3, "Embed": 3}


@pytest.mark.usefixtures("_briskly")
def test_a_large_call_is_tried_again(both: EitherClient, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: unavailable() if attempt <= 2 else None
    assert both.embed("pictures", [bytes(3 << 20)])[0, 1] == 3 << 20
    assert server.tries["Embed"] == 3


def test_tries_come_to_an_end(factory: ClientFactory, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: overloaded()
    client = factory.open(retry_for=0.05)
    with pytest.raises(topwork.Overloaded, match="the queue is full"):
        client.encoders()
    assert server.tries["ListEncoders"] == 2
    server.plan = lambda method, attempt, answers: overloaded() if method != "GetEncoder" else None
    with pytest.raises(topwork.Overloaded, match="the queue is full"):
        client.embed("letters", numbers(100))
    assert server.tries["EmbedStream"] == 2


def test_no_tries_where_none_are_wanted(factory: ClientFactory, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: unavailable() if method != "GetEncoder" else None
    client = factory.open(retry_for=0)
    with pytest.raises(topwork.Unavailable):
        client.embed("letters", ["a"])
    with pytest.raises(topwork.Unavailable):
        client.embed("letters", numbers(100))
    assert server.tries == {"GetEncoder": 1, "Embed": 1, "EmbedStream": 1}


def test_what_was_refused_is_not_tried_again(both: EitherClient, server: FakeServer) -> None:
    with pytest.raises(topwork.InvalidInput):
        both.embed("letters", ["bad"])
    assert server.tries["Embed"] == 1


def test_what_can_never_fit_is_not_tried_again(both: EitherClient, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: too_large() if method != "GetEncoder" else None
    for count in (1, 100):
        with pytest.raises(topwork.TooLarge, match="it can never fit"):
            both.embed("letters", numbers(count))
    assert server.tries == {"GetEncoder": 1, "Embed": 1, "EmbedStream": 1}


@pytest.mark.usefixtures("_briskly")
@pytest.mark.parametrize("refusal", [unavailable, overloaded, shed])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_broken_stream_goes_on_where_it_was(both: EitherClient, server: FakeServer, refusal: Any, after: int) -> None:
    """The first two tries each break after so many answers."""
    server.plan = lambda method, attempt, answers: (
        refusal() if method == "EmbedStream" and attempt <= 2 and answers == after else None
    )
    features = both.embed("letters", (str(i) for i in range(500)))
    assert features.rows[:, 0].tolist() == list(range(500))
    assert server.tries["EmbedStream"] == 3


@pytest.mark.usefixtures("_briskly")
def test_a_long_video_is_sent_again_after_a_break(
    both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(items, "LONG_FILE", 1000)
    monkeypatch.setattr(items, "CHUNK_BYTES", 300)
    (tmp_path / "long.mp4").write_bytes(bytes(2000))
    server.plan = lambda method, attempt, answers: (
        unavailable() if method == "EmbedStream" and attempt == 1 and answers == 1 else None
    )
    features = both.embed("clips", [b"short", tmp_path / "long.mp4", b"short too"])
    assert features.rows[:, 1].tolist() == [5, 2000, 9]


def test_features_of_two_encoders_are_never_joined(both: EitherClient, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: (
        unavailable() if method == "EmbedStream" and attempt == 1 and answers == 1 else None
    )
    server.fingerprint = lambda attempt: FINGERPRINT if attempt == 1 else "ef" * 32
    with pytest.raises(topwork.NotReady, match=f"{FINGERPRINT}, then {'ef' * 32}"):
        both.embed("letters", numbers(200))


def test_a_deadline_that_passes(both: EitherClient, server: FakeServer) -> None:
    held = threading.Event()
    server.plan = lambda method, attempt, answers: held.wait(20) and None if method == "Embed" else None
    try:
        with pytest.raises(topwork.DeadlineExceeded, match=r"within 0\.2 s") as caught:
            both.embed("letters", ["a"], timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
    finally:
        held.set()


def test_a_stream_in_which_nothing_moves(both: EitherClient, server: FakeServer) -> None:
    server.gate.clear()
    with pytest.raises(topwork.DeadlineExceeded, match=r"within 0\.3 s"):
        both.embed("letters", numbers(200), timeout=0.3)
    assert server.cancelled.wait(10)


def test_the_time_of_a_slow_source_does_not_count(both: EitherClient) -> None:
    late = threading.Event()
    threading.Timer(0.6, late.set).start()

    def source() -> Iterator[str]:
        yield "1"
        late.wait(10)
        yield "2"

    assert [f[0, 0] for f in both.embed_stream("letters", source(), chunk=1, timeout=0.3)] == [1, 2]


def test_the_time_of_a_slow_reader_does_not_count(both: EitherClient) -> None:
    stream = both.embed_stream("letters", numbers(5), chunk=1, timeout=0.3)
    assert next(stream)[0, 0] == 0
    threading.Event().wait(0.6)
    assert [f[0, 0] for f in stream] == [1, 2, 3, 4]


def test_a_status_that_says_no_more(both: EitherClient, server: FakeServer) -> None:
    gone = Refusal(grpc.StatusCode.DATA_LOSS, message="gone")
    server.plan = lambda method, attempt, answers: gone if method == "Embed" else None
    with pytest.raises(topwork.TopworkError, match="gone") as caught:
        both.embed("letters", ["a"])
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


def test_a_message_that_no_server_would_take(both: EitherClient, server: FakeServer) -> None:
    with pytest.raises(topwork.TooLarge, match="item 1: a bytes takes 61 MiB"):
        both.embed("pictures", [b"small", bytes(61 << 20)])
    assert server.tries["Embed"] == 0


def test_nobody_there(factory: ClientFactory) -> None:
    factory.target = "127.0.0.1:1"
    client = factory.open(retry_for=0)
    with pytest.raises(
        topwork.Unavailable, match=r"^no answer from 127\.0\.0\.1:1: Connection refused \(.*topwork serve.*\)$"
    ) as caught:
        client.encoders()
    assert isinstance(caught.value, ConnectionError)
