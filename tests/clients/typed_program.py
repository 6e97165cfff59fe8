"""A user's program over every verb of both clients: never run, read by type checkers (`test_typing.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import topwork
from topwork.predictions import FoundSpan
from topwork.report import Misclassified


def blocking(client: topwork.Client) -> None:
    assert_type(client.health(), str)
    assert_type(client.encoders(), list[topwork.EncoderInfo])
    assert_type(client.encoder("letters").taps, tuple[topwork.TapInfo, ...])
    features = assert_type(client.embed("letters", ["a"], tap="pooled", options={"truncate": True}), topwork.Features)
    assert_type(features.fingerprint, str)
    assert_type(client.embed_taps("letters", ["a"], ["pooled"]), dict[str, topwork.Features])
    for chunk in client.embed_stream("letters", iter(["a"]), chunk=8):
        assert_type(chunk, topwork.Features)
    assert_type(client.nearest_words("words", ["a"], 3), list[list[topwork.Word]])
    assert_type(client.fill("letters", ["a"], 3), topwork.Fills)

    assert_type(client.write("s", ["a"], ["1"], [{"year": 2024}], encoder="letters"), topwork.WriteReport)
    for acknowledged in client.write_stream("s", vectors=features, ids=[1]):
        assert_type(acknowledged, topwork.Acknowledged)
    rows = assert_type(client.read("s", where="year > 2020", version="before"), topwork.Rows)
    assert_type(rows.ids, list[str])
    for rows in client.read_stream("s", version=3):
        assert_type(rows.metadata["year"], list[Any])
    assert_type(client.export_set("s", Path("s.npz"), taps=["pooled"]), topwork.SavedSet)
    assert_type(client.delete("s", where="year < 2020"), int)
    assert_type(client.count("s", "year < 2020", version="before"), int)
    assert_type(client.update("s", ["1", 2], [{"year": 1}, {"year": 2}]), topwork.UpdateReport)
    assert_type(client.update("s", where="year = 1", metadata={"year": 2}).missing, tuple[str, ...])
    assert_type(client.add_column("s", "month", "int"), topwork.SetInfo)
    assert_type(client.cast_column("s", "month", "float").columns["month"], str)
    client.rename_column("s", "month", "week")
    client.drop_column("s", "week")
    assert_type(client.sets(), list[topwork.SetInfo])
    assert_type(client.set("s").items, int)
    assert_type(client.versions("s"), list[topwork.VersionInfo])
    assert_type(client.pin("s", "before"), topwork.VersionInfo)
    client.unpin("s", "before")
    assert_type(client.prune("s", 3600.0), topwork.Pruned)
    client.drop_set("s")

    assert_type(client.create_index("s", progress=print), topwork.IndexInfo)
    assert_type(client.rebuild_index("s", wait=False), topwork.IndexInfo)
    assert_type(client.index("s").recall, float)
    assert_type(client.indexes(), list[topwork.IndexInfo])
    assert_type(client.index_kinds(), list[topwork.IndexKind])
    client.drop_index("s", "pooled")
    searches(client, features)

    assert_type(client.trainers(), list[topwork.TrainerInfo])
    assert_type(client.train("s", target="label", taps=["pooled"], version="before").metrics, tuple[topwork.MetricValue, ...])
    assert_type(client.head("h"), topwork.HeadInfo)
    assert_type(client.heads(), list[topwork.HeadInfo])
    assert_type(client.report("h").misclassified, tuple[Misclassified, ...])
    assert_type(client.report_page("h"), str)
    assert_type(client.export_head("h", Path("h.onnx")), dict[str, Any])
    client.drop_head("h")
    assert_type(client.probe(["s"], target="label"), topwork.ProbeTable)
    assert_type(client.probe("s", target="label", wait=False), topwork.Job)
    assert_type(client.pretrainers(), list[topwork.PretrainerInfo])
    assert_type(client.pretrain("words", ["a text"], name="w", options={"dim": 8}), topwork.PretrainReport)
    assert_type(client.pretrain("mlm", set="s", name="w", encoder="e", wait=False), topwork.Job)
    predictions = assert_type(client.predict("h", ["a"], top=3), topwork.Predictions)
    assert_type(predictions[0].label, str | None)
    assert_type(predictions[0].spans, tuple[FoundSpan, ...] | None)
    assert_type(client.predict(["h", "g"], ["a"])["h"], topwork.Predictions)
    assert_type(client.predict("h", set="s", ids=["1"]), topwork.Predictions)

    assert_type(client.jobs("train"), list[topwork.Job])
    assert_type(client.job("7"), topwork.Job)
    for job in client.watch_job("7"):
        assert_type(job.running, bool)
    assert_type(client.cancel_job("7").state, str)


def searches(client: topwork.Client, features: topwork.Features) -> None:
    hits = assert_type(client.search("s", "a bird", k=3, where="year > 2020", columns=["year"]), topwork.Hits)
    for hit in hits:
        assert_type(hit.id, str)
        assert_type(hit.score, float)
    assert_type(hits[0], topwork.Hit)
    assert_type(client.search("s", Path("bird.jpg")), topwork.Hits)
    assert_type(client.search("s", b"bytes of a picture"), topwork.Hits)
    several = assert_type(client.search("s", ["a bird", "a fish"], exact=True), list[topwork.Hits])
    assert_type(several[0][0].metadata, dict[str, Any])
    assert_type(client.search("s", (f"a {noun}" for noun in ("bird", "fish"))), list[topwork.Hits])
    assert_type(client.search("s", stored="1"), topwork.Hits)
    assert_type(client.search("s", stored=[1, "2"]), list[topwork.Hits])
    assert_type(client.search("s", vectors=[0.5, 0.5]), topwork.Hits)
    assert_type(client.search("s", vectors=[[0.5, 0.5]]), list[topwork.Hits])
    assert_type(client.search("s", vectors=features), list[topwork.Hits])
    assert_type(client.search("s", vectors=np.zeros((2, 4), np.float32)), topwork.Hits | list[topwork.Hits])


async def asynchronous(client: topwork.AsyncClient) -> None:
    assert_type(await client.health(), str)
    assert_type(await client.encoders(), list[topwork.EncoderInfo])
    assert_type(await client.encoder("letters"), topwork.EncoderInfo)
    features = assert_type(await client.embed("letters", ["a"]), topwork.Features)
    assert_type(await client.embed_taps("letters", ["a"], ["pooled"]), dict[str, topwork.Features])
    async for chunk in client.embed_stream("letters", letters()):
        assert_type(chunk, topwork.Features)
    assert_type(await client.nearest_words("words", ["a"]), list[list[topwork.Word]])
    assert_type(await client.fill("letters", letters()), topwork.Fills)

    assert_type(await client.write("s", letters(), encoder="letters", ids=["1"]), topwork.WriteReport)
    async for acknowledged in client.write_stream("s", vectors=features, ids=["1"]):
        assert_type(acknowledged, topwork.Acknowledged)
    assert_type(await client.read("s", ids=["1"], inputs=True), topwork.Rows)
    async for rows in client.read_stream("s"):
        assert_type(rows, topwork.Rows)
    assert_type(await client.export_set("s", "s.csv"), topwork.SavedSet)
    assert_type(await client.delete("s", ["1"]), int)
    assert_type(await client.count("s"), int)
    assert_type(await client.update("s", "1", {"year": 2}), topwork.UpdateReport)
    assert_type(await client.add_column("s", "month", "int"), topwork.SetInfo)
    await client.cast_column("s", "month", "float")
    await client.rename_column("s", "month", "week")
    await client.drop_column("s", "week")
    assert_type(await client.sets(), list[topwork.SetInfo])
    assert_type(await client.set("s"), topwork.SetInfo)
    assert_type(await client.versions("s"), list[topwork.VersionInfo])
    assert_type(await client.pin("s", "before", 3), topwork.VersionInfo)
    await client.unpin("s", "before")
    assert_type(await client.prune("s", 3600), topwork.Pruned)
    await client.drop_set("s")

    assert_type(await client.create_index("s"), topwork.IndexInfo)
    assert_type(await client.rebuild_index("s"), topwork.IndexInfo)
    assert_type(await client.index("s"), topwork.IndexInfo)
    assert_type(await client.indexes("s"), list[topwork.IndexInfo])
    assert_type(await client.index_kinds(), list[topwork.IndexKind])
    await client.drop_index("s", "pooled")
    assert_type(await client.search("s", "a bird", k=3), topwork.Hits)
    assert_type(await client.search("s", ["a bird"]), list[topwork.Hits])
    assert_type(await client.search("s", letters()), list[topwork.Hits])
    assert_type(await client.search("s", stored="1"), topwork.Hits)

    assert_type(await client.trainers(), list[topwork.TrainerInfo])
    assert_type(await client.train("s", target="label"), topwork.HeadInfo)
    assert_type(await client.head("h"), topwork.HeadInfo)
    assert_type(await client.heads(), list[topwork.HeadInfo])
    assert_type(await client.report("h"), topwork.Report)
    assert_type(await client.report_page("h"), str)
    assert_type(await client.export_head("h", "h.onnx"), dict[str, Any])
    await client.drop_head("h")
    assert_type(await client.probe("s", target="label"), topwork.ProbeTable)
    assert_type(await client.probe("s", target="label", wait=False), topwork.Job)
    assert_type(await client.pretrainers(), list[topwork.PretrainerInfo])
    assert_type(await client.pretrain("words", ["a text"], name="w", options={"dim": 8}), topwork.PretrainReport)
    assert_type(await client.pretrain("mlm", set="s", name="w", encoder="e", wait=False), topwork.Job)
    assert_type(await client.predict("h", "a"), topwork.Predictions)
    assert_type(await client.predict(["h"], "a"), dict[str, topwork.Predictions])

    assert_type(await client.jobs(), list[topwork.Job])
    assert_type(await client.job("7"), topwork.Job)
    async for job in client.watch_job("7"):
        assert_type(job, topwork.Job)
    assert_type(await client.cancel_job("7"), topwork.Job)


async def letters() -> AsyncIterator[str]:
    yield "a"


def main() -> None:
    with topwork.Client("127.0.0.1:50051", timeout=10) as client:
        blocking(client)
    asyncio.run(connected())


async def connected() -> None:
    async with topwork.AsyncClient() as client:
        await asynchronous(client)
