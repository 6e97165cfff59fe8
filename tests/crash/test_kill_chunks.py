"""A server that is killed while texts are written by their chunks has those that it acknowledged, and the rest comes after."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import topwork
from servers import kill, start
from topwork import Client, DividedText

ENCODER = "all-minilm-l6-v2"


def texts(count: int) -> list[str | DividedText]:
    """Texts of different lengths, every third with chunks of its own."""
    made: list[str | DividedText] = []
    for number in range(count):
        text = " ".join(f"Bird {number} sings to cat {other}." for other in range(1 + number % 5))
        made.append(DividedText(text, [(0, 6), (3, len(text))]) if number % 3 == 0 else text)
    return made


def test_a_write_by_chunks_goes_on_after_a_kill(tmp_path: Path, weights_home: Path) -> None:
    for folder in ("artifacts", "packages"):
        (tmp_path / folder).symlink_to(weights_home / folder)
    items = texts(800)
    ids = [f"text-{number}" for number in range(len(items))]
    server, address = start(tmp_path)
    with Client(address, retry_for=0) as client:
        stream = client.write_stream("chunks", items, ids=ids, encoder=ENCODER, taps=["chunks"])
        acknowledged = next(iter(stream)).watermark
        kill(server)
        with suppress(topwork.TopworkError):  # that the server is gone
            for more in stream:
                acknowledged = more.watermark
    server, address = start(tmp_path)
    try:
        with Client(address) as client:
            stored = set(client.read("chunks").ids)
            assert acknowledged <= len(stored) < len(items)
            report = client.write("chunks", items, ids=ids)
            assert (report.unchanged, report.items) == (len(stored), len(items))
            rows = client.read("chunks")
            found = rows.features["chunks"]
            order = [int(id.removeprefix("text-")) for id in rows.ids]
            expected = client.embed(ENCODER, [items[number] for number in order], tap="chunks")
            assert found.counts.tolist() == expected.counts.tolist()
            np.testing.assert_array_equal(found.spans, expected.spans)
            np.testing.assert_allclose(found.rows, expected.rows, atol=1e-5)
    finally:
        kill(server)
