from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topwork_server import EncoderSpec, Granularity, Trunk
from topwork_server.errors import ExportFailed
from topwork_server.models import artifacts, fingerprint
from topwork_server.models.artifacts import Manifest
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.runtime import parity
from topwork_server.runtime.export import export_encoder
from topwork_server.runtime.session import Session
from topwork_server.types import Numerics
from toys import TAPS, DynamoLetters, Letters, letters_spec


class Liar(Letters):
    """Its graph is not its network: what it computes depends on how often it was called."""

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path):  # type: ignore[no-untyped-def]
        import torch

        trunk = super().export(spec, assets, out)
        module = trunk.module
        assert module is not None
        module.register_forward_hook(lambda m, i, o: o if torch.jit.is_tracing() else (o[0] + 1, o[1]))
        return trunk


def test_an_artifact_tells_all_about_itself(tmp_path: Path) -> None:
    made = export_encoder(letters_spec(), Path(), tmp_path)
    assert Manifest.read(tmp_path) == made
    assert {info.tap for info in made.taps} == set(TAPS)
    assert made.numerics.parity > 0.999999
    assert made.parameters == 128 * 8
    assert made.reference.startswith("torch ")
    assert len(set(made.batches)) >= 4
    assert set(made.files) == {"model.onnx", "parity.npz", "samples.npz"}
    artifacts.verify(tmp_path, made)


def test_a_graph_that_is_not_the_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"minimum cosine .* worst tap mean"):
        export_encoder(letters_spec(encoder=Liar), Path(), tmp_path)
    assert not (tmp_path / artifacts.MANIFEST).exists()


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"taps": (replace(TAPS[0], dim=9), TAPS[1])}, r"mean \(item, dim 9\) means the shape \(1, 9\), .* \(1, 8\)"),
        ({"taps": (TAPS[1], TAPS[0])}, r"letters .* has \(1, 8\)"),
        ({"taps": (replace(TAPS[0], granularity=Granularity.CELL, grid=(2, 3)), TAPS[1])}, r"mean .* \(1, 6, 8\)"),
        ({"taps": TAPS[:1]}, "returns 2 tensors for 1 taps"),
    ],
)
def test_taps_that_are_not_what_the_module_returns_are_refused(tmp_path: Path, changes: dict[str, Any], pattern: str) -> None:
    class Mistaken(Letters):
        @classmethod
        def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
            return replace(super().export(spec, assets, out), **changes)

    with pytest.raises(ExportFailed, match=pattern) as caught:
        export_encoder(letters_spec(encoder=Mistaken), Path(), tmp_path)
    assert caught.value.remedy
    assert not (tmp_path / artifacts.MANIFEST).exists()


