"""python -m benchmarks.serving.peers.servers.sentences FOLDER ITEMS.json SECONDS THREADS: see `Library`."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

CHUNK = 512
"""Texts to a call of `encode`, which sorts them by length."""
BATCH = 16
"""Of 4, 8, 16, 32 and 64 the fastest on two cores."""


def main() -> int:
    folder, items, seconds, threads = sys.argv[1:]
    import torch
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    torch.set_num_threads(int(threads))
    model = SentenceTransformer(folder, device="cpu")
    texts: list[str] = json.loads(Path(items).read_text())
    chunks = [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]

    def encode(batch: list[str]) -> Any:
        return model.encode(batch, batch_size=BATCH, show_progress_bar=False)

    figures = {
        "one_by_one": rate(encode, [[text] for text in texts], float(seconds)),
        "batched": rate(encode, chunks, float(seconds)),
        "rows": encode(texts[:8]).tolist(),
        "versions": {name: importlib.metadata.version(name) for name in ("sentence-transformers", "torch", "transformers")},
    }
    print(json.dumps(figures))
    return 0


def rate(encode: Callable[[list[str]], object], batches: list[list[str]], seconds: float) -> float:
    """Texts a second, after one batch to warm up."""
    encode(batches[0])
    began, count = time.perf_counter(), 0
    for batch in cycle(batches):
        encode(batch)
        count += len(batch)
        if time.perf_counter() - began >= seconds:
            break
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
