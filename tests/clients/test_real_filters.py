"""Filters by the SDK and gRPC of a real server, and the deadline that ends them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import sets_harness
import topwork
from topwork.v1 import sets_pb2 as pb
from topwork_server import blocking_calls

LABELS = ["cat", "dog", "cat", "bird", "Cat"]


@pytest.fixture
def pets(real_client: topwork.Client) -> topwork.Client:
    metadata = [{"label": label, "n": n, "seen": np.datetime64(f"2024-01-0{n + 1}")} for n, label in enumerate(LABELS)]
    real_client.write("pets", vectors=np.eye(5, dtype=np.float32), ids=list("abcde"), metadata=metadata)
    return real_client


def test_double_quotes_name_columns_wherever_a_filter_goes(pets: topwork.Client) -> None:
    assert pets.read("pets", where='"label" <> \'cat\' AND "n" > 0.5').ids == ["b", "d", "e"]
    pets.create_index("pets", kind="flat")
    assert sorted(pets.search("pets", vectors=np.ones(5, np.float32), where="\"label\" = 'cat'").ids) == ["a", "c"]
    for where in ("\"lable\" != 'cat'", 'label = "cat"'):
        for ask in (
            lambda where: pets.read("pets", where=where),
            lambda where: pets.delete("pets", where=where),
            lambda where: pets.search("pets", vectors=np.ones(5, np.float32), where=where),
        ):
            with pytest.raises(
                topwork.InvalidInput, match=r"a column '(lable|cat)', which the set does not have .use id, label, n, seen"
            ):
                ask(where)
    assert pets.delete("pets", where="\"label\" != 'cat' AND seen < '2024-01-05'") == 2
    assert pets.read("pets").ids == ["a", "c", "e"]


@pytest.mark.parametrize(
    "where",
    [
        "'label' != 'cat'",
        "1=1",
        "true",
        "NOT false",
        "NULL",
        "'a' in ('a','b')",
        "label = 'dog' OR 1=1",
        "label = 'dog' OR NOT ('n' IS NULL)",
        "n > 100 OR (label = 'dog' AND ('label' <> 'cat' OR n = 1))",
        "'label' LIKE 'l%'",
        "2 BETWEEN 1 AND 3",
        "now() > '2024-01-01'",
        "'n' IS DISTINCT FROM 'm'",
        "(1=1) = (label = 'dog')",
        "starts_with('label', 'l')",
        "array_has(['a'], 'a')",
    ],
)
def test_what_changes_rows_refuses_a_condition_that_names_no_column(pets: topwork.Client, where: str) -> None:
    for change in (lambda: pets.delete("pets", where=where), lambda: pets.update("pets", None, {"n": 7}, where=where)):
        with pytest.raises(topwork.InvalidInput, match="names no column") as refused:
            change()
        assert '"label"' in refused.value.remedy
        assert "id IS NOT NULL" in refused.value.remedy
    assert pets.read("pets").metadata["n"] == [0, 1, 2, 3, 4]


def test_a_constant_condition_reads_and_all_rows_are_named_by_their_ids(pets: topwork.Client) -> None:
    assert pets.count("pets", "'label' != 'cat'") == 5
    assert pets.update("pets", None, {"n": 7}, where="id IS NOT NULL").updated == 5
    assert pets.delete("pets", where="lower('CAT') = label AND 'c' < id") == 0
    assert pets.delete("pets", where="lower('CAT') = label AND 'b' < id") == 1
    assert pets.delete("pets", where="id IS NOT NULL") == 4


@pytest.mark.parametrize(
    "where", ["n > \uff11", "n > 1\uff11", "n = \u0663", "n > \uff11.5", "n > '\uff11'", "seen > '\uff12024-01-01'"]
)
def test_numbers_and_times_have_the_digits_0_to_9(pets: topwork.Client, where: str) -> None:
    with pytest.raises(topwork.InvalidInput):
        pets.read("pets", where=where)


@pytest.mark.parametrize("name", ["0", "1", "007", "latest", "LATEST", "current"])
def test_a_pin_cannot_be_taken_for_a_version(pets: topwork.Client, name: str) -> None:
    with pytest.raises(topwork.InvalidInput, match="taken for a version"):
        pets.pin("pets", name)


def test_a_chain_of_equalities_is_planned_and_other_long_chains_are_refused(pets: topwork.Client) -> None:
    """20,000 terms took 24 s on 2,000 rows."""
    long = " OR ".join(f"label = 'no {number}'" for number in range(20_000))
    assert pets.read("pets", where=f"{long} OR label = 'dog'", timeout=120).ids == ["b"]
    short = " OR ".join(f"label = 'no {number}'" for number in range(2000))
    assert pets.read("pets", where=f"NOT ({short}) AND n = 3", timeout=120).ids == ["d"]
    with pytest.raises(topwork.InvalidInput, match="3000 different conditions"):
        pets.read("pets", where=" OR ".join(f"n > {number}" for number in range(3000)), timeout=120)


def test_a_filter_ends_with_its_callers_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check waits until the caller has gone: work that did not hear of it would go on after a while, and delete all."""
    asyncio.run(_deadlines(tmp_path, monkeypatch))


async def _deadlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = threading.Event()

    class Slow(blocking_calls.BlockingCaller):
        def check(self) -> None:
            left.set() if self._gone.wait(20) else None
            super().check()

    async with sets_harness.served(tmp_path, []) as served:
        features = await asyncio.to_thread(_ready_rows)
        async for _ in served.stub.Write(iter([sets_harness.settings("pets"), features])):
            pass
        monkeypatch.setattr("topwork_server.services.feature_sets.BlockingCaller", Slow)
        for call in (
            lambda: served.stub.DeleteRows(pb.DeleteRowsRequest(set="pets", where="id IS NOT NULL"), timeout=0.3),
            lambda: served.stub.Read(pb.ReadRequest(set="pets", where="true"), timeout=0.3).read(),
        ):
            left.clear()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert await asyncio.to_thread(left.wait, 15)
        monkeypatch.undo()
        assert (await served.stub.GetSet(pb.GetSetRequest(set="pets"))).items == 3


def _ready_rows() -> pb.WriteRequest:
    from topwork.v1 import types_pb2

    rows = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=[3, 2], data=np.ones((3, 2), np.float32).tobytes())
    features = types_pb2.TapFeatures(tap="vector", rows=rows, granularity=types_pb2.GRANULARITY_ITEM)
    return pb.WriteRequest(rows=pb.WriteRows(ids=["a", "b", "c"], features=[features]))