def test_both_exporters_make_the_same_network(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    export_encoder(letters_spec(), Path(), tmp_path / "a")
    export_encoder(letters_spec(encoder=DynamoLetters), Path(), tmp_path / "b")
    feeds = {"codes": np.array([[65, 66, 0]]), "mask": np.array([[1, 1, 0]], np.float32)}
    a, b = (Session(tmp_path / name / artifacts.MODEL).run(["mean"], feeds)[0] for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_fingerprints_follow_the_meaning() -> None:
    trunk, other = Letters.export(letters_spec(), Path(), Path()), Letters.export(letters_spec(seed=1), Path(), Path())
    assert trunk.module is not None
    assert other.module is not None
    weights = fingerprint.module_digest(trunk.module)
    again = Letters.export(letters_spec(), Path(), Path()).module
    assert again is not None
    assert fingerprint.module_digest(again) == weights
    assert fingerprint.module_digest(other.module) != weights
    base = fingerprint.fingerprint(weights, {"a": 1, "b": 2}, {}, "mean")
    assert base == fingerprint.fingerprint(weights, {"b": 2, "a": 1}, {}, "mean")
    changed = [
        fingerprint.fingerprint(weights, {"a": 1, "b": 3}, {}, "mean"),
        fingerprint.fingerprint(weights, {"a": 1, "b": 2}, {"size": 1}, "mean"),
        fingerprint.fingerprint(weights, {"a": 1, "b": 2}, {}, "letters"),
    ]
    assert len({base, *changed}) == 4


def test_a_known_fingerprint_is_the_same_on_every_machine() -> None:
    found = fingerprint.fingerprint("00", {"revision": 1, "encoder": "toy"}, {"size": 224}, "pooled")
    written = (
        b'{"definition": {"encoder": "toy", "revision": 1}, "preprocessing": {"size": 224}, "tap": "pooled", "weights": "00"}'
    )
    assert found == hashlib.sha256(written).hexdigest()


def test_another_revision_or_setting_is_another_artifact() -> None:
    spec = letters_spec()
    keys = {artifacts.key(spec), artifacts.key(letters_spec(seed=1)), artifacts.key(replace(spec, source="file:/elsewhere"))}
    revised = type("Letters", (Letters,), {"revision": 2, "__module__": Letters.__module__, "__qualname__": "Letters"})
    keys.add(artifacts.key(replace(spec, encoder=revised)))
    assert len(keys) == 4
    assert artifacts.key(replace(spec, description="other words")) in keys


MANIFEST = Manifest("letters", (), 0, Numerics("cpu", "fp32", 1.0, 0.0), "", {}, (), {}, {}, stamp="", bytes=0)
ABSENT = replace(letters_spec(), source="file:/nowhere/at/all")


def _build(folder: Path) -> None:
    (folder / "model.onnx").write_text("graph")
    MANIFEST.write(folder)


def test_a_failed_build_leaves_nothing_that_looks_done(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        _build(folder)
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        artifacts.publish(tmp_path, ABSENT, fail)
    assert artifacts.find(tmp_path, ABSENT) is None
    folder = artifacts.publish(tmp_path, ABSENT, _build)
    assert artifacts.find(tmp_path, ABSENT) == folder
    assert not list(folder.parent.glob(".*.part")), "what the failure left is swept"


def _build_until_killed(home: Path, started: multiprocessing.synchronize.Event) -> None:
    def build(folder: Path) -> None:
        _build(folder)
        started.set()
        signal.pause()

    artifacts.publish(home, ABSENT, build)


def test_a_killed_export_leaves_nothing_that_looks_done(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    started = spawn.Event()
    child = spawn.Process(target=_build_until_killed, args=(tmp_path, started))
    child.start()
    assert started.wait(30)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert artifacts.find(tmp_path, ABSENT) is None
    assert artifacts.find(tmp_path, ABSENT) is None
    folder = artifacts.publish(tmp_path, ABSENT, _build)  # the lock died with its holder
    assert sorted(path.name for path in folder.iterdir()) == [artifacts.MANIFEST, "model.onnx"]
    assert not list(folder.parent.glob(".*.part"))


def _race(home: Path, barrier: multiprocessing.synchronize.Barrier, builds: multiprocessing.queues.Queue[int]) -> None:
    def build(folder: Path) -> None:
        builds.put(os.getpid())
        _build(folder)

    barrier.wait(30)
    artifacts.publish(home, ABSENT, build)


def test_two_exporters_at_once_build_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, builds = fork.Barrier(4), fork.Queue()
    children = [fork.Process(target=_race, args=(tmp_path, barrier, builds)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    builds.get(timeout=5)
    assert builds.empty()
    assert artifacts.find(tmp_path, ABSENT)


def test_a_forced_export_replaces(tmp_path: Path) -> None:
    folder = artifacts.publish(tmp_path, ABSENT, _build)
    (folder / "model.onnx").write_text("damaged")
    artifacts.publish(tmp_path, ABSENT, _build)
    assert (folder / "model.onnx").read_text() == "damaged"
    artifacts.publish(tmp_path, ABSENT, _build, force=True)
    assert (folder / "model.onnx").read_text() == "graph"


def test_changed_local_weights_are_exported_again(tmp_path: Path) -> None:
    weights = tmp_path / "my.letters"
    weights.write_text("one")
    spec = replace(letters_spec(), source=f"file:{weights}")

    def build(folder: Path) -> None:
        replace(MANIFEST, stamp=sources.stamp(SourceUri.parse(spec.source))).write(folder)

    folder = artifacts.publish(tmp_path, spec, build)
    assert artifacts.find(tmp_path, spec) == folder
    weights.write_text("another")
    assert artifacts.find(tmp_path, spec) is None
    artifacts.publish(tmp_path, spec, build)
    assert artifacts.find(tmp_path, spec) == folder
    weights.unlink()
    assert artifacts.find(tmp_path, spec) == folder, "weights that are gone do not take their artifact along"


def test_difference_sees_nan_shape_and_zero_rows() -> None:
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert parity.difference(ones, ones) == (0.0, pytest.approx(1.0))
    assert parity.difference(zeros, zeros) == (0.0, 1.0)
    assert parity.difference(ones, zeros)[1] == 0.0
    assert parity.difference(ones, ones * np.nan)[1] == -1.0
    assert parity.difference(ones, ones[:1])[1] == -1.0
