"""Heads that came with their encoders, read from the files of their artifacts and served as ENCODER/NAME."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from topwork_server import json_records
from topwork_server.atomic_store import file_sha256
from topwork_server.errors import DataLoss, NotFound
from topwork_server.heads import pooling
from topwork_server.heads.head_store import StoredHead, damaged_head
from topwork_server.heads.head_types import Head, Pooling, Task
from topwork_server.models.artifacts import MANIFEST
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import EncoderState
from topwork_server.models.pretrained_heads import PREFIX, PretrainedHeadRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Files:
    """The part of a manifest that is read here: the SHA-256 of each file of the artifact."""

    files: Mapping[str, str]


def pretrained_heads(catalog: Catalog) -> dict[str, tuple[Head, Path]]:
    """The heads of all ready encoders and the paths of their graphs, by name; unreadable ones are logged and left out."""
    return {stored.head.name: (stored.head, stored.graph) for name in catalog.names() for stored in _listed(catalog, name)}


def pretrained_head(catalog: Catalog, name: str) -> StoredHead:
    """Read the head ENCODER/NAME. NotFound names those that its encoder has; NotReady where its files are damaged."""
    encoder = name.rpartition("/")[0]
    found = {stored.head.name: stored for stored in _heads_of(catalog, encoder)}
    if name not in found:
        there = f"{encoder} has {', '.join(found)}" if found else f"{encoder} is not exported, or brings no heads"
        raise NotFound(f"there is no head {name!r}", remedy=there)
    return found[name]


def word_head(catalog: Catalog, encoder: str) -> StoredHead | None:
    """Read the head over an encoder's vocabulary; None where it brings none."""
    return next((stored for stored in _heads_of(catalog, encoder) if stored.head.task is Task.FILL), None)


def _listed(catalog: Catalog, encoder: str) -> tuple[StoredHead, ...]:
    try:
        return _heads_of(catalog, encoder)
    except Exception as error:  # a plugin may raise anything on weights that are damaged
        log.warning("encoder=%s: its heads are left out: %s: %s", encoder, type(error).__name__, error)
        return ()


def _heads_of(catalog: Catalog, encoder: str) -> tuple[StoredHead, ...]:
    entry = catalog.entry(encoder)
    if entry.state is not EncoderState.READY or entry.folder is None or not (entry.folder / MANIFEST).exists():
        return ()
    return _read(entry.folder, encoder, (entry.folder / MANIFEST).stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read(folder: Path, encoder: str, stamp: int) -> tuple[StoredHead, ...]:
    """Read the heads in an artifact. `stamp` is the time of the manifest, which each export writes last."""
    files = json_records.read(folder / MANIFEST, _Files).files
    return tuple(_load_head(path, encoder, stamp, files) for path in sorted(folder.glob(f"{PREFIX}*.json")))


def _load_head(path: Path, encoder: str, stamp: int, files: Mapping[str, str]) -> StoredHead:
    graph = path.with_suffix(".onnx")
    try:
        head, written = _head(json_records.read(path, PretrainedHeadRecord)), files.get(path.name)
        if written and file_sha256(path) != written:
            raise DataLoss("it is not the file that was exported")
        return StoredHead(head, graph, (str(path), stamp), files[graph.name])
    except (OSError, LookupError, ValueError, DataLoss) as error:
        name = f"{encoder}/{path.stem.removeprefix(PREFIX)}"
        remedy = f"run `topwork export {encoder} --force`"
        raise damaged_head(name, path.parent, f"{path.name}: {type(error).__name__}: {error}", remedy) from error


def _head(record: PretrainedHeadRecord) -> Head:
    task = Task(record.task)
    return Head(
        name=record.name,
        definition=None,
        task=task,
        encoder=record.encoder,
        encoder_options={},
        tap=record.tap,
        pooling=Pooling(record.gaps) if record.gaps else pooling.default_pooling(task, record.tap.tap.granularity),
        dim=record.tap.tap.dim,
        names=record.names,
        created=record.created,
        server_version=record.code,
        kind="pretrained",
        chosen=record.settings,
        estimate=record.estimate,
    )
