from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from topwork_server.errors import NotReady
from topwork_server.models.artifacts import DEFAULT, MODEL, Manifest
from topwork_server.runtime import device_selection
from topwork_server.runtime.device_records import DeviceRecord
from topwork_server.runtime.device_selection import plain_plans, select_plans
from topwork_server.runtime.providers import PLAIN, Device
from topwork_server.types import FingerprintedTap, Granularity, Numerics, Tap

FP32, BF16 = Device("openvino"), Device("openvino", "bf16")
TAPS = ("pooled", "cells")


def manifest(*, alone: bool = True, precision: str = "fp32", parity: float = 0.99999999) -> Manifest:
    return Manifest(
        encoder="toy",
        taps=tuple(FingerprintedTap(Tap(name, 8, Granularity.ITEM), "f" * 64) for name in TAPS),
        parameters=1,
        numerics=Numerics("cpu", precision, parity, 1e-6),
        reference="torch fp32",
        parity={name: {"min_cosine": parity, "max_abs_error": 1e-6} for name in TAPS},
        batches=(),
        files=dict.fromkeys([MODEL, DEFAULT] if alone else [MODEL], ""),
        made_with={},
        stamp="",
        bytes=1,
    )


def record(
    device: Device, speed: float, moving: Mapping[str, float] | None = None, error: str = "", **parity: float
) -> DeviceRecord:
    by_tap = {name: {"min_cosine": parity.get(name, 1.0), "max_abs_error": 0.5} for name in TAPS}
    return DeviceRecord(device, {} if error else by_tap, dict.fromkeys(TAPS, 1.0) | (moving or {}), speed, "here", error)


def ways(found: device_selection.PlanSet) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(str(way.device), way.graph, way.taps) for way in found.plans]


def test_the_fastest_computes_all_that_it_gives_well_enough() -> None:
    found = select_plans(
        manifest(), [record(PLAIN, 100), record(FP32, 120), record(BF16, 400, pooled=0.9999, cells=0.9995)], "pooled"
    )
    assert ways(found) == [("openvino bf16", DEFAULT, ("pooled",)), ("openvino bf16", MODEL, TAPS)]
    assert [way.numerics.parity for way in found.plans] == [0.9999, 0.9995], "each says what it is worth for its taps"
    assert found.plans[1].numerics_of(["pooled"]).parity == 0.9999, "whatever else that graph gives"
    assert found.plans[1].numerics_of(TAPS).parity == 0.9995
    assert [str(one.device) for one in found.records] == ["openvino bf16", "openvino fp32", "cpu fp32"]
    assert found.plan_index_for(["pooled"]) == 0
    assert found.plan_index_for(["cells"]) == found.plan_index_for(["pooled", "cells"]) == 1


def test_a_tap_that_it_does_not_give_goes_to_one_that_does_and_takes_its_request_along() -> None:
    found = select_plans(manifest(), [record(PLAIN, 100), record(BF16, 400, cells=0.998)], "pooled")
    assert ways(found) == [
        ("openvino bf16", DEFAULT, ("pooled",)),
        ("openvino bf16", MODEL, ("pooled",)),
        ("cpu fp32", MODEL, TAPS),
    ]
    assert found.plan_index_for(["cells", "pooled"]) == 2


def test_without_a_graph_of_the_default_tap_there_is_the_whole_one() -> None:
    found = select_plans(manifest(alone=False), [record(PLAIN, 100), record(BF16, 400)], "pooled")
    assert ways(found) == [("openvino bf16", MODEL, TAPS)]


def test_a_faster_device_that_fails_the_default_tap_is_not_used() -> None:
    found = select_plans(manifest(alone=False), [record(PLAIN, 100), record(BF16, 400, pooled=0.9978)], "pooled")
    assert ways(found) == [("cpu fp32", MODEL, TAPS)]
    assert [str(one.device) for one in found.records] == ["cpu fp32", "openvino bf16"], "the one in use comes first"
    assert device_selection.why_not(found.records[1]) == "pooled has a parity of 0.99780, below 0.999"


def test_a_tap_whose_rows_depend_on_their_batch_goes_elsewhere_and_the_others_stay() -> None:
    moving = record(BF16, 400, {"cells": 0.9993})
    found = select_plans(manifest(alone=False), [record(PLAIN, 100), moving], "pooled")
    assert ways(found) == [("openvino bf16", MODEL, ("pooled",)), ("cpu fp32", MODEL, TAPS)]
    assert device_selection.why_not(moving) == "cells has rows that move with their batch: 0.999300, below 0.9999"
    assert device_selection.invariance_of(moving) == 1.0, "of what it computes"
    with pytest.raises(NotReady, match=r"gives cells .*openvino bf16: rows that move"):
        select_plans(manifest(), [moving], "pooled").plan_index_for(["cells"])


