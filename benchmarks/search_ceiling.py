"""In-process FAISS on an index file that Topwork built, with the search effort that it chose: the ceiling of benchmarks.search.

    python -m benchmarks.search_ceiling INDEX.bin QUERIES.npy EFFORT

Answers lines of stdin as benchmarks/peers_search.py does. It takes all cores and does nothing else.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from benchmarks.peers_search import SIZES, K, resident, say, timed


def main() -> int:
    faiss: Any = importlib.import_module("faiss")
    path, queries_file, effort = sys.argv[1:]
    index = faiss.read_index(path)
    queries = np.load(queries_file)
    kind = faiss.downcast_index(index)
    if hasattr(kind, "nprobe"):
        parameters = faiss.SearchParametersIVF(nprobe=int(effort))
    elif hasattr(kind, "hnsw"):
        parameters = faiss.SearchParametersHNSW(efSearch=int(effort))
    else:
        parameters = faiss.SearchParameters()
    say(peer="faiss", version=faiss.__version__, index=type(kind).__name__, effort=int(effort), resident_bytes=resident())
    for line in sys.stdin:
        word, seconds = line.split()
        size = SIZES[word]
        say(**timed(lambda part: index.search(part, K, params=parameters), queries, size, float(seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
