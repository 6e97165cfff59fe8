"""The server is killed at random moments while several clients write, delete and search.

$TOPWORK_KILLS says how often: a few times here, hundreds of times by `make soak`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from servers import kill, start
from topwork import Client
from writers import DIM, SET, Writer, vector, write

KILLS = int(os.environ.get("TOPWORK_KILLS", "3"))
WRITERS = 4


def check(client: Client, writers: Sequence[Writer], rng: np.random.Generator) -> None:
    """Set, writers and index agree."""
    rows = client.read(SET)
    assert len(set(rows.ids)) == len(rows.ids), "an id is there twice"
    found = dict(zip(rows.ids, rows.metadata["value"], strict=True))
    vectors = np.asarray(next(iter(rows.features.values())))
    for item, value, held in zip(rows.ids, rows.metadata["value"], vectors, strict=True):
        np.testing.assert_array_equal(held, vector(item, value), err_msg=item)
    for writer in writers:
        writer.check(found)
    queries = rng.standard_normal((8, DIM)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query, hits in zip(queries, client.search(SET, vectors=queries, k=10), strict=True):
        expected = [rows.ids[i] for i in np.argsort(-(unit @ query))[:10]]
        assert hits.ids == expected, "the index does not agree with the set"


@pytest.mark.timeout(60 + 20 * KILLS)
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    rng = np.random.default_rng(int(os.environ.get("TOPWORK_SEED", "0")))
    writers = [Writer(number, np.random.default_rng([number, int(rng.integers(1 << 30))])) for number in range(WRITERS)]
    server, address = start(tmp_path)
    try:
        with Client(address) as client:
            write(client, {"first-0": 1})
            client.create_index(SET, kind="flat")
        for turn in range(KILLS):
            stop = threading.Event()
            threads = [threading.Thread(target=writer.work, args=(address, stop)) for writer in writers]
            for thread in threads:
                thread.start()
            if turn % 3 == 2:
                with Client(address) as client:
                    client.rebuild_index(SET, wait=False)
            assert writers[0].has_done_all.wait(60), repr(writers[0].failure)
            time.sleep(float(rng.uniform(0.05, 1.0)))  # the moment of the kill is what is random here
            kill(server)
            stop.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
            for writer in writers:
                assert writer.failure is None, f"writer {writer.number}: {writer.failure!r}"
            server, address = start(tmp_path)
            with Client(address) as client:
                check(client, writers, rng)
    finally:
        kill(server)
    done = {what: sum(getattr(writer, what) for writer in writers) for what in ("writes", "deletes", "searches")}
    print(f"{KILLS} kills; {done}")
    assert all(done.values()), f"nothing was tested: {done}"
