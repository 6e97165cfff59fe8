"""Selection of the device and graph that compute each tap: the fastest whose rows mix with those of the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from topwork_server.errors import NotReady
from topwork_server.models.artifacts import DEFAULT, MODEL, Manifest
from topwork_server.runtime.device_records import DeviceRecord
from topwork_server.runtime.providers import PLAIN, Device
from topwork_server.types import LEAST_PARITY, Numerics

#: Least cosine between a row computed alone and in a batch. It allows for the rounding of bf16 and fp16 in sums of another order,
#: and no more.
INVARIANCE = 0.9999
#: Another device must be so many times as fast as the plain one to replace it.
HEAD_START = 1.1


@dataclass(frozen=True)
class ExecutionPlan:
    """A graph of the artifact on a device, and the taps that it computes well enough. `numerics` is that of the worst of them,
    `by_tap` that of each."""

    device: Device
    graph: str
    taps: tuple[str, ...]
    numerics: Numerics
    by_tap: Mapping[str, Numerics] = field(default_factory=dict)

    def numerics_of(self, taps: Sequence[str]) -> Numerics:
        """Numerics of a request for these taps."""
        found = [self.by_tap.get(tap, self.numerics) for tap in taps]
        return replace(
            self.numerics,
            parity=min(numerics.parity for numerics in found),
            max_abs_error=max(numerics.max_abs_error for numerics in found),
        )


@dataclass(frozen=True)
class PlanSet:
    """Plans for an encoder. A request takes the first that has all its taps: the graph of the default tap alone, the full graph
    on the same device and, where that fails for some taps, the full graph on a device that has them too. `records` are all
    measurements, the one in use first; none where there was no choice."""

    plans: tuple[ExecutionPlan, ...]
    records: tuple[DeviceRecord, ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{len(way.taps)} taps on {way.device}" if i else str(way.device) for i, way in enumerate(self.plans))

    def plan_index_for(self, taps: Sequence[str]) -> int:
        """Position of the first plan that has all these taps. NotReady where none has."""
        for position, way in enumerate(self.plans):
            if set(taps) <= set(way.taps):
                return position
        raise _refused(self.records, [tap for tap in taps if tap not in self.plans[-1].taps])

    def device_of(self, tap: str) -> Device | None:
        """The device that computes this tap when it is requested alone."""
        return next((way.device for way in self.plans if tap in way.taps), None)


def select_plans(manifest: Manifest, records: Sequence[DeviceRecord], default_tap: str) -> PlanSet:
    """Select plans from measurements. NotReady where no device computes the default tap well enough."""
    ordered = sorted(records, key=lambda record: -record.samples_per_second * (HEAD_START if record.device == PLAIN else 1))
    taps = {record.device: passing(record) for record in ordered}
    fastest = next((record for record in ordered if default_tap in taps[record.device]), None)
    if fastest is None:
        raise _refused(ordered, [default_tap])
    widest = max(ordered, key=lambda record: len(taps[record.device]))  # among equals the fastest
    whole = [fastest, widest] if len(taps[widest.device]) > len(taps[fastest.device]) else [fastest]
    ways = [_measured_plan(manifest, record, MODEL, taps[record.device]) for record in whole]
    if DEFAULT in manifest.files:
        ways.insert(0, _measured_plan(manifest, fastest, DEFAULT, (default_tap,)))
    return PlanSet(tuple(ways), (fastest, *(record for record in ordered if record is not fastest)))


def plain_plans(manifest: Manifest, default_tap: str) -> PlanSet:
    """Plans on the plain device alone, whose numerics the export measured."""
    taps = tuple(info.tap.name for info in manifest.taps)
    alone = [_plain_plan(manifest, DEFAULT, (default_tap,))] if DEFAULT in manifest.files else []
    return PlanSet((*alone, _plain_plan(manifest, MODEL, taps)))


def passing(record: DeviceRecord) -> tuple[str, ...]:
    """The taps that the device computes well enough: near to the network of their fingerprints (the fp32 network or, of a
    quantized encoder, the int8 graph itself), alone and in batches."""
    faults = _faults(record)
    return tuple(tap for tap in record.parity if tap not in faults)


def _faults(record: DeviceRecord) -> dict[str, str]:
    """Map taps to their faults, of those that the device does not compute well enough."""
    near = {tap: worst["min_cosine"] for tap, worst in record.parity.items()}
    far = {tap: f"a parity of {worst:.5f}, below {LEAST_PARITY}" for tap, worst in near.items() if worst < LEAST_PARITY}
    moved = {tap: worst for tap, worst in record.invariance.items() if worst < INVARIANCE and tap not in far}
    return far | {tap: f"rows that move with their batch: {worst:.6f}, below {INVARIANCE}" for tap, worst in moved.items()}


def invariance_of(record: DeviceRecord) -> float:
    """Least invariance of the taps that the device computes well enough, or of all where there are none."""
    taps = passing(record) or tuple(record.invariance)
    return min((record.invariance.get(tap, 1.0) for tap in taps), default=0.0)


def parity_of(manifest: Manifest, record: DeviceRecord) -> Mapping[str, float]:
    """Map each tap to its minimum cosine to the reference. The plain device's is the export's own record; other devices were
    compared with the plain one, which is the reference itself unless its graph is quantized: then both angles add up."""
    if record.device == PLAIN:
        return {tap: worst["min_cosine"] for tap, worst in manifest.parity.items()}
    measured = {tap: worst["min_cosine"] for tap, worst in record.parity.items()}
    if manifest.numerics.precision == "fp32":
        return measured
    return {tap: _cosine_of_sum(cosine, manifest.parity[tap]["min_cosine"]) for tap, cosine in measured.items()}


def _cosine_of_sum(first: float, second: float) -> float:
    """The cosine of the sum of two angles, given by their cosines."""
    return math.cos(min(sum(math.acos(max(-1.0, min(cosine, 1.0))) for cosine in (first, second)), math.pi))


def _measured_plan(manifest: Manifest, record: DeviceRecord, graph: str, taps: tuple[str, ...]) -> ExecutionPlan:
    by_tap = {tap: numerics_of(manifest, record, (tap,)) for tap in taps}
    return ExecutionPlan(record.device, graph, taps, numerics_of(manifest, record, taps), by_tap)


def _plain_plan(manifest: Manifest, graph: str, taps: tuple[str, ...]) -> ExecutionPlan:
    return ExecutionPlan(
        PLAIN, graph, taps, plain_numerics(manifest, taps), {tap: plain_numerics(manifest, (tap,)) for tap in taps}
    )


def plain_numerics(manifest: Manifest, taps: Sequence[str]) -> Numerics:
    """Numerics of the plain device for the worst of these taps, as the export measured them."""
    worst = [manifest.parity[tap] for tap in taps if tap in manifest.parity]
    if not worst:
        return manifest.numerics
    return replace(
        manifest.numerics,
        parity=min(tap["min_cosine"] for tap in worst),
        max_abs_error=max(tap["max_abs_error"] for tap in worst),
    )


def numerics_of(manifest: Manifest, record: DeviceRecord, taps: Sequence[str]) -> Numerics:
    """Numerics of a device for the worst of these taps."""
    if record.device == PLAIN:
        return plain_numerics(manifest, taps)
    quantized = manifest.numerics.precision != "fp32"
    parity = parity_of(manifest, record)
    return Numerics(
        provider=record.device.provider,
        precision=manifest.numerics.precision if quantized else record.device.precision,
        parity=min((parity[tap] for tap in taps), default=0.0),
        max_abs_error=max((record.parity[tap]["max_abs_error"] for tap in taps), default=0.0),
    )


def why_not(record: DeviceRecord) -> str:
    """Reason why a device does not compute all taps well enough; empty where it does."""
    if record.error:
        return record.error
    faults = _faults(record)
    if len(faults) < 3:
        return ", ".join(f"{tap} has {fault}" for tap, fault in faults.items())
    worst = min(faults, key=lambda tap: record.parity[tap]["min_cosine"])
    return f"{len(faults)} taps are not near enough; the worst, {worst}, has {faults[worst]}"


def _refused(records: Sequence[DeviceRecord], taps: Sequence[str]) -> NotReady:
    reasons = "; ".join(f"{record.device}: {_reason(record, taps)}" for record in records)
    return NotReady(f"no device here gives {', '.join(taps)} well enough ({reasons})", remedy="serve with --provider auto or cpu")


def _reason(record: DeviceRecord, taps: Sequence[str]) -> str:
    faults = _faults(record)
    return record.error or ", ".join(dict.fromkeys(faults[tap] for tap in taps if tap in faults)) or "not used here"
