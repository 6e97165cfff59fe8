"""Runs the graph of a head in onnxruntime, and compares it with the head that was fitted."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from topwork_server.models.head_graph import PROBABILITIES, ROWS, SCORES
from topwork_server.plugin_api.trainer import FittedHead
from topwork_server.runtime.session import Session
from topwork_server.types import Array

#: Rows that are computed at a time: kNN heads compare each with all that they keep.
CHUNK_ROWS = 1024


def run_head(session: Session, rows: Array) -> tuple[Array, Array]:
    """Scores and probabilities (n, outputs) of (n, dim) rows: float32, or float64 for the numbers of a regression."""
    rows = np.ascontiguousarray(rows, np.float32)
    starts = range(0, max(len(rows), 1), CHUNK_ROWS)
    parts = [session.run([SCORES, PROBABILITIES], {ROWS: rows[start : start + CHUNK_ROWS]}) for start in starts]
    scores, probabilities = (np.concatenate(chunks) for chunks in zip(*parts, strict=True))
    return scores, probabilities


def max_score_difference(fitted: FittedHead, graph: bytes, rows: Array, unit: float = 1.0) -> float:
    """The largest difference, in units, between a score of the fitted head and that of its graph; 0 for no rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        path.write_bytes(graph)
        scores, _ = run_head(Session(path, 1), rows)
    return float(np.abs((scores - fitted.scores(rows)) / unit).max(initial=0))
