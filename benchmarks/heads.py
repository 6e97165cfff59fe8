"""Heads: how long from `train` to the first `predict`, whether all ways to run a head agree, what a training costs who embeds.

python -m benchmarks.heads [--seconds 15]

Texts are docstrings, their class is the package that they are of. Embedding latency is that of one caller, one text a request:
alone, beside a linear training on a large set, and beside a fine-tuning.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from topwork import Client, Predictions
from topwork_server.commands.demo import server
from topwork_server.config import default_home
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.types import Array

ENCODER = "all-minilm-l6-v2"
PACKAGES = ("numpy", "asyncio", "email", "http", "logging", "unittest", "xml", "skimage", "rich", "json")
TEXTS = 500
#: Rows, numbers and classes of the large set.
LARGE = (30_000, 384, 50)
HEAD, SMALL, BIG = "bench-heads", "bench-heads", "bench-heads-large"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads")
    parser.add_argument("--seconds", type=float, default=15)
    arguments = parser.parse_args()
    with server(default_home(), lambda *words: None) as address, Client(address, timeout=1200) as client:
        try:
            found = first_prediction(client)
            found |= agreement(client)
            found |= latency(client, arguments.seconds)
        finally:
            _clean(client)
    print(json.dumps(found, indent=1))
    return 0


def labelled_texts() -> list[tuple[str, str]]:
    """(text, package): first paragraphs of docstrings, as evenly of the packages as they have them."""
    found: dict[str, list[str]] = {package: list(dict.fromkeys(_docstrings(package)))[: TEXTS // 5] for package in PACKAGES}
    pairs = [(text, package) for package, texts in found.items() if len(texts) >= 5 for text in texts]
    order = np.random.default_rng(0).permutation(len(pairs))[:TEXTS]
    return [pairs[i] for i in order]


def _docstrings(package: str) -> Iterator[str]:
    import pkgutil

    path = getattr(importlib.import_module(package), "__path__", [])
    names = [package, *(f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if not m.name.startswith(("_", "test")))]
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception:
            continue
        for _, member in inspect.getmembers(module, lambda m: inspect.isclass(m) or inspect.isroutine(m)):
            said = (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ").strip()
            if len(said) > 20 and str(getattr(member, "__module__", "")).startswith(package):
                yield said


def first_prediction(client: Client) -> dict[str, Any]:
    pairs = labelled_texts()
    texts, labels = zip(*pairs, strict=True)
    client.write(
        SMALL, encoder=ENCODER, items=texts, ids=[str(i) for i in range(len(texts))], metadata=[{"of": of} for of in labels]
    )
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

    texts = [text for text, _ in labelled_texts()[:64]]
    said = client.predict(HEAD, texts)
    assert isinstance(said, Predictions), "of one head"
    served = said.probabilities
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "head.onnx"
        client.export_head(HEAD, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        exported = np.concatenate([session.run(["probabilities"], feeds)[0] for feeds in _feeds(texts)])
    return {
        "trainer and served graph, largest difference of a score": client.head(HEAD).agreement,
        "served and exported file, largest difference of a probability": float(np.abs(served - exported).max()),
    }


def _feeds(texts: list[str]) -> Iterator[dict[str, Array]]:
    from topwork_server.types import TextItem

    catalogue = Catalog(PluginRegistry.load(), default_home())
    entry = catalogue.entry(ENCODER)
    assert entry.folder is not None, "it is exported"
    encoder = entry.spec.encoder(entry.spec, entry.folder)
    for text in texts:
        yield encoder.collate(list(encoder.preprocess(TextItem(text), encoder.options())))


def latency(client: Client, seconds: float) -> dict[str, Any]:
    rows, dim, classes = LARGE
    rng = np.random.default_rng(1)
    labels = rng.integers(classes, size=rows)
    vectors = rng.normal(size=(classes, dim)).astype(np.float32)[labels] + 4 * rng.normal(size=(rows, dim)).astype(np.float32)
    ids = [str(i) for i in range(rows)]
    client.write(BIG, vectors=vectors, ids=ids, metadata=[{"of": f"c{label}"} for label in labels])
    texts = [text for text, _ in labelled_texts()]
    client.write(f"{SMALL}-kept", encoder=ENCODER, items=texts, ids=ids[: len(texts)], keep_inputs=True, metadata=_labels())
    found = {"alone": _beside(client, texts, seconds, None)}
    found["beside a linear training"] = _beside(
        client, texts, seconds, lambda: client.train(BIG, target="of", wait=False, replace=True)
    )
    found["beside a fine-tuning"] = _beside(
        client, texts, seconds, lambda: client.train(f"{SMALL}-kept", target="of", kind="fine-tune", wait=False, replace=True)
    )
    found["alone again"] = _beside(client, texts, seconds, None)
    return {"embed, ms": found}


def _labels() -> list[dict[str, str]]:
    return [{"of": label} for _, label in labelled_texts()]


def _beside(client: Client, texts: list[str], seconds: float, begin: Callable[[], Any] | None) -> dict[str, float]:
    """Latencies of one caller while the training that `begin` starts goes on; it is cancelled in the end."""
    job = begin().job if begin else None
    took, i, ends = [], 0, time.monotonic() + seconds
    while time.monotonic() < ends and (job is None or client.job(job.id).running):
        began = time.perf_counter()
        client.embed(ENCODER, [texts[i % len(texts)]])
        took.append(time.perf_counter() - began)
        i += 1
    if job is not None:
        client.cancel_job(job.id)
    p50, p99 = np.percentile(1000 * np.array(took), [50, 99])
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "requests": len(took)}


def _clean(client: Client) -> None:
    for head in client.heads():
        if head.name.startswith("bench-heads"):
            client.drop_head(head.name)
    for info in client.sets():
        if info.name.startswith("bench-heads"):
            client.drop_set(info.name)


if __name__ == "__main__":
    raise SystemExit(main())
