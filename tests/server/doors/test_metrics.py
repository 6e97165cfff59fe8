"""/metrics: counts that are true, under our own names and under those of peers."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import door_heads
import fake_engine
import pytest
import real_server
from http_calls import call
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The HTTP address of a real server with toy encoders."""
    with real_server.with_toys_over_http(tmp_path_factory) as found:
        yield found.http


def scraped(address):
    """Samples by name and labels."""
    text = call(address, "GET", "/metrics").body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def embed(address, *texts):
    return call(address, "POST", "/v1/embeddings", {"model": "letters", "input": list(texts)})


async def test_requests_are_counted_under_all_names(address):
    before = await asyncio.to_thread(scraped, address)
    assert (await asyncio.to_thread(embed, address, "ab", "abcd")).status == 200
    assert (await asyncio.to_thread(embed, address, "")).status == 400
    after = await asyncio.to_thread(scraped, address)

    def grown(name, **labels):
        key = name, tuple(sorted(labels.items()))
        return after[key] - before.get(key, 0)

    of = {"encoder": "letters"}
    assert grown("topwork_requests_total", method="OpenAI.Embeddings", code="OK") == 1
    assert grown("topwork_requests_total", method="OpenAI.Embeddings", code="INVALID_ARGUMENT") == 1
    assert grown("topwork_request_duration_seconds_count", method="OpenAI.Embeddings") == 2
    assert grown("topwork_embed_requests_total", code="OK", **of) == 1
    assert grown("topwork_embed_requests_total", code="INVALID_ARGUMENT", **of) == 1
    assert grown("topwork_embed_items_total", **of) == 2
    assert grown("topwork_encoder_samples_total", **of) == 2
    assert grown("topwork_encoder_cost_total", **of) == 6
    assert grown("topwork_encoder_padded_cost_total", **of) in (6, 8)  # in two batches, or in one
    assert grown("topwork_embed_compute_seconds_count", **of) == 1
    assert after["topwork_encoder_memory_bytes", (("encoder", "letters"),)] > 0
    assert after["topwork_requests_in_flight", ()] == 0
    assert after["process_resident_memory_bytes", ()] > 0
    model = {"model": "letters", "version": "1"}
    assert grown("nv_inference_request_success", **model) == 1
    assert grown("nv_inference_request_failure", reason="OTHER", **model) == 1
    assert grown("nv_inference_count", **model) == 2
    assert grown("nv_inference_compute_infer_duration_us", **model) > 0
    assert grown("te_request_count", method="batch") == 2
    assert grown("te_request_success", method="batch") == 1
    assert grown("te_embed_duration_count") == 1
    assert grown("te_request_input_length_sum") == 6


def test_the_dashboard_asks_for_what_is_there(address):
    assert embed(address, "ab").status == 200
    families = text_string_to_metric_families(call(address, "GET", "/metrics").body.decode())
    there = {sample.name for family in families for sample in family.samples} | {"topwork_index_live_recall", "topwork_jobs"}
    dashboard = json.loads((Path(__file__).parents[3] / "docs" / "grafana.json").read_text("utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for one in panel["targets"]
        for name in re.findall(r"(?:topwork|process)_\w+", one["expr"])
    }
    assert len(asked) > 20
    assert asked <= there


def test_the_metrics_of_state_are_declared_where_there_is_nothing_yet(address):
    text = call(address, "GET", "/metrics").body.decode()
    for name in ("topwork_index_live_recall", "topwork_jobs"):
        assert f"# TYPE {name} gauge" in text


async def test_heads_are_counted_under_the_names_of_peers(tmp_path):
    door_heads.publish(tmp_path, "mood", "ready")
    async with fake_engine.served(tmp_path, http="127.0.0.1:0") as server:
        for model, text, status in (("mood", "hello", 200), ("mood", "bad", 422), ("head:ready", "hello", 200)):
            reply = await asyncio.to_thread(call, server.ready.http, "POST", "/predict", {"inputs": text}, {"x-model": model})
            assert reply.status == status
        found = await asyncio.to_thread(scraped, server.ready.http)
        for model, answered, failed in (("mood", 1, 1), ("head:ready", 1, 0)):
            of = (("model", model), ("version", "1"))
            assert found["nv_inference_request_success", of] == found["nv_inference_count", of] == answered
            assert found["nv_inference_exec_count", of] == answered
            assert found["nv_inference_request_failure", tuple(sorted((*of, ("reason", "OTHER"))))] == failed
        assert (found["te_predict_count", ()], found["te_predict_success", ()]) == (3, 2)
        assert found["te_predict_duration_count", ()] == 2
