"""Owns $TOPWORK_HOME/encoders: one JSON record for each encoder that was pulled by URI, or fine-tuned, aligned, quantized or
pretrained here.

A record that is damaged costs its own encoder: it is named in the log and by `topwork doctor`, using it is DataLoss, and
`topwork forget` deletes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topwork_server import atomic_store, json_records
from topwork_server.errors import DataLoss
from topwork_server.models import artifacts

#: What ends the name of the file that was made for an encoder here, beside its record.
INT8_SUFFIX, MAP_SUFFIX, WEIGHTS_SUFFIX = ".int8.onnx", ".map.onnx", ".safetensors"


@dataclass(frozen=True)
class _Pulled:
    source: str
    family: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class _Adapter:
    config: Mapping[str, Any]
    trunk: str


@dataclass(frozen=True)
class _Tuned:
    base: str
    sha256: str
    default_tap: str
    trained_on: str
    adapter: _Adapter | None = None


@dataclass(frozen=True)
class _Quantized:
    int8_of: str
    sha256: str
    parity: Mapping[str, Mapping[str, float]]
    made: str


@dataclass(frozen=True)
class _Aligned:
    base: str
    texts: str
    sha256: str
    taps: tuple[str, ...]
    trained_on: str


@dataclass(frozen=True)
class PretrainedEncoder:
    """The record of an encoder that was learned from texts here: by which kind of pretraining with what options, and the plugin
    and settings that its folder is read with. `made_from` is the encoder that was trained further, if any."""

    pretrained: str
    family: str
    settings: Mapping[str, Any]
    made_from: str
    trained_on: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class EncoderRecordsFound:
    """Records by the name of their encoder, and why others cannot be used, by the name of their file."""

    intact: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    damaged: Mapping[str, DataLoss] = field(default_factory=dict)


class EncoderRecords:
    """The records of added encoders on disk. Nothing is kept in memory: what `topwork pull` does beside a running server is
    seen at once. `proposed` are read in place of those on disk; `keep` writes them there."""

    def __init__(self, folder: Path, proposed: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.folder, self.proposed = folder, dict(proposed or {})

    def path(self, name: str) -> Path:
        return self.folder / f"{artifacts.slug(name)}.json"

    def folder_of(self, name: str) -> Path:
        """The folder of an encoder that was pretrained here."""
        return self.path(name).with_suffix("").absolute()

    def read(self) -> EncoderRecordsFound:
        """Read all records; a damaged one hides no other."""
        whole: dict[str, Mapping[str, Any]] = {}
        damaged: dict[str, DataLoss] = {}
        for path in sorted(self.folder.glob("*.json")):
            try:
                record = _read(path)
                whole[record["name"]] = record
            except FileNotFoundError:  # forgotten meanwhile
                continue
            except DataLoss as error:
                json_records.warn_once(error.message)
                damaged[path.stem] = error
        for name, proposed in self.proposed.items():
            whole[name] = {"name": name, **proposed}
            damaged.pop(artifacts.slug(name), None)
        for name in [name for name in whole if _loops(name, whole)]:
            path = self.path(name)
            damaged[path.stem] = DataLoss(f"{path} is damaged: {name} is made of itself", remedy=_remedy(path))
            del whole[name]
        return EncoderRecordsFound(whole, damaged)

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record atomically; it is on disk when this returns."""
        atomic_store.make_folder(self.folder)
        json_records.write(self.path(name), {"name": name, **record}, indent=1)

    def keep(self) -> None:
        """Write what is proposed."""
        for name, record in self.proposed.items():
            self.write(name, record)

    def remove(self, name: str) -> None:
        """Delete a record, and what a killed process has written of one; no error where there is none."""
        path = self.path(name)
        atomic_store.delete(path)
        atomic_store.sweep(self.folder, f".{path.name}.")


def _read(path: Path) -> dict[str, Any]:
    remedy = _remedy(path)
    record = json_records.read(path, dict[str, Any], remedy)
    try:
        json_records.convert(record, _kind(record))
        if not isinstance(record.get("name"), str) or artifacts.slug(record["name"]) != path.stem:
            raise ValueError("its `name` is not that of the file")
    except ValueError as error:
        raise DataLoss(f"{path} is damaged: {error}", remedy=remedy) from error
    return record


def _kind(record: Mapping[str, Any]) -> type[Any]:
    """Choose the dataclass of a record by the field that no other kind has."""
    kinds = {"int8_of": _Quantized, "texts": _Aligned, "base": _Tuned, "pretrained": PretrainedEncoder}
    return next((kind for field, kind in kinds.items() if field in record), _Pulled)


def _remedy(path: Path) -> str:
    return f"put the file back from a copy, or run `topwork forget {path.stem}` and pull it again"


def made_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The encoders that another was made of: one, or of two towers both."""
    return tuple(record[field] for field in ("base", "int8_of", "texts") if field in record)


def _loops(name: str, records: Mapping[str, Mapping[str, Any]], above: tuple[str, ...] = ()) -> bool:
    """Tell whether what an encoder was made of leads back to one that was passed."""
    parents = made_of(records.get(name, {}))
    return name in above or any(_loops(parent, records, (*above, name)) for parent in parents)
