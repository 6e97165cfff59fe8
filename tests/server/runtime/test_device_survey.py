from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from passes import of_encoder
from topwork_server import TextItem
from topwork_server.config import Config
from topwork_server.errors import NotReady, Unavailable
from topwork_server.inference import model_cache
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.jobs.child_processes import ChildProcesses
from topwork_server.models import artifacts
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog import Catalog
from topwork_server.runtime import device_benchmark, device_records, device_survey, parity
from topwork_server.runtime.benchmark_batches import batches_of, load_batches, save_batches
from topwork_server.runtime.device_survey import DeviceSurvey
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.providers import PLAIN, Device, has_nvidia_gpu
from topwork_server.runtime.session import Session
from toys import FakePlugins, Letters, letters_spec

BF16 = Device("openvino", "bf16")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("letters")
    return folder, export_encoder(letters_spec(), Path(), folder)


@pytest.fixture
def letters(exported: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> tuple[Letters, Path, Manifest]:
    """An artifact that nothing was measured of."""
    for path in exported[0].glob("device-*.json"):
        path.unlink()
    return Letters(letters_spec(), exported[0]), *exported


def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """In place of the process that measures: `body` reads `devices` and says what it likes."""
    script = tmp_path / "measuring.py"
    script.write_text(
        "import json, os, sys\n"
        "devices = sys.argv[5:]\n"
        "def say(**record): print(json.dumps(record), flush=True)\n"
        "def trial(device, speed=1.0, cosine=1.0):\n"
        "    parity = {t: {'min_cosine': cosine, 'max_abs_error': 0.0} for t in ('mean', 'letters')}\n"
        "    say(device=device, parity=parity, invariance={}, samples_per_second=speed, error='')\n" + body
    )
    monkeypatch.setattr(device_survey, "COMMAND", (sys.executable, str(script)))


def test_batches_are_the_saved_samples_alone_and_together(letters: tuple[Letters, Path, Manifest], tmp_path: Path) -> None:
    encoder, folder, _ = letters
    inputs = parity.saved_inputs(folder / artifacts.PARITY_INPUTS)
    batches = batches_of(encoder, inputs)
    assert [batch.members for batch in batches[: len(inputs)]] == [(i,) for i in range(len(inputs))]
    (together,) = batches[len(inputs) :]
    assert len(together.members) >= 2
    save_batches(tmp_path / "b.npz", batches)
    for one, two in zip(batches, load_batches(tmp_path / "b.npz"), strict=True):
        assert one.members == two.members
        assert one.feeds.keys() == two.feeds.keys()
        assert all(np.array_equal(one.feeds[name], two.feeds[name]) for name in one.feeds)


def test_a_device_is_measured_against_the_plain_one(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, folder, _ = letters

    class Noisy(Session):
        def run(self, outputs, feeds):  # type: ignore[no-untyped-def]
            chance = np.random.default_rng(len(feeds["codes"]))  # other noise in a batch than alone
            return [a + 1e-2 * chance.standard_normal(a.shape).astype(a.dtype) for a in super().run(outputs, feeds)]

    monkeypatch.setattr(
        device_benchmark, "open_session", lambda model, device, threads: (Noisy if device == BF16 else Session)(model, 1)
    )
    batches = batches_of(encoder, parity.saved_inputs(folder / artifacts.PARITY_INPUTS))
    noisy, plain = device_benchmark.DeviceBenchmark(folder, batches, "mean", 1).trials([BF16, PLAIN])
    assert (noisy.device, plain.device) == ("openvino/bf16", "cpu/fp32")
    assert 0.99 < noisy.parity["mean"]["min_cosine"] < 0.99999
    assert 0.005 < noisy.parity["mean"]["max_abs_error"] < 0.1
    assert noisy.invariance["mean"] < 0.99999
    assert all(worst["min_cosine"] == pytest.approx(1.0, abs=1e-6) for worst in plain.parity.values())
    assert all(worst["max_abs_error"] < 1e-5 for worst in plain.parity.values())
    assert plain.invariance == pytest.approx({"mean": 1.0, "letters": 1.0}, abs=1e-6)
    assert plain.samples_per_second > 0


@pytest.mark.skipif(has_nvidia_gpu(), reason="there is a GPU")
def test_it_is_measured_once_and_a_device_that_is_not_here_is_on_record(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, folder, manifest = letters
    devices = (Device("cuda", "fp16"), PLAIN)
    found = DeviceSurvey(devices, 1, ChildProcesses()).plans_for(encoder, folder, manifest)
    assert [way.device for way in found.plans] == [PLAIN] * len(found.plans)
    assert "cuda" in found.records[1].error
    monkeypatch.setattr(subprocess, "Popen", None)
    assert DeviceSurvey(devices, 1, ChildProcesses()).plans_for(encoder, folder, manifest) == found


def test_another_machine_measures_again(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder, folder, manifest = letters
    scripted(tmp_path, monkeypatch, "for device in devices: trial(device, speed=9.0 if device.startswith('openvino') else 1.0)\n")
    assert DeviceSurvey((BF16, PLAIN), 1, ChildProcesses()).plans_for(encoder, folder, manifest).plans[0].device == BF16
    scripted(tmp_path, monkeypatch, "for device in devices: trial(device)\n")
    assert DeviceSurvey((BF16, PLAIN), 1, ChildProcesses()).plans_for(encoder, folder, manifest).plans[0].device == BF16, (
        "the record holds"
    )
    assert DeviceSurvey((BF16, PLAIN), 2, ChildProcesses()).plans_for(encoder, folder, manifest).plans[0].device == PLAIN, (
        "with other threads it does not"
    )
    monkeypatch.setattr(device_records, "cpu_facts", lambda: {"model name": "another"})
    assert DeviceSurvey((BF16, PLAIN), 2, ChildProcesses()).stored_plans(folder, manifest, "mean") is None


def test_a_device_that_takes_its_process_along_is_noted_and_the_others_go_on(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder, folder, manifest = letters
    body = "for device in devices:\n    say(trying=device)\n    if 'bf16' in device: os.kill(os.getpid(), 11)\n"
    scripted(tmp_path, monkeypatch, body + "for device in devices: trial(device)\n")
    found = DeviceSurvey((BF16, PLAIN), 1, ChildProcesses()).plans_for(encoder, folder, manifest)
    assert [str(way.device) for way in found.plans] == ["cpu fp32"] * len(found.plans)
    assert "killed by signal 11" in found.records[1].error
    with pytest.raises(NotReady, match="killed by signal 11"):
        DeviceSurvey((BF16,), 1, ChildProcesses()).plans_for(encoder, folder, manifest)


def test_a_process_that_the_system_killed_is_no_record(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may have been short of memory only then."""
    encoder, folder, manifest = letters
    body = "for device in devices:\n    say(trying=device)\n    if 'bf16' in device: os.kill(os.getpid(), 9)\n"
    scripted(tmp_path, monkeypatch, body + "for device in devices: trial(device)\n")
    assert DeviceSurvey((BF16, PLAIN), 1, ChildProcesses()).plans_for(encoder, folder, manifest).plans[0].device == PLAIN
    assert [path.name for path in folder.glob("device-*")] == ["device-cpu-fp32.json"]


def test_a_server_that_stops_blames_no_device(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder, folder, manifest = letters
    begun, children = tmp_path / "begun", ChildProcesses()
    os.mkfifo(begun)
    scripted(tmp_path, monkeypatch, f"open({str(begun)!r}, 'w').write('x')\nsys.stdout.flush()\nos.read(os.pipe()[0], 1)\n")
    with ThreadPoolExecutor(1) as pool:
        measured = pool.submit(DeviceSurvey((BF16, PLAIN), 1, children).plans_for, encoder, folder, manifest)
        begun.read_text()
        children.close()
        with pytest.raises(Unavailable, match="stopping"):
            measured.result()
    assert not list(folder.glob("device-*"))
    with pytest.raises(Unavailable):
        children.run(["true"])


def test_an_artifact_that_cannot_be_written_to_is_served_all_the_same(
    letters: tuple[Letters, Path, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, folder, manifest = letters
    scripted(tmp_path, monkeypatch, "for device in devices: trial(device, speed=9.0 if device.startswith('openvino') else 1.0)\n")
    monkeypatch.setattr(Path, "replace", refuse)
    assert DeviceSurvey((BF16, PLAIN), 1, ChildProcesses()).plans_for(encoder, folder, manifest).plans[0].device == BF16
    assert "cannot be kept: Read-only" in caplog.text
    assert not list(folder.glob("device-*"))


def refuse(self: Path, target: Path) -> Path:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("damage", ["", "{", "[]", json.dumps({"device": "openvino bf16", "speed": 1})])
def test_a_damaged_record_is_none(letters: tuple[Letters, Path, Manifest], damage: str) -> None:
    _, folder, _ = letters
    (folder / "device-openvino-bf16.json").write_text(damage)
    assert device_records.read_record(folder, BF16, "here") is None


async def test_a_server_computes_on_what_was_chosen_and_knows_it_after_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The plain device stands in for the fast one."""
    scripted(tmp_path, monkeypatch, "for device in devices: trial(device, 9.0 if device.startswith('openvino') else 1.0)\n")
    monkeypatch.setattr(model_cache, "candidates", lambda asked: (BF16, PLAIN))
    opened: list[Device] = []

    def open_session(model: Path, device: Device, threads: int) -> Session:
        opened.append(device)
        return Session(model, threads, device=device)

    monkeypatch.setattr(model_cache, "open_session", open_session)
    home = tmp_path / "home"
    catalog = Catalog(FakePlugins([letters_spec()]), home)  # type: ignore[arg-type]
    artifacts.publish(home, letters_spec(), lambda folder: export_encoder(letters_spec(), Path(), folder))
    entry = catalog.entry("letters")
    engine = Engine(catalog, Config(home=home, threads=1))
    assert engine.provider_names == "openvino or cpu"
    assert engine.plans_of(entry) is None, "nothing is measured yet"
    found = await engine.embed(EmbedParams(of_encoder("letters")), [TextItem("abc")])
    assert (found.numerics.provider, found.numerics.precision) == ("openvino", "bf16")
    assert opened == [BF16]
    await engine.close()
    again = Engine(catalog, Config(home=home, threads=1))
    chosen = again.plans_of(entry)
    assert chosen is not None
    assert chosen.plans[0].device == BF16
    await again.close()
