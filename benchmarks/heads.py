"""Heads: how long from `train` to the first `predict`, whether all ways to run a head agree, what a training costs other callers.

python -m benchmarks.heads [--seconds 15]

Texts are docstrings, their class is the package that they are of. Embedding latency is that of one caller, one text a request:
alone, beside a linear training on a large set, and beside a fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from topwork import Client, Predictions
from topwork_server.config import default_home
from topwork_server.types import Array, TextItem

from benchmarks import models
from benchmarks.inputs import labeled_sentences
from benchmarks.measure import loop
from benchmarks.processes import scratch_home, server

ENCODER = "all-minilm-l6-v2"
#: Rows, numbers and classes of the large set.
LARGE = (30_000, 384, 50)
HEAD, SMALL, KEPT, BIG = "bench-head", "bench-texts", "bench-kept", "bench-large"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads")
    parser.add_argument("--seconds", type=float, default=15)
    asked = parser.parse_args()
    with (
        scratch_home(default_home()) as home,
        server(home) as (address, _),
        Client(address, timeout=1200) as client,
    ):
        found = first_prediction(client) | agreement(client) | {"embed, ms": latency(client, asked.seconds)}
    print(json.dumps(found, indent=1))
    return 0


def write_texts(client: Client, name: str, **options: Any) -> list[str]:
    texts, labels = zip(*labeled_sentences(), strict=True)
    ids = [str(i) for i in range(len(texts))]
    client.write(name, encoder=ENCODER, items=texts, ids=ids, metadata=[{"of": label} for label in labels], **options)
    return list(texts)


def first_prediction(client: Client) -> dict[str, Any]:
    texts = write_texts(client, SMALL)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        head = client.train(SMALL, target="of", name=HEAD, replace=True)
        trained = time.perf_counter()
        client.predict(HEAD, ["read a header of an e-mail"])
        took.append((time.perf_counter() - began, time.perf_counter() - trained))
    total, last = np.median(took, axis=0)
    main = head.metrics[0]
    return {
        "texts": len(texts),
        "classes": len(head.names),
        "train to first predict, s": round(float(total), 2),
        "of it the predict, ms": round(1000 * float(last), 1),
        main.name: [round(main.value, 3), round(main.low, 3), round(main.high, 3)],
        "baseline": round(head.baseline[0].value, 3),
    }


def agreement(client: Client) -> dict[str, Any]:
    """The same texts through the server, and through the exported file by plain onnxruntime. The record has the trainer's own."""
    import onnxruntime

    texts = [text for text, _ in labeled_sentences()[:64]]
    predicted = client.predict(HEAD, texts)
    assert isinstance(predicted, Predictions), "of one head"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "head.onnx"
        client.export_head(HEAD, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        exported = np.concatenate([session.run(["probabilities"], feeds)[0] for feeds in _feeds(texts)])
    difference = float(np.abs(predicted.probabilities - exported).max())
    return {
        "trainer and served graph, largest difference of a score": client.head(HEAD).max_abs_error,
        "served and exported file, largest difference of a probability": difference,
    }


def _feeds(texts: list[str]) -> Iterator[dict[str, Array]]:
    _, _, encoder = models.opened(ENCODER)
    for text in texts:
        yield encoder.collate(list(encoder.preprocess(TextItem(text), encoder.options())))


def latency(client: Client, seconds: float) -> dict[str, Any]:
    rows, dim, classes = LARGE
    rng = np.random.default_rng(1)
    labels = rng.integers(classes, size=rows)
    vectors = rng.normal(size=(classes, dim)).astype(np.float32)[labels] + 4 * rng.normal(size=(rows, dim)).astype(np.float32)
    client.write(BIG, vectors=vectors, ids=[str(i) for i in range(rows)], metadata=[{"of": f"c{label}"} for label in labels])
    texts = write_texts(client, KEPT, keep_inputs=True)

    def beside(begin: Callable[[], Any] | None) -> dict[str, float]:
        """Measure one caller's embeds while the training that `begin` starts goes on; it is cancelled in the end."""
        job = begin().job if begin else None
        found = loop(
            lambda i: client.embed(ENCODER, [texts[i % len(texts)]]), seconds, lambda: job is None or client.job(job.id).running
        )
        if job is not None:
            client.cancel_job(job.id)
        return {name: round(value, 1) for name, value in found.items()}

    return {
        "alone": beside(None),
        "beside a linear training": beside(lambda: client.train(BIG, target="of", wait=False)),
        "beside a fine-tuning": beside(lambda: client.train(KEPT, target="of", kind="fine-tune", wait=False)),
        "alone again": beside(None),
    }


if __name__ == "__main__":
    raise SystemExit(main())
