"""Metrics under the names of text-embeddings-inference and of Triton, so that dashboards which exist go on working.

They tell the same counts as `metrics.py`. What Topwork has not, such as GPU power, is left out rather than zero. Counters are
of no declared type: Prometheus's library would add `_total` to the names of counters, which these have not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from topwork_server.doors.metrics import add_histogram
from topwork_server.doors.prediction import PREFIX
from topwork_server.inference.embed_statistics import EmbedStatistics
from topwork_server.inference.engine import Engine

#: Triton's reasons of failure, by the names of gRPC statuses; all others are OTHER.
_REASONS = {"RESOURCE_EXHAUSTED": "REJECTED", "CANCELLED": "CANCELED", "INTERNAL": "BACKEND"}
_TEI_STEPS = {
    "te_request_duration": "total",
    "te_request_tokenization_duration": "preprocess",
    "te_request_queue_duration": "queue",
    "te_request_inference_duration": "compute",
    "te_embed_duration": "total",
    "te_embed_tokenization_duration": "preprocess",
    "te_embed_queue_duration": "queue",
    "te_embed_inference_duration": "compute",
    "te_request_input_length": "costs",
}
_TEI_STEPS_OF_HEADS = {
    "te_predict_duration": "total",
    "te_predict_tokenization_duration": "preprocess",
    "te_predict_queue_duration": "queue",
    "te_predict_inference_duration": "compute",
}
_TRITON_STEPS = {
    "nv_inference_request_duration_us": "total",
    "nv_inference_queue_duration_us": "queue",
    "nv_inference_compute_input_duration_us": "preprocess",
    "nv_inference_compute_infer_duration_us": "compute",
}


class TeiMetrics(Collector):
    """Sums over all encoders, and over all heads, by whose names `heads` counts: TEI serves one model. What a head predicts of is
    embedded first, and counts there too. Requests of one item and of several are not told apart: all are `batch`."""

    def __init__(self, engine: Engine, heads: Mapping[str, EmbedStatistics]) -> None:
        self._engine, self._heads = engine, heads

    def collect(self) -> Iterator[Metric]:
        found, heads = list(self._engine.statistics.values()), list(self._heads.values())
        succeeded = sum(one.succeeded for one in found)
        failures: Counter[str] = sum((one.failures for one in found), Counter())
        for name, requests in (("te_request_count", succeeded + failures.total()), ("te_request_success", succeeded)):
            by_method = UnknownMetricFamily(name, "requests", labels=["method"])
            by_method.add_metric(["batch"], requests)
            yield by_method
        failed = UnknownMetricFamily("te_request_failure", "requests that failed", labels=["err"])
        for code, count in sorted(failures.items()):
            failed.add_metric([_TEI_ERRORS.get(code, "backend")], count)
        yield failed
        yield UnknownMetricFamily("te_embed_count", "embed requests", succeeded + failures.total())
        yield UnknownMetricFamily("te_embed_success", "embed requests that were answered", succeeded)
        predicted = sum(one.succeeded for one in heads)
        asked = predicted + sum(one.failures.total() for one in heads)
        yield UnknownMetricFamily("te_predict_count", "predict requests", asked)
        yield UnknownMetricFamily("te_predict_success", "predict requests that were answered", predicted)
        yield GaugeMetricFamily("te_queue_size", "items in queues", sum(one.queued_items for one in self._engine.loaded_encoders))
        for counted, steps in ((found, _TEI_STEPS), (heads, _TEI_STEPS_OF_HEADS)):
            for name, step in steps.items() if counted else ():
                histogram = HistogramMetricFamily(name, f"{step}, in seconds, or tokens")
                add_histogram(histogram, [], [getattr(one, step) for one in counted])
                yield histogram


_TEI_ERRORS = {"RESOURCE_EXHAUSTED": "overloaded", "INVALID_ARGUMENT": "validation"}


class TritonMetrics(Collector):
    """A model is an encoder or a head, of version 1, under the name that it has over the Open Inference Protocol. `names` tells
    those of all encoders."""

    def __init__(self, engine: Engine, heads: Mapping[str, EmbedStatistics], names: Callable[[], Collection[str]]) -> None:
        self._engine, self._heads, self._names = engine, heads, names

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        success = UnknownMetricFamily("nv_inference_request_success", "requests that were answered", labels=labels)
        failure = UnknownMetricFamily("nv_inference_request_failure", "requests that failed", labels=[*labels, "reason"])
        count = UnknownMetricFamily("nv_inference_count", "items", labels=labels)
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "requests in work", labels=labels)
        durations = {name: UnknownMetricFamily(name, "microseconds", labels=labels) for name in _TRITON_STEPS}
        heads = self._models_of_heads()
        for model, statistics in [*sorted(self._engine.statistics.items()), *heads]:
            of = [model, "1"]
            success.add_metric(of, statistics.succeeded)
            count.add_metric(of, statistics.items)
            pending.add_metric(of, statistics.pending)
            reasons: Counter[str] = Counter()
            for code, failures in statistics.failures.items():
                reasons[_REASONS.get(code, "OTHER")] += failures
            for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
                failure.add_metric([*of, reason], reasons[reason])
            for name, step in _TRITON_STEPS.items():
                durations[name].add_metric(of, round(getattr(statistics, step).sum * 1e6))
        executions = UnknownMetricFamily("nv_inference_exec_count", "batches", labels=labels)
        for loaded in self._engine.loaded_encoders:
            executions.add_metric([loaded.spec.name, "1"], loaded.counters["batches"])
        for model, statistics in heads:
            executions.add_metric([model, "1"], statistics.succeeded)
        yield from (success, failure, count, executions, pending, *durations.values())

    def _models_of_heads(self) -> list[tuple[str, EmbedStatistics]]:
        encoders = self._names() if self._heads else ()
        return [(PREFIX * (name in encoders) + name, found) for name, found in sorted(self._heads.items())]
