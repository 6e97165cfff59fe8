"""Owns $TOPWORK_HOME/artifacts: one folder an exported encoder, complete or not there at all.

artifacts/NAME-KEY/model.onnx       the graph; its outputs are named as the taps
                   model.onnx.data  its weights, where they have more than 1 GiB (see `onnx_files.py`); default.onnx shares them
                   default.onnx     the way to the default tap alone, where that is less
                   manifest.json    taps with fingerprints, parity, checksums; written last
                   parity.npz       the real inputs that parity is measured on
                   samples.npz      the items that those came from (see `sample_inputs.py`)
                   head-NAME.*      heads that the pretrained network brought: graph and record
                   ...              what the encoder's own `export` wrote
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from topwork_server import atomic_store, json_records
from topwork_server.atomic_store import scratch_folder, temporary_files_in
from topwork_server.errors import DataLoss, NotReady
from topwork_server.plugin_api.sources import SourceUri, stamp
from topwork_server.types import EncoderSpec, FingerprintedTap, Numerics

MODEL = "model.onnx"
DEFAULT = "default.onnx"
MANIFEST = "manifest.json"
PARITY_INPUTS = "parity.npz"
#: Folders of the home in which `atomic_store.build_once` builds.
BUILT_ONCE = ("artifacts", "packages", "tfhub", "environments")
#: Of the folder and its manifest; raised when they change, so that those of an older server are made again.
FORMAT = 4


@dataclass(frozen=True)
class Manifest:
    """The record of an exported encoder. `numerics` is plain fp32 on the CPU (of a quantized one int8), measured against
    `reference`.
    `stamp` tells whether local weights were changed since.

    `parity` holds, by tap, max_abs_error and min_cosine; `batches` the shapes that it was measured on. `files` maps each
    file of the folder to its SHA-256. `unused` names the weights of the source that the encoder leaves out, and
    `remarks` say what else of the source `topwork pull` tells. `default_tap` replaces that of the spec, where it is not empty.
    `blocks` is how many the trunk has for a fine-tuning, 0 where an older server exported it.
    """

    encoder: str
    taps: tuple[FingerprintedTap, ...]
    parameters: int
    numerics: Numerics
    reference: str
    parity: Mapping[str, Mapping[str, float]]
    batches: tuple[str, ...]
    files: Mapping[str, str]
    made_with: Mapping[str, str]
    stamp: str
    bytes: int
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    default_tap: str = ""
    blocks: int = 0

    def tap(self, name: str) -> FingerprintedTap | None:
        return next((info for info in self.taps if info.tap.name == name), None)

    def write(self, folder: Path) -> None:
        json_records.write(folder / MANIFEST, asdict(self), indent=1)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """FileNotFoundError where there is none, DataLoss where it is damaged."""
        manifest = json_records.read(folder / MANIFEST, cls, remedy="export the encoder again")
        if any(info.tap.name not in manifest.parity for info in manifest.taps):
            raise DataLoss(f"{folder / MANIFEST} is damaged: it lacks a parity", remedy="export the encoder again")
        return manifest


def key(spec: EncoderSpec) -> str:
    """Return the key of what an artifact is made from; another revision, source or setting makes another artifact."""
    maker = f"{spec.encoder.__module__}.{spec.encoder.__qualname__}"
    parts = [FORMAT, maker, spec.encoder.revision, spec.source, spec.sha256, dict(spec.settings)]
    if spec.tuned:
        parts.append(spec.tuned.sha256)
        if adapter := spec.tuned.adapter:
            parts += [dict(adapter.config), adapter.trunk]
    if spec.int8:
        parts.append(spec.int8.sha256)
    if spec.aligned:
        parts += [spec.aligned.sha256, spec.aligned.taps]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def folder_of(home: Path, spec: EncoderSpec) -> Path:
    return home / "artifacts" / f"{slug(spec.name)}-{key(spec)}"


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def find(home: Path, spec: EncoderSpec) -> Path | None:
    """The folder of a complete artifact, or None; an artifact of local weights that were changed since is none, and so is one
    whose manifest is damaged: it is made again."""
    folder = folder_of(home, spec)
    try:
        manifest = Manifest.read(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DataLoss as error:
        json_records.warn_once(f"encoder={spec.name}: it is exported again: {error.message}")
        return None
    now = stamp(SourceUri.parse(spec.source))
    return folder if now in ("", manifest.stamp) else None


def damage(folder: Path) -> str:
    """Tell why the manifest of an artifact cannot be used; "" where it can, or is not there."""
    try:
        Manifest.read(folder)
    except DataLoss as error:
        return error.message
    except OSError:
        pass
    return ""


def graph_for(folder: Path, taps: Collection[str], default_tap: str) -> Path:
    """The smallest graph here that has these taps: what a graph has is computed, whether it is fetched or not."""
    alone = folder / DEFAULT
    return alone if set(taps) == {default_tap} and alone.exists() else folder / MODEL


def verify(folder: Path, manifest: Manifest) -> None:
    """Raise NotReady where a file of the artifact was changed or lost since the export."""
    for name, digest in manifest.files.items():
        path = folder / name
        if not atomic_store.is_unchanged(path, digest):
            raise NotReady(f"{path} is not the file that was exported", remedy=f"run `topwork export {manifest.encoder} --force`")


def publish(home: Path, spec: EncoderSpec, build: Callable[[Path], object], *, force: bool = False) -> Path:
    """Build an artifact, unless it is ready, and give its folder. Temporary files of the build go with it."""
    folder = folder_of(home, spec)

    def build_in(scratch: Path) -> None:
        with scratch_folder(folder.parent, f".{folder.name}.") as temporary, temporary_files_in(temporary):
            build(scratch)

    atomic_store.build_once(folder, lambda: not force and find(home, spec) is not None, build_in)
    return folder


def remove(home: Path, spec: EncoderSpec) -> None:
    """Delete an artifact; no error where there is none. A server that has loaded it goes on."""
    folder = folder_of(home, spec)
    if folder.exists():
        discard(folder)


def folders(home: Path) -> list[Path]:
    """List all artifacts, complete or not."""
    return sorted(path for path in (home / "artifacts").glob("*-*") if path.is_dir() and not path.name.startswith("."))


def is_of(folder: Path, names: Collection[str]) -> bool:
    """Tell whether an artifact is, or was, of an encoder of one of these names."""
    return any(re.fullmatch(f"{re.escape(slug(name))}-[0-9a-f]{{12}}", folder.name) for name in names)


def discard(folder: Path) -> None:
    """Delete an artifact with its lock, once no process builds it. A server that has loaded it goes on."""
    with atomic_store.folder_lock(folder), suppress(FileNotFoundError):
        atomic_store.remove(folder)


def sweep(home: Path) -> None:
    """Delete what killed exports and downloads left, and locks without a holder."""
    for path in [path for folder in BUILT_ONCE for path in (home / folder).glob(".*.lock")]:
        with atomic_store.lock(path, wait=False) as held:
            if held:
                atomic_store.sweep(path.parent, path.name.removesuffix("lock"))
                path.unlink(missing_ok=True)
