"""Train on a sample, fill in batches: beside the index itself no more than the sample and a batch are in memory."""

from __future__ import annotations

from typing import Any

from topwork_server import Array, Metric, Report, VectorSource

from topwork_plugins.faiss_index import factory, introspection, library
from topwork_plugins.faiss_index.build_params import FLAT, BuildParams

#: Rows that are added at a time: enough for a matrix product, and few enough for progress to move.
BATCH = 8192
#: The fraction of the work that training is, for the progress bar.
TRAINING = 0.3


def build_index(params: BuildParams, vectors: VectorSource, metric: Metric, report: Report) -> tuple[Any, str, int]:
    """A filled index, the factory string that it is of, and how many rows it was trained on."""
    index, params, trained_on = _train(params, vectors, metric, report)
    done = 0
    for batch in vectors.batches():
        for start in range(0, len(batch), BATCH):
            add_rows(index, batch[start : start + BATCH])
            done += len(batch[start : start + BATCH])
            report(TRAINING + (1 - TRAINING) * done / max(1, vectors.count), f"adding rows to {params.factory}")
    return index, params.factory, trained_on


def _train(params: BuildParams, vectors: VectorSource, metric: Metric, report: Report) -> tuple[Any, BuildParams, int]:
    index = _make_empty(params, vectors.dim, metric)
    if index.is_trained:
        return index, params, 0
    sample = vectors.sample(params.training_rows or vectors.count)
    report(0.0, f"training {params.factory} on {len(sample)} rows")
    try:
        index.train(sample)
    except RuntimeError as error:
        if not _too_few(error):
            with library.translate_errors(f"cannot train {params.factory}"):
                raise
        return _make_empty(FLAT, vectors.dim, metric), FLAT, 0
    return index, params, len(sample)


def _too_few(error: RuntimeError) -> bool:
    return any(words in str(error) for words in ("Number of training points", "PCA matrix cannot output"))


def _make_empty(params: BuildParams, dim: int, metric: Metric) -> Any:
    faiss = library.load()
    index = factory.make_index(params.factory, dim, metric)
    core = introspection.core(index)
    if isinstance(core, faiss.IndexHNSW) and params.construction_effort:
        core.hnsw.efConstruction = params.construction_effort
    if isinstance(core, faiss.IndexIVF):
        core.cp.min_points_per_centroid = 1  # `build_params.py` sees to it; faiss would write of it to stderr
    for part in filter(None, (core, introspection.storage(core))):
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False  # minutes of annealing for a filter that no search here uses
    return index


def add_rows(index: Any, rows: Array) -> None:
    with library.translate_errors("cannot add rows"):
        index.add(rows)
