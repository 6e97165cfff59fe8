"""The server is killed at random moments while a client trains, replaces and drops small heads.

$TOPWORK_KILLS says how often: a few times here, hundreds of times by `make soak`.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from learners import Learner, write
from servers import kill, start
from topwork import Client

KILLS = int(os.environ.get("TOPWORK_KILLS", "2"))


@pytest.mark.timeout(180 + 20 * KILLS)
def test_every_head_is_whole_or_is_said_to_have_failed(tmp_path: Path) -> None:
    learner = Learner(np.random.default_rng(int(os.environ.get("TOPWORK_SEED", "0"))))
    server, address = start(tmp_path)
    try:
        with Client(address) as client:
            write(client)
        for _ in range(KILLS):
            stop = threading.Event()
            thread = threading.Thread(target=learner.work, args=(address, stop))
            thread.start()
            assert learner.has_trained.wait(120), repr(learner.failure)  # there is a head to lose
            time.sleep(float(learner.rng.uniform(0.1, 3.0)))  # the moment of the kill is what is random here
            kill(server)
            stop.set()
            thread.join(60)
            assert not thread.is_alive()
            assert learner.failure is None, repr(learner.failure)
            server, address = start(tmp_path)
            with Client(address) as client:
                learner.check(client, tmp_path)
    finally:
        kill(server)
    print(f"{KILLS} kills; {learner.trained} heads trained, {learner.dropped} dropped")