def test_a_device_whose_default_tap_depends_on_its_batch_is_not_used() -> None:
    moving = record(BF16, 400, dict.fromkeys(TAPS, 0.99))
    assert ways(select_plans(manifest(alone=False), [record(PLAIN, 100), moving], "pooled")) == [("cpu fp32", MODEL, TAPS)]
    assert device_selection.invariance_of(moving) == 0.99


def test_the_plain_one_stays_unless_another_is_clearly_faster() -> None:
    for speed, device in ((105, "cpu fp32"), (115, "openvino fp32")):
        found = select_plans(manifest(alone=False), [record(FP32, speed), record(PLAIN, 100)], "pooled")
        assert found.plans[0].device == (PLAIN if device == "cpu fp32" else FP32)


def test_what_was_asked_for_by_name_and_gives_too_little_is_refused() -> None:
    with pytest.raises(
        NotReady, match=r"no device here gives pooled .*openvino bf16: a parity of 0\.99000, below 0\.999"
    ) as caught:
        select_plans(manifest(), [record(BF16, 400, pooled=0.99)], "pooled")
    assert "--provider auto" in caught.value.remedy
    found = select_plans(manifest(), [record(BF16, 400, cells=0.99)], "pooled")
    assert found.plan_index_for(["pooled"]) == 0
    with pytest.raises(NotReady, match=r"gives cells .*0\.99000"):
        found.plan_index_for(["pooled", "cells"])


def test_a_device_that_does_not_run_says_why() -> None:
    broken = record(BF16, 0, error="RuntimeError: no kernel")
    found = select_plans(manifest(), [broken, record(PLAIN, 100)], "pooled")
    assert found.plans[-1].device == PLAIN
    assert device_selection.why_not(broken) == "RuntimeError: no kernel"
    with pytest.raises(NotReady, match="openvino bf16: RuntimeError: no kernel"):
        select_plans(manifest(), [broken], "pooled")


def test_the_numerics_of_a_quantized_graph_add_up() -> None:
    """Two rows at angles a and b from a third are at most a + b apart."""
    quantized = manifest(precision="int8", parity=0.9996)
    found = select_plans(quantized, [record(PLAIN, 100), record(FP32, 400, pooled=0.9999, cells=0.9999)], "pooled")
    assert (found.plans[0].numerics.provider, found.plans[0].numerics.precision) == ("openvino", "int8")
    assert 0.999 < found.plans[0].numerics.parity < 0.9996
    assert plain_plans(quantized, "pooled").plans[0].numerics == quantized.numerics


def test_a_quantized_graph_is_its_own_reference() -> None:
    """Its parity to fp32 is what it is; a device must be near to the int8 graph, whose fingerprint the rows have."""
    quantized = manifest(precision="int8", parity=0.98)
    near, far = record(FP32, 400, pooled=0.9999, cells=0.9999), record(BF16, 800, pooled=0.99, cells=0.99)
    assert ways(select_plans(quantized, [record(PLAIN, 100)], "pooled"))[-1] == ("cpu fp32", MODEL, TAPS)
    found = select_plans(quantized, [far, near, record(PLAIN, 100)], "pooled")
    assert {way.device for way in found.plans} == {FP32}
    assert found.plans[0].numerics.parity < 0.98
    assert found.plans[0].numerics.mixes
    with pytest.raises(NotReady, match=r"openvino bf16: a parity of 0\.99"):
        select_plans(quantized, [far], "pooled")


def test_with_one_device_there_is_nothing_to_measure() -> None:
    assert ways(plain_plans(manifest(), "pooled")) == [("cpu fp32", DEFAULT, ("pooled",)), ("cpu fp32", MODEL, TAPS)]
    assert ways(plain_plans(manifest(alone=False), "pooled")) == [("cpu fp32", MODEL, TAPS)]


def parities(found: Mapping[str, float]) -> list[float]:
    return [round(value, 6) for value in found.values()]


def test_the_plain_device_is_worth_what_the_export_measured() -> None:
    exported = replace(manifest(), parity={name: {"min_cosine": 0.99995, "max_abs_error": 0} for name in TAPS})
    assert parities(device_selection.parity_of(exported, record(PLAIN, 100))) == [0.99995, 0.99995]
