from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_engine import FakeCatalog
from topwork_server.inference.model_cache import LoadedEncoder
from topwork_server.runtime.device_records import DeviceRecord
from topwork_server.runtime.device_selection import PlanSet, plain_plans, select_plans
from topwork_server.runtime.providers import PLAIN, Device
from topwork_server.services.convert import encoder_messages

BF16 = Device("openvino", "bf16")


def described(choice: Any) -> list[Any]:
    entry = FakeCatalog().entries["ready"]
    loaded = cast(LoadedEncoder, SimpleNamespace(counters={}))
    return list(encoder_messages.encoder(entry, ("loaded", ""), loaded, [choice]).devices)


def test_each_device_says_how_well_and_how_fast_it_computes_and_what() -> None:
    manifest = FakeCatalog().entries["ready"].manifest
    assert manifest is not None
    names = [info.tap.name for info in manifest.taps]
    parity = {name: {"min_cosine": 0.9995, "max_abs_error": 0.01} for name in names}
    low = {**parity, names[1]: {"min_cosine": 0.99, "max_abs_error": 0.5}}
    exported = replace(manifest, parity={name: {"min_cosine": 0.9999999, "max_abs_error": 1e-6} for name in names})
    choice = select_plans(
        exported,
        [DeviceRecord(PLAIN, parity, {}, 100.0, "here"), DeviceRecord(BF16, low, dict.fromkeys(names, 0.99995), 400.0, "here")],
        names[0],
    )
    fast, plain = described(choice)
    assert (fast.numerics.provider, fast.numerics.precision, fast.samples_per_second) == ("openvino", "bf16", 400.0)
    assert fast.numerics.parity == 0.9995, "of the taps that it computes"
    assert fast.numerics.max_abs_error == pytest.approx(0.01)
    assert fast.invariance == 0.99995
    assert list(fast.taps) == [names[0], *names[2:]]
    assert dict(fast.parity)[names[1]] == 0.99
    assert fast.detail == f"{names[1]} has a parity of 0.99000, below 0.999"
    assert (list(plain.taps), plain.detail) == ([names[1]], "")


def test_a_device_that_does_not_run_has_no_figures() -> None:
    manifest = FakeCatalog().entries["ready"].manifest
    assert manifest is not None
    names = [info.tap.name for info in manifest.taps]
    parity = {name: {"min_cosine": 1.0, "max_abs_error": 0.0} for name in names}
    exported = replace(manifest, parity=parity)
    broken = DeviceRecord(BF16, {}, {}, 0.0, "here", "RuntimeError: no kernel")
    plain, other = described(select_plans(exported, [broken, DeviceRecord(PLAIN, parity, {}, 100.0, "here")], names[0]))
    assert list(plain.taps) == names
    assert (list(other.taps), dict(other.parity), other.detail) == ([], {}, "RuntimeError: no kernel")


def test_what_is_not_measured_yet_says_so() -> None:
    entry = FakeCatalog().entries["ready"]
    assert "the first use measures" in encoder_messages.encoder(entry, None, None, [None]).detail
    assert encoder_messages.encoder(entry, None, None, [PlanSet(())]).detail.startswith("no device here")
    assert entry.manifest is not None
    assert encoder_messages.encoder(entry, None, None, [plain_plans(entry.manifest, entry.spec.default_tap)]).detail == ""


def test_where_there_is_nothing_to_choose_nothing_is_shown() -> None:
    manifest = FakeCatalog().entries["ready"].manifest
    assert manifest is not None
    assert described(plain_plans(manifest, manifest.taps[0].tap.name)) == []
