"""How results look in a notebook, and what goes to other processes."""

from __future__ import annotations

import base64
import io
import multiprocessing
import operator
import pickle
import re
from typing import Any

import grpc
import numpy as np
import pytest
import topwork
from both_clients import EitherClient
from fake_server import FakeServer
from PIL import Image

EVIL = "<script>alert(1)</script>"


def jpeg(size: tuple[int, int] = (800, 600)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, "JPEG")
    return out.getvalue()


def thumbnails(html: str) -> list[Any]:
    found = re.findall(r'<img [^>]*src="data:image/\w+;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


@pytest.mark.parametrize("keep", [True, False])
def test_hits_with_pictures_where_the_set_keeps_them(both: EitherClient, keep: bool) -> None:
    both.write(
        "pics", [jpeg(), jpeg((60, 90))], [EVIL, "b"], [{"label": EVIL}, {"label": "x"}], encoder="pictures", keep_inputs=keep
    )
    html = both.search("pics", jpeg())._repr_html_()
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    pictures = thumbnails(html)
    assert len(pictures) == (2 if keep else 0)
    assert all(max(picture.size) <= 96 for picture in pictures)
    assert "<th" in html
    assert "label" in html


def test_hits_with_texts(both: EitherClient) -> None:
    both.write("texts", [EVIL, ("a", "b")], ["1", "2"], encoder="letters", keep_inputs=True)
    html = both.search("texts", stored="1")._repr_html_()
    assert "a | b" in html
    html = both.search("texts", "x")._repr_html_()
    assert EVIL not in html
    assert "&lt;script&gt;" in html


def test_features_show_their_first_rows(both: EitherClient) -> None:
    html = both.embed("letters", [str(i) for i in range(12)])._repr_html_()
    assert html.count("<tr>") == 1 + 10
    assert "12 rows of" in html
    assert "2 more rows" in html
    assert "characters" in both.embed("letters", ["a b"], tap="tokens")._repr_html_()


def test_hits_outlive_their_client(server: FakeServer) -> None:
    with topwork.Client(server.target) as client:
        client.write("pics", [jpeg()], ["a"], encoder="pictures", keep_inputs=True)
        hits = client.search("pics", jpeg())
    assert "1 hit by cosine" in hits._repr_html_()
    again = pickle.loads(pickle.dumps(hits))
    assert (again.ids, again._repr_html_()) == (hits.ids, hits._repr_html_())


def test_rows(both: EitherClient) -> None:
    items = [jpeg(), np.zeros((300, 200, 3), np.uint8), b"\xff\xd8\xffno picture"]
    both.write("pics", items, [EVIL, "b", "c"], {"n": [1, None, 3]}, encoder="pictures", keep_inputs=True)
    html = both.read("pics", inputs=True)._repr_html_()
    assert EVIL not in html
    assert [max(picture.size) <= 100 for picture in thumbnails(html)] == [True, True]
    assert "13 bytes" in html
    assert "pooled" in html
    assert "<img" not in both.read("pics")._repr_html_()
    both.write("many", [str(i) for i in range(30)], range(30), encoder="letters")
    assert "... and 20 more" in both.read("many")._repr_html_()
    assert both.read("many", ids=[])._repr_html_()


def test_sets(both: EitherClient) -> None:
    both.write("s", ["a"], ["1"], {f"column_{i}": [1] for i in range(40)}, encoder="letters")
    html = both.set("s")._repr_html_()
    assert "column_4 (int) and 35 more" in html
    assert "letters" in html


def test_reprs_are_short(both: EitherClient) -> None:
    report = both.write("s", ["a"], ["1"], {f"column_{i}": [1] for i in range(40)}, encoder="letters")
    index = both.create_index("s")
    for found in (report, both.set("s"), both.encoder("letters"), index, both.read("s"), topwork.Client("127.0.0.1:1")):
        assert "\n" not in repr(found)
        assert len(repr(found)) < 200, repr(found)
        assert type(found).__name__ in repr(found)
    assert repr(both.set("s")).startswith("<SetInfo s: 1 item of letters, version ")


def test_long_ids_show_where_paths_differ() -> None:
    ids = [f"/data/{'deep/' * 20}owl-{i}.jpg" for i in range(2)]
    first, second = repr(topwork.Hits(ids, np.ones(2, np.float32))).splitlines()[1:]
    assert first.endswith("owl-0.jpg")
    assert second.endswith("owl-1.jpg")


@pytest.mark.parametrize("kind", [topwork.Client, topwork.AsyncClient])
def test_clients_pickle(kind: Any, server: FakeServer, runner: Any) -> None:
    client = kind(server.target, timeout=7, retry_for=3, gzip=True, metadata=[("authorization", "Bearer me")])
    again = pickle.loads(pickle.dumps(client))
    found = again.encoder("letters")
    assert (runner.run(found) if kind is topwork.AsyncClient else found).name == "letters"
    assert server.metadata[-1]["authorization"] == "Bearer me"
    assert (server.timeouts[-1] or 0) <= 7.5
    for one in (client, again):
        closing = one.close()
        if closing is not None:
            runner.run(closing)
    secret = kind(server.target, credentials=grpc.ssl_channel_credentials())
    with pytest.raises(topwork.InvalidInput, match="open a client in each process"):
        pickle.dumps(secret)


def test_a_client_goes_to_another_process(server: FakeServer, client: topwork.Client) -> None:
    """As datasets' and torch's workers take it."""
    assert client.encoder("letters").name == "letters"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(operator.methodcaller("embed", "letters", ["12"]), (client,))[0, 0] == 12
        with pytest.raises(topwork.NotFound, match="no encoder 'nobody'"):
            pool.apply(operator.methodcaller("encoder", "nobody"), (client,))


def test_errors_pickle() -> None:
    error = topwork.InvalidInput("wrong", remedy="fix it", item=3)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.item, again.code) == (str(error), 3, error.code)
    job = topwork.Job("7", "train", "s", "failed", 0.5, "", *[None] * 3, error="no memory")  # type: ignore[misc]
    failed = pickle.loads(pickle.dumps(topwork.JobFailed(job)))
    assert failed.job == job


def test_a_closed_client_says_so(both: EitherClient, server: FakeServer) -> None:
    closing = both._client.close()
    if both._runner:
        both._runner.run(closing)
    for verb, arguments in (("encoders", ()), ("embed", ("letters", ["a"])), ("read", ("s",))):
        with pytest.raises(topwork.InvalidInput, match="this client is closed"):
            getattr(both, verb)(*arguments)
    with pytest.raises(topwork.InvalidInput, match="this client is closed"):
        list(both.read_stream("s"))
