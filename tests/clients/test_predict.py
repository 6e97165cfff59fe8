"""Predictions of items, vectors and stored items, on both clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from fake_server import DIM, FINGERPRINT, FakeServer, unavailable
from topwork._codec import items
from topwork._ops import item_requests, predict
from topwork.v1 import heads_pb2

NAMES = ("low", "middle", "high")


def numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def expected(count: int) -> list[str]:
    return [NAMES[i % 3] for i in range(count)]


def chunks(server: FakeServer) -> list[int]:
    sent = [request for request in server.requests if isinstance(request, heads_pb2.PredictStreamRequest)]
    return [len(request.items.items) for request in sent if request.HasField("items")]


def last(server: FakeServer) -> heads_pb2.PredictRequest:
    return [request for request in server.requests if isinstance(request, heads_pb2.PredictRequest)][-1]


def test_classes(both: EitherClient, server: FakeServer) -> None:
    found = both.predict("kinds", ["0", "4", "8"])
    assert found.labels == ["low", "middle", "high"]
    assert found.probabilities.shape == (3, 3)
    assert found.probabilities.dtype == np.float32
    assert (found.task, found.names, found.fingerprint, found.version) == ("classification", NAMES, FINGERPRINT, "5")
    first = found[0]
    assert (first.label, first.probability, first.value, first.spans) == ("low", 0.75, None, None)
    assert next(iter(first.probabilities.items())) == ("low", 0.75)
    assert [prediction.label for prediction in found] == found.labels
    assert [prediction.label for prediction in found[1:]] == found.labels[1:]
    assert repr(first) == "<Prediction low 0.750>"
    assert repr(found).splitlines()[:2] == ["<Predictions of kinds (classification): 3 items>", "  low 0.750"]
    assert (found.features, found.values, found.low, found.masks) == (None, None, None, None)
    assert server.tries == {"GetHead": 1, "GetEncoder": 1, "Predict": 1}
    with pytest.raises(IndexError):
        found[3]


def test_the_head_is_asked_for_once(both: EitherClient, server: FakeServer) -> None:
    for _ in range(3):
        both.predict("kinds", ["1"])
    assert server.tries == {"GetHead": 1, "GetEncoder": 1, "Predict": 3}


def test_a_lone_item_is_one(both: EitherClient) -> None:
    assert both.predict("kinds", "4").labels == ["middle"]


def test_the_best_of_many_classes(both: EitherClient, server: FakeServer) -> None:
    found = both.predict("kinds", ["1", "2"], top=2)
    assert found.probabilities.shape == found.best.shape == (2, 2)
    assert found.labels == ["middle", "high"]
    assert dict(found[0].probabilities) == {"middle": 0.75, "low": 0.125}
    assert last(server).settings.top == 2


def test_several_labels(both: EitherClient) -> None:
    found = both.predict("tags", ["0", "2"])
    assert found.labels == [("low", "middle"), ("high", "low")]
    assert found[1].labels == ("high", "low")
    assert str(found[1]) == "high 0.750, low 0.500"
    assert (found[1].label, found[1].probabilities["middle"]) == (None, 0.125)


def test_numbers_have_a_band(both: EitherClient) -> None:
    found = both.predict("size", ["3", "40"])
    assert found.values.tolist() == [3, 40]
    assert (found.low.tolist(), found.high.tolist()) == ([2.5, 39.5], [3.5, 40.5])
    assert (found[1].value, found[1].low, found[1].high) == (40, 39.5, 40.5)
    assert repr(found[1]) == "<Prediction 40 (39.5 to 40.5)>"
    assert found.labels is None


def test_spans_are_cut_out_of_the_texts(both: EitherClient) -> None:
    found = both.predict("words", ["Ødön 🦉 lives", "x"])
    [span] = found[0].spans
    assert span == topwork.FoundSpan(0, 4, "FIRST", "Ødön", pytest.approx(0.9), 0)
    assert found.spans[1][0].text == "x"
    assert repr(found[1]) == "<Prediction FIRST 'x' 0.900>"


def test_answers_are_cut_out_of_the_context(both: EitherClient) -> None:
    found = both.predict("answers", [("who?", "Ada did it"), ("where?", "London")])
    assert [prediction.answer for prediction in found] == ["Ada", "London"]
    assert found[0].spans[0].part == 1


def test_an_item_may_fail_for_one_head_alone(both: EitherClient) -> None:
    found = both.predict(["size", "answers"], ["7", ("who?", "Ada did")], skip_bad_items=True)
    assert (found["size"].values.tolist(), found["size"].failures) == ([7, 12], {})
    assert (list(found["answers"].failures), found["answers"][1].answer) == ([0], "Ada")
    assert found["answers"][0].error is found["answers"].failures[0]


def test_masks(both: EitherClient) -> None:
    found = both.predict("cells", [b"picture"] * 70)
    assert found.masks.shape == found.confidences.shape == (70, 2, 2)
    assert found.masks.dtype == np.uint8
    assert found.boxes.shape == (70, 4)
    assert found[69].mask.tolist() == [[0, 1], [2, 0]]
    assert found[0].box == (0, 0, 32, 16)
    assert repr(found[0]) == "<Prediction mask 2x2>"


def test_several_heads_in_one_pass(both: EitherClient, server: FakeServer) -> None:
    found = both.predict(["kinds", "size"], numbers(100), features=True)
    assert list(found) == ["kinds", "size"]
    assert found["kinds"].labels == expected(100)
    assert found["size"].values.tolist() == list(range(100))
    assert found["size"].features.rows[:, 0].tolist() == list(range(100))
    assert found["kinds"].features.fingerprint == FINGERPRINT
    assert found["kinds"].features.encoder == "letters"
    assert server.tries["PredictStream"] == 1


def test_many_items_are_streamed_in_order(both: EitherClient, server: FakeServer) -> None:
    seen: list[tuple[int, int | None]] = []
    found = both.predict("kinds", numbers(200), progress=lambda done, total: seen.append((done, total)))
    assert found.labels == expected(200)
    assert len(found) == 200
    assert chunks(server) == [64, 64, 64, 8]
    assert seen == [(64, 200), (128, 200), (192, 200), (200, 200)]
    assert found.timings.compute == 4.0


def test_large_features_make_small_chunks(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_requests, "REPLY", 10 * DIM * 4)
    both.predict("kinds", numbers(25))
    both.predict("kinds", numbers(25), features=True)
    assert chunks(server) == [10, 10, 5]


def test_a_stream_that_breaks_goes_on(both: EitherClient, server: FakeServer) -> None:
    server.plan = lambda method, attempt, answers: unavailable() if attempt <= 2 and answers == 2 else None
    found = both.predict("kinds", (str(i) for i in range(400)))
    assert found.labels == expected(400)
    assert server.tries["PredictStream"] == 3


def test_a_head_that_is_exchanged_meanwhile(both: EitherClient, server: FakeServer) -> None:
    server.heads.trained = lambda answers: str(5 + answers)
    with pytest.raises(topwork.NotReady, match="the head kinds was trained again while it was used"):
        both.predict("kinds", numbers(100))


def test_a_long_video_goes_in_parts(
    both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(items, "LONG_FILE", 1000)
    monkeypatch.setattr(items, "CHUNK_BYTES", 300)
    (tmp_path / "long.mp4").write_bytes(bytes(1234))
    found = both.predict("motions", [b"short", tmp_path / "long.mp4"])
    assert found.labels == [NAMES[5 % 3], NAMES[1234 % 3]]
    assert chunks(server) == [1, 1]


@pytest.mark.parametrize("count", [4, 150])
def test_a_bad_item_is_named_by_the_callers_position(both: EitherClient, count: int) -> None:
    texts = numbers(count)
    texts[-2] = "bad"
    with pytest.raises(topwork.InvalidInput) as caught:
        both.predict("kinds", texts)
    assert (caught.value.item, caught.value.remedy) == (count - 2, "send a good one")


@pytest.mark.parametrize("count", [4, 150])
def test_bad_items_may_be_skipped(both: EitherClient, count: int) -> None:
    texts: list[Any] = numbers(count)
    texts[1], texts[-2] = "bad", b"no text"
    found = both.predict("kinds", texts, skip_bad_items=True, features=True)
    assert sorted(found.failures) == [1, count - 2]
    assert found.failures[1].message == "a bad text"
    assert found.failures[count - 2].message == "a bytes is not a text"
    assert (found.labels[0], found.labels[1], found.labels[-1]) == ("low", None, NAMES[(count - 1) % 3])
    assert both.predict("kinds", texts, top=1, skip_bad_items=True).labels == found.labels
    assert np.isnan(found.probabilities[1]).all()
    assert found[1].error is found.failures[1]
    assert "2 failed" in repr(found)
    assert "skipped: item 1: a bad text" in repr(found[1])


def test_vectors(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((7, DIM))
    rows[:, 0] = range(7)
    monkeypatch.setattr(predict, "MOST", 3)
    seen: list[tuple[int, int | None]] = []
    found = both.predict("kinds", vectors=rows, progress=lambda done, total: seen.append((done, total)))
    assert found.labels == expected(7)
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert both.predict("kinds", vectors=rows[4]).labels == ["middle"]
    assert list(both.predict(["kinds", "size"], vectors=rows)) == ["kinds", "size"]
    with pytest.raises(topwork.NotReady, match="fingerprint aa is not"):
        both.predict("kinds", vectors=rows, fingerprint="aa")
    with pytest.raises(topwork.InvalidInput, match=r"shape \[1, 1, 4\]"):
        both.predict("kinds", vectors=np.ones((1, 1, 4)))


def test_features_are_vectors_that_say_their_fingerprint(both: EitherClient, server: FakeServer) -> None:
    found = both.predict("kinds", vectors=both.embed("letters", numbers(3)))
    assert found.labels == expected(3)
    assert last(server).fingerprint == FINGERPRINT
    with pytest.raises(topwork.InvalidInput, match="item 1: the item has 2 rows"):
        both.predict("kinds", vectors=both.embed("letters", ["a", "b c"], tap="tokens"))


def test_stored_items(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    both.write("birds", numbers(5), list("abcde"), encoder="letters")
    monkeypatch.setattr(predict, "MOST", 2)
    assert both.predict("kinds", set="birds", ids=list("edcba")).labels == expected(5)[::-1]
    assert server.tries["Predict"] == 3
    assert both.predict("kinds", set="birds", ids="b").labels == ["middle"]
    with pytest.raises(topwork.InvalidInput, match="item 3: no item 'x'"):
        both.predict("kinds", set="birds", ids=["a", "b", "c", "x"])
    [span] = both.predict("words", set="birds", ids="a")[0].spans
    assert (span.text, span.end) == ("", 3)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"items": ["a"], "vectors": np.ones((1, DIM))},
        {"items": ["a"], "set": "birds"},
        {"set": "birds"},
        {"ids": ["a"]},
        {"items": ["a"], "top": -1},
        {"items": ["a"], "options": {"truncate": object()}},
    ],
)
def test_what_cannot_be_asked_is_refused_here(both: EitherClient, server: FakeServer, asked: dict[str, Any]) -> None:
    with pytest.raises(topwork.InvalidInput):
        both.predict("kinds", **asked)
    assert not server.requests


def test_no_heads_and_no_items(both: EitherClient) -> None:
    with pytest.raises(topwork.InvalidInput, match="no head is named"):
        both.predict([], ["a"])
    with pytest.raises(topwork.InvalidInput, match="there are no items"):
        both.predict("kinds", [])
    with pytest.raises(topwork.NotFound, match="no head 'nobody'"):
        both.predict("nobody", ["a"])


def test_a_head_that_went_is_asked_for_again(both: EitherClient, server: FakeServer) -> None:
    both.predict("kinds", ["1"])
    kinds = server.heads.heads.pop("kinds")
    with pytest.raises(topwork.NotFound):
        both.predict("kinds", ["1"])
    server.heads.heads["kinds"] = kinds
    both.predict("kinds", ["1"])
    assert server.tries["GetHead"] == 2


def test_options_are_sent(both: EitherClient, server: FakeServer) -> None:
    both.predict("kinds", ["1"], options={"truncate": True})
    assert dict(last(server).settings.options) == {"truncate": True}
