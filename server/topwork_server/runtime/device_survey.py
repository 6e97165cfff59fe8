"""Survey of this machine's devices on an encoder, once: measurements are kept beside its graph, and plans selected from them."""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork_server.jobs.child_processes import ChildExit, ChildProcesses, python
from topwork_server.models.artifacts import PARITY_INPUTS, Manifest
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.runtime import device_records, device_selection
from topwork_server.runtime.benchmark_batches import batches_of, save_batches
from topwork_server.runtime.device_records import DeviceRecord
from topwork_server.runtime.device_selection import PlanSet
from topwork_server.runtime.parity import saved_inputs
from topwork_server.runtime.providers import PLAIN, Device

log = logging.getLogger(__name__)

COMMAND = python("topwork_server.runtime.device_benchmark")
#: The system kills a process that takes too much memory. That may pass, so the device is tried again at the next load.
KILLED = f"signal {signal.SIGKILL:d}"
#: Seconds that all devices of an encoder may take.
TIMEOUT_SECONDS = 900


class DeviceSurvey:
    """Measures devices. Blocking; from any thread. The measuring process is one of `children`; Unavailable where those were ended
    with the server."""

    def __init__(self, devices: Sequence[Device], threads: int, children: ChildProcesses) -> None:
        self.devices, self._threads, self._children = tuple(devices), threads, children
        self._lock = threading.Lock()  # one at a time, or each slows the others

    def stored_plans(self, folder: Path, manifest: Manifest, default_tap: str) -> PlanSet | None:
        """Plans from stored measurements; None where a device is not measured yet. NotReady as `select_plans`."""
        if self.devices == (PLAIN,):
            return device_selection.plain_plans(manifest, default_tap)
        found = [device_records.read_record(folder, device, self._machine(device)) for device in self.devices]
        whole = [record for record in found if record is not None]
        return device_selection.select_plans(manifest, whole, default_tap) if len(whole) == len(found) else None

    def plans_for(self, encoder: Encoder, folder: Path, manifest: Manifest) -> PlanSet:
        """Plans from stored measurements, or from new ones. NotReady where no device computes the default tap well enough."""
        tap = encoder.spec.default_tap
        if found := self.stored_plans(folder, manifest, tap):
            return found
        with self._lock:
            log.info("measuring %s, once, on %s", encoder.spec.name, ", ".join(map(str, self.devices)))
            measured = self._measure(encoder, folder)
        for record in measured:
            log.info("%s on %s", encoder.spec.name, _summary(manifest, record, tap))
            if KILLED not in record.error:
                device_records.write_record(folder, record)
        return device_selection.select_plans(manifest, measured, tap)

    def _measure(self, encoder: Encoder, folder: Path) -> list[DeviceRecord]:
        """Measure all devices. One that crashes the process is recorded, and the others are tried again without it."""
        fallen: dict[Device, str] = {}
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "batches.npz"
            save_batches(path, batches_of(encoder, saved_inputs(folder / PARITY_INPUTS)))
            while left := [device for device in self.devices if device not in fallen]:
                trials, fatal, reason = self._try_devices(folder, path, encoder.spec.default_tap, left)
                if not reason:
                    break
                fallen[fatal] = reason
        lost = {f"{device.provider}/{device.precision}": _failed_trial(reason) for device, reason in fallen.items()}
        by_device = {**lost, **{trial["device"]: trial for trial in trials}}
        return [self._record(device, by_device[f"{device.provider}/{device.precision}"]) for device in self.devices]

    def _try_devices(
        self, folder: Path, batches: Path, tap: str, devices: Sequence[Device]
    ) -> tuple[list[dict[str, Any]], Device, str]:
        """Run the benchmark process: its trials; or the device that it was at when it ended too soon, and how it ended."""
        names = [f"{device.provider}/{device.precision}" for device in devices]
        command = [*COMMAND, str(folder), str(batches), tap, str(self._threads)]
        child = self._children.run(command + names, TIMEOUT_SECONDS)
        messages = [json.loads(line) for line in child.out.splitlines() if line.startswith("{")]
        trials = [line for line in messages if "device" in line]
        at = next((names.index(line["trying"]) for line in reversed(messages) if "trying" in line), 0)
        return trials, devices[at], "" if len(trials) == len(devices) else _ending(child)

    def _record(self, device: Device, trial: Mapping[str, Any]) -> DeviceRecord:
        return DeviceRecord(**{**trial, "device": device, "machine": self._machine(device)})

    def _machine(self, device: Device) -> str:
        return device_records.this_machine(device, self._threads)


def _ending(child: ChildExit) -> str:
    last = child.err.strip().splitlines()[-1:] or ["it said nothing"]
    return f"the process that tried it {child.how}: {last[0]}"


def _failed_trial(reason: str) -> dict[str, Any]:
    return {"parity": {}, "invariance": {}, "samples_per_second": 0.0, "error": reason}


def _summary(manifest: Manifest, record: DeviceRecord, tap: str) -> str:
    if record.error:
        return f"{record.device}: {record.error}"
    parity = device_selection.parity_of(manifest, record)
    worst = min(parity, key=lambda name: parity[name])
    return (
        f"{record.device}: {record.samples_per_second:,.1f} samples/s, parity of {tap} {parity[tap]:.6f},"
        + f" of its worst tap {worst} {parity[worst]:.6f}," * (worst != tap)
        + f" with batch-mates {device_selection.invariance_of(record):.6f}"
    )
