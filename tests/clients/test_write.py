"""Writes, on both clients: what is sent, in which chunks, what is refused before anything is, what is reported."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from fake_server import DIM, FINGERPRINT, FakeServer, Refusal, overloaded, unavailable
from topwork._codec import items
from topwork._ops import write_chunks
from topwork._transport.upload_stream import WINDOW
from topwork.v1 import sets_pb2


def numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def sent(server: FakeServer) -> list[sets_pb2.WriteRows]:
    """The messages of rows that came."""
    return [r.rows for r in server.requests if isinstance(r, sets_pb2.WriteRequest) and r.HasField("rows")]


def broken(method: str, answer: int, refusal: Any = unavailable, tries: int = 1) -> Any:
    """A plan in which the first tries of a stream break at that answer."""
    return lambda name, attempt, answers: refusal() if name == method and attempt <= tries and answers == answer else None


def test_items_make_a_set(both: EitherClient, server: FakeServer) -> None:
    report = both.write(
        "birds", ["a", "bb", "ccc"], ["x", 7, "z"], [{"year": 2020}, {}, {"label": "owl"}], encoder="letters", keep_inputs=True
    )
    assert (report.items, report.inserted, report.encoded, report.version) == (3, 3, 3, 2)
    rows = both.read("birds", inputs=True)
    assert rows.ids == ["x", "7", "z"]
    assert rows.features["pooled"].rows[:, 1].tolist() == [1, 2, 3]
    assert rows.metadata == {"year": [2020, None, None], "label": [None, None, "owl"]}
    assert rows.inputs == ["a", "bb", "ccc"]
    again = both.write("birds", ["dd"], [7])
    assert (again.inserted, again.updated) == (0, 1)
    assert server.sets.sets["birds"].settings.keep_inputs


def test_the_settings_say_what_was_asked_and_no_more(both: EitherClient, server: FakeServer) -> None:
    both.write(
        "birds",
        ["a"],
        ["a"],
        encoder="letters",
        taps=["tokens"],
        options={"truncate": True},
        dtype="float16",
        skip_bad_items=True,
    )
    settings = server.sets.sets["birds"].settings
    assert (list(settings.taps), dict(settings.options)) == (["tokens"], {"truncate": True})
    assert (settings.dtype, settings.skip_bad_items) == (2, True)
    both.write("birds", ["b"], ["b"])
    bare = [r for r in server.requests if isinstance(r, sets_pb2.WriteSettings)][-1]
    assert bare == sets_pb2.WriteSettings(set="birds")


def test_many_items_go_in_chunks(both: EitherClient, server: FakeServer) -> None:
    report = both.write("birds", (str(i) for i in range(300)), (i for i in range(300)), encoder="letters")
    assert (report.items, report.inserted) == (300, 300)
    assert [len(rows.ids) for rows in sent(server)] == [128, 128, 44]
    assert both.read("birds").features["pooled"].rows[:, 0].tolist() == list(range(300))


def test_a_lone_item_with_its_row(both: EitherClient) -> None:
    both.write("birds", "a red bird", "x", {"label": "owl"}, encoder="letters")
    rows = both.read("birds")
    assert (rows.ids, rows.metadata) == (["x"], {"label": ["owl"]})


def test_ids_of_pictures_default_to_their_paths(both: EitherClient, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(150)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes(i + 1))
    both.write("pictures", paths, encoder="pictures")
    rows = both.read("pictures")
    assert rows.ids == [str(path) for path in paths]
    assert rows.features["pooled"].rows[:, 1].tolist() == list(range(1, 151))
    with pytest.raises(topwork.InvalidInput, match="item 1: a bytes has no id"):
        both.write("pictures", [paths[0], b"123"])
    with pytest.raises(topwork.InvalidInput, match=r"0\.jpg' comes twice"):
        both.write("pictures", [paths[0], paths[0]])


def test_what_is_refused_before_anything_is_sent(both: EitherClient, server: FakeServer) -> None:
    def refused(match: str, *arguments: Any, **settings: Any) -> None:
        with pytest.raises(topwork.InvalidInput, match=match):
            both.write("birds", *arguments, **settings)

    refused("id 'a' comes twice", ["1", "2", "3"], ["a", "b", "a"], encoder="letters")
    refused("item 2:", ["1", "2", "3"], ["a", "b", "a"], encoder="letters")
    refused("item 1: a float is no id", ["1", "2"], ["a", 1.5], encoder="letters")
    refused("there are no ids", ["1", "2"], encoder="letters")
    refused("there are no ids", vectors=np.eye(2))
    refused("2 items, 3 ids", ["1", "2"], ["a", "b", "c"], encoder="letters")
    refused("2 items, 2 ids, 1 rows of metadata", ["1", "2"], ["a", "b"], [{}], encoder="letters")
    refused("of items or of vectors")
    refused("of items or of vectors", ["1"], ["a"], vectors=np.eye(1))
    refused("there is no set 'birds' yet", ["1"], ["a"])
    refused("do not keep 'int8'", ["1"], ["a"], encoder="letters", dtype="int8")
    refused("columns of different lengths", ["1", "2"], ["a", "b"], {"x": [1, 2], "y": [1]}, encoder="letters")
    refused("names no column", ["1"], ["a"], [{3: 1}], encoder="letters")
    refused("item 1: metadata is an int", ["1", "2"], ["a", "b"], [{}, 3], encoder="letters")
    assert server.tries["Write"] == 0


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([True, None, np.bool_(False)], "bool", [True, None, False]),
        ([1, np.int64(2), None], "int", [1, 2, None]),
        ([1, 2.5, np.float32(0.5)], "float", [1.0, 2.5, 0.5]),
        ([1, float("nan"), 3], "int", [1, None, 3]),
        ([float("nan"), "a", None], "string", [None, "a", None]),
        ([["a", "b"], (), None], "strings", [["a", "b"], [], None]),
        (
            [datetime(2024, 5, 1, 12, 30, 0, 7), date(1969, 12, 31), np.datetime64("NaT")],
            "time",
            [datetime(2024, 5, 1, 12, 30, 0, 7, UTC), datetime(1969, 12, 31, tzinfo=UTC), None],
        ),
    ],
)
@pytest.mark.parametrize("shape", ["rows", "columns", "stream"])
def test_types_of_columns(both: EitherClient, values: list[Any], kind: str, stored: list[Any], shape: str) -> None:
    metadata: Any = {"c": values} if shape == "columns" else [{"c": value} for value in values]
    both.write("birds", ["a", "b", "c"], [1, 2, 3], iter(metadata) if shape == "stream" else metadata, encoder="letters")
    rows = both.read("birds")
    assert rows.metadata == {"c": stored}
    assert rows.column_types == {"c": kind}
    assert both.set("birds").columns == {"c": kind}


@pytest.mark.parametrize(
    ("values", "item", "key"),
    [
        ([1, "a"], 1, r"column 'c' holds int values, but here 'a'"),
        (["a", 1], 1, r"column 'c' holds string values, but here 1"),
        ([1, True], 1, "but here True"),
        ([None, {}], 1, "column 'c' holds a dict"),
        ([b"", "a"], 0, "column 'c' holds a bytes"),
        ([["a"], [1]], 1, "lists hold strings"),
        ([1 << 63, 1], 0, "does not fit into 64 bits"),
        (["a", "\ud800"], 1, "not valid Unicode"),
    ],
)
def test_a_value_of_another_type_is_named(both: EitherClient, values: list[Any], item: int, key: str) -> None:
    with pytest.raises(topwork.InvalidInput, match=key) as caught:
        both.write("birds", numbers(2), [1, 2], {"c": values}, encoder="letters")
    assert caught.value.item == item


def test_a_column_keeps_its_type(both: EitherClient, server: FakeServer) -> None:
    """Over the chunks of a call, and that of the set."""
    ends = [{"c": 1.5} if i == 299 else {"c": i} for i in range(300)]
    both.write("floats", numbers(300), range(300), ends, encoder="letters")
    assert both.set("floats").columns == {"c": "float"}
    both.write("floats", ["a"], ["a"], [{"c": 2}])
    both.write("ints", ["a"], ["a"], {"c": [7]}, encoder="letters")
    both.write("ints", ["b", "c"], ["b", "c"], {"c": [8.0, float("nan")]})
    assert both.read("ints").metadata["c"] == [7, 8, None]
    both.write("ints", numbers(300), range(300), iter(ends))
    assert both.read("ints", ids=["299"]).metadata["c"] == [1.5]


def test_columns_of_other_libraries(both: EitherClient) -> None:
    import pyarrow as pa

    class Frame:
        """What of a data frame is used."""

        columns = ("year", "seen")
        iloc = None

        def __getitem__(self, name: str) -> Any:
            return {"year": np.array([1, 2]), "seen": np.array(["2024-01-01", "NaT"], "datetime64[ns]")}[name]

    both.write("birds", ["a", "b"], np.arange(2), Frame(), encoder="letters")
    assert both.read("birds").metadata == {"year": [1, 2], "seen": [datetime(2024, 1, 1, tzinfo=UTC), None]}
    both.write("other", ["a", "b"], pa.array(["x", "y"]), pa.table({"year": [3, None]}), encoder="letters")
    assert both.read("other").metadata == {"year": [3, None]}


def test_vectors(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_chunks, "VECTOR_BYTES", 10 * 3 * 4)
    report = both.write("mine", vectors=np.arange(75.0).reshape(25, 3), ids=range(25), metadata={"n": range(25)})
    assert (report.items, report.inserted, report.encoded) == (25, 25, 0)
    assert [len(rows.ids) for rows in sent(server)] == [10, 10, 5]
    rows = both.read("mine")
    assert rows.features["vectors"].rows.tolist() == np.arange(75.0).reshape(25, 3).tolist()
    assert rows.features["vectors"].rows.dtype == np.float32
    assert rows.metadata["n"] == list(range(25))
    both.write("mine", vectors=np.ones((2, 3), np.float16), ids=["a", "b"])
    assert sent(server)[-1].features[0].rows.dtype == 2


def test_features_say_what_they_are(both: EitherClient, server: FakeServer) -> None:
    tokens = both.embed("letters", ["one two", "three"], tap="tokens")
    both.write("mine", vectors=tokens, ids=["a", "b"])
    [tap] = both.set("mine").taps
    assert (tap.name, tap.granularity, tap.fingerprint) == ("tokens", "token", tokens.fingerprint)
    assert both.set("mine").numerics[0].provider == "fake"
    back = both.read("mine").features["tokens"]
    assert back.counts.tolist() == [2, 1]
    assert back.spans.tolist() == tokens.spans.tolist()
    assert (back.span_kind, back.numerics.parity) == ("characters", 1.0)
    both.write("copy", vectors=back, ids=["a", "b"])
    np.testing.assert_array_equal(both.read("copy").features["tokens"].rows, tokens.rows)


def test_several_taps_and_several_pieces(both: EitherClient, server: FakeServer) -> None:
    both.write("mine", vectors={"x": np.eye(3), "y": np.ones((3, 2))}, ids=range(3), fingerprint={"x": "aa", "y": "bb"})
    assert {tap.name: (tap.dim, tap.fingerprint) for tap in both.set("mine").taps} == {"x": (3, "aa"), "y": (2, "bb")}
    chunks = list(both.embed_stream("letters", numbers(10), chunk=4))
    both.write("piped", vectors=chunks, ids=range(10))
    both.write("piped", vectors=iter(chunks), ids=itertools.count())
    assert both.read("piped").features["pooled"].rows[:, 0].tolist() == list(range(10))
    with pytest.raises(topwork.InvalidInput, match="different numbers of items: x 3, y 2"):
        both.write("mine", vectors={"x": np.eye(3), "y": np.ones((2, 2))}, ids=range(3))


def test_vectors_that_cannot_be(both: EitherClient, server: FakeServer) -> None:
    def refused(match: str, vectors: Any, **settings: Any) -> None:
        with pytest.raises((topwork.InvalidInput, topwork.NotReady), match=match):
            both.write("birds", vectors=vectors, ids=["a"], **settings)

    both.write("birds", ["a"], ["a"], encoder="letters")
    tries = server.tries["Write"]
    refused("do not say which encoder", np.ones((1, DIM)))
    refused(r"shape \[2, 1, 1\]|1 ids", np.ones((2, 1, 1)))
    refused(r"shape \[1\]", np.ones(1))
    refused("of str", [["a"]])
    refused("of bool", np.ones((1, 3), bool))
    refused("features of int8", both.embed("letters", ["a"], dtype="int8"))
    refused("ab, not cd", both.embed("letters", ["a"]), fingerprint="cd" * 32)
    refused("item 0: it has no features: a bad text", both.embed("letters", ["bad"], skip_bad_items=True))
    both.write("birds", vectors=np.ones((1, DIM)), ids=["b"], fingerprint=FINGERPRINT)
    assert server.tries["Write"] == tries + 8


def test_bad_items_are_named_or_skipped(both: EitherClient, tmp_path: Path) -> None:
    texts = numbers(200)
    texts[150] = "bad"
    with pytest.raises(topwork.InvalidInput) as caught:
        both.write("birds", texts, [f"n{i}" for i in range(200)], encoder="letters")
    assert (caught.value.item, caught.value.remedy) == (150, "send a good one")
    assert len(both.read("birds")) == 128
    report = both.write("birds", texts, [f"n{i}" for i in range(200)], skip_bad_items=True)
    assert report.inserted + report.updated == 199
    assert report.items == 200
    assert report.failures[150].remedy == "send a good one"
    assert report.failed_ids == {150: "n150"}
    (tmp_path / "a.jpg").write_bytes(b"1")
    report = both.write("pictures", [tmp_path / "a.jpg", tmp_path / "b.jpg"], encoder="pictures", skip_bad_items=True)
    assert "there is no file" in report.failures[1].message
    assert report.failed_ids == {1: str(tmp_path / "b.jpg")}


def test_acknowledgements_come_as_chunks_are_on_disk(both: EitherClient, server: FakeServer) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken - 1)

    stream = both.write_stream("birds", endless(), itertools.count(), ({"n": i} for i in itertools.count()), encoder="letters")
    for number in range(1, 4):
        acknowledged = next(stream)
        assert (acknowledged.start, acknowledged.watermark) == (128 * (number - 1), 128 * number)
        assert acknowledged.inserted == 128
        assert len(server.sets.sets["birds"].items) >= 128 * number
        assert taken <= 128 * (number + WINDOW + 2)
    stream.close()
    assert server.cancelled.wait(10)


@pytest.mark.parametrize("refusal", [unavailable, overloaded])
@pytest.mark.parametrize("when", ["Write", "Written"])
def test_a_broken_write_goes_on_where_it_was(both: EitherClient, server: FakeServer, refusal: Any, when: str) -> None:
    server.plan = broken(when, 2, refusal)
    report = both.write("birds", numbers(600), range(600), encoder="letters")
    assert report.items == 600
    assert server.tries["Write"] == 2
    assert both.read("birds").ids == [str(i) for i in range(600)]


def test_a_full_disk_is_not_tried_again(both: EitherClient, server: FakeServer) -> None:
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "DiskFull", "no space left", "free some")
    server.plan = lambda method, attempt, answers: full if method == "Write" else None
    with pytest.raises(topwork.DiskFull, match=r"no space left \(free some\)"):
        both.write("birds", ["a"], ["a"], encoder="letters")
    assert server.tries["Write"] == 1


def test_large_metadata_makes_small_chunks(both: EitherClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_chunks, "MOST_BYTES", 5000)
    metadata = [{"text": "x" * (9000 if i == 10 else 1000)} for i in range(20)]
    report = both.write("mine", vectors=np.ones((20, 3)), ids=range(20), metadata=metadata)
    assert report.inserted == 20
    assert all(len(rows.ids) == 1 or rows.ByteSize() <= 5000 for rows in sent(server))
    assert [len(rows.ids) for rows in sent(server)].count(1) >= 1
    assert [len(text) for text in both.read("mine").metadata["text"]] == [9000 if i == 10 else 1000 for i in range(20)]
    texts = ["bad" if i == 13 else "a" for i in range(20)]
    report = both.write("birds", texts, range(20), metadata, encoder="letters", skip_bad_items=True)
    assert report.failed_ids == {13: "13"}


def test_a_long_video_goes_in_parts(both: EitherClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(items, "LONG_FILE", 1000)
    monkeypatch.setattr(items, "CHUNK_BYTES", 300)
    (tmp_path / "long.mp4").write_bytes(bytes(1234))
    both.write("clips", [b"short", tmp_path / "long.mp4"], ["a", "b"], encoder="clips")
    assert both.read("clips").features["pooled"].rows[:, 1].tolist() == [5, 1234]


def test_sources_that_end_too_soon(both: EitherClient) -> None:
    with pytest.raises(topwork.InvalidInput, match="item 2: it has no id"):
        both.write("birds", iter(numbers(3)), ["a", "b"], encoder="letters")
    with pytest.raises(topwork.InvalidInput, match="metadata ends after 1 item "):
        both.write("birds", numbers(3), range(3), iter([{}]), encoder="letters")
    with pytest.raises(topwork.InvalidInput, match="more ids than the 3 items, from 'd' on"):
        both.write("birds", iter(numbers(3)), ["a", "b", "c", "d"], encoder="letters")


def test_progress(both: EitherClient) -> None:
    seen: list[tuple[int, int | None]] = []
    both.write("birds", numbers(130), range(130), encoder="letters", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(128, 130), (130, 130)]


def test_nothing_is_written(both: EitherClient) -> None:
    both.write("birds", ["a"], ["a"], encoder="letters")
    assert both.write("birds", [], []).items == 0


def test_a_write_in_which_nothing_moves(both: EitherClient, server: FakeServer) -> None:
    server.gate.clear()
    with pytest.raises(topwork.DeadlineExceeded, match=r"within 0\.3 s"):
        both.write("birds", ["a"], ["a"], encoder="letters", timeout=0.3)
    assert server.cancelled.wait(10)


def test_many_threads_write_at_once(client: topwork.Client, server: FakeServer) -> None:
    client.write("birds", ["a"], ["a"], encoder="letters")
    ids = [[f"{t}-{i}" for i in range(200)] for t in range(4)]
    threads = [threading.Thread(target=client.write, args=("birds", numbers(200), mine)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.tries["Write"] == 5
