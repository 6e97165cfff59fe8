"""GET /metrics: what the server counted, in Prometheus's text format, under Topwork's own names.

Everything is counted where it happens; a scrape reads it, and costs the requests nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from topwork_server.doors import http_errors
from topwork_server.doors.json_calls import DoorRoute
from topwork_server.errors import Refused
from topwork_server.histogram import BucketHistogram
from topwork_server.inference.engine import Engine
from topwork_server.server_state import ServerState
from topwork_server.services.message_budget import MessageBudget
from topwork_server.services.request_tracker import RequestTracker

#: Counters of batchers, by their names there, and what they count.
_OF_BATCHERS = {
    "samples": "rows of batches that were computed",
    "batches": "batches that were computed",
    "cost": "what samples cost, in the encoder's unit: of texts tokens",
    "padded_cost": "what their batches cost, padding included",
    "expired": "items whose deadline passed in the queue",
    "cancelled": "items whose callers left",
    "refused": "items that could not be done in time",
    "memory_splits": "batches that were halved for lack of memory",
    "restarts": "sessions that were opened again",
}


class TopworkMetrics(Collector):
    """Reads the counts of one server."""

    def __init__(self, requests: RequestTracker, budget: MessageBudget, engine: Engine, state: ServerState) -> None:
        self._requests, self._budget, self._engine, self._state = requests, budget, engine, state

    def collect(self) -> Iterator[Metric]:
        yield from self._of_requests()
        yield from self._of_encoders()
        yield from self._of_embeddings()
        yield from self._of_state()

    def _of_requests(self) -> Iterator[Metric]:
        total = CounterMetricFamily("topwork_requests", "requests of every door", labels=["method", "code"])
        for (method, code), count in sorted(self._requests.counts.items()):
            total.add_metric([method, code], count)
        yield total
        seconds = HistogramMetricFamily("topwork_request_duration_seconds", "from decoded to answered", labels=["method"])
        for method, histogram in sorted(self._requests.seconds.items()):
            add_histogram(seconds, [method], [histogram])
        yield seconds
        yield GaugeMetricFamily("topwork_requests_in_flight", "requests in work", self._requests.in_flight)
        held = GaugeMetricFamily("topwork_message_bytes", "bytes of messages, and of the budget", labels=["state"])
        for name, value in (("used", self._budget.used), ("waiting", self._budget.waiting), ("limit", self._budget.limit)):
            held.add_metric([name], value)
        yield held

    def _of_encoders(self) -> Iterator[Metric]:
        """Tell of the encoders in memory; what batchers counted begins again when one is loaded again."""
        loaded = self._engine.loaded_encoders
        yield self._gauge("topwork_encoder_memory_bytes", "of its weights", ((one.spec.name, one.bytes) for one in loaded))
        queued = ((one.spec.name, one.queued_items) for one in loaded)
        yield self._gauge("topwork_encoder_queue_items", "items in the queue or in work", queued)
        yield self._gauge(
            "topwork_encoder_serving", "0 while a worker restarts", ((one.spec.name, one.serving) for one in loaded)
        )
        counted = [(one.spec.name, one.counters) for one in loaded]
        for name, meaning in _OF_BATCHERS.items():
            counter = CounterMetricFamily(f"topwork_encoder_{name}", meaning, labels=["encoder"])
            for encoder, counters in counted:
                counter.add_metric([encoder], counters[name])
            yield counter

    def _of_embeddings(self) -> Iterator[Metric]:
        found = sorted(self._engine.statistics.items())
        total = CounterMetricFamily("topwork_embed_requests", "embed requests by status", labels=["encoder", "code"])
        items = CounterMetricFamily("topwork_embed_items", "items that were embedded", labels=["encoder"])
        for encoder, statistics in found:
            for code, count in [("OK", statistics.succeeded), *statistics.failures.items()]:
                total.add_metric([encoder, code], count)
            items.add_metric([encoder], statistics.items)
        yield from (total, items)
        for step in ("preprocess", "queue", "compute"):
            histogram = HistogramMetricFamily(f"topwork_embed_{step}_seconds", f"{step} of a request", labels=["encoder"])
            for encoder, statistics in found:
                add_histogram(histogram, [encoder], [getattr(statistics, step)])
            yield histogram

    def _of_state(self) -> Iterator[Metric]:
        cache = self._state.ingest.cache
        yield CounterMetricFamily("topwork_feature_cache_hits", "features that were not computed again", cache.hits)
        yield CounterMetricFamily("topwork_feature_cache_misses", "features that were not in the cache", cache.misses)
        jobs = GaugeMetricFamily("topwork_jobs", "jobs that are known", labels=["kind", "state"])
        for (kind, state), count in sorted(Counter((job.kind, job.state.value) for job in self._state.jobs.list()).items()):
            jobs.add_metric([kind, state], count)
        yield jobs
        recall = GaugeMetricFamily(
            "topwork_index_live_recall", "recall of searches that were repeated exactly", labels=["set", "index"]
        )
        for set_name, index, value in self._state.live_recall.means():
            recall.add_metric([set_name, index], value)
        yield recall

    @staticmethod
    def _gauge(name: str, meaning: str, values: Iterable[tuple[str, float]]) -> Metric:
        gauge = GaugeMetricFamily(name, meaning, labels=["encoder"])
        for encoder, value in values:
            gauge.add_metric([encoder], value)
        return gauge


def add_histogram(family: HistogramMetricFamily, labels: list[str], histograms: list[BucketHistogram]) -> None:
    """Add the sum of histograms with the same bounds, in the cumulative counts that the format has."""
    total, buckets = 0, []
    for place, bound in enumerate([*histograms[0].bounds, float("inf")]):
        total += sum(one.counts[place] for one in histograms)
        buckets.append((_bound(bound), total))
    family.add_metric(labels, buckets, sum(one.sum for one in histograms))


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:.6g}"


def routes(collectors: Iterable[Collector], requests: RequestTracker) -> list[Route]:
    """Return the route of /metrics: of these collectors, and of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)

    async def metrics(request: Request) -> Response:
        try:
            requests.let_in("Metrics", request.headers)
        except Refused as error:
            return http_errors.error_form(error)
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=kind)

    return [DoorRoute("/metrics", metrics, "GET", http_errors.error_form)]
