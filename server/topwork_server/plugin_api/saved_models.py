"""Owns $TOPWORK_HOME/tfhub: archives of TensorFlow's SavedModels, unpacked, a folder each, complete or not at all.

    tfhub/NAME-KEY/NAME/          saved_model.pb, variables/, assets/
                   archive.json   where the archive came from, its bytes, its SHA-256 and those of its files

Archives are downloaded by their names (`tfhub:`), or lie on this machine (`file:/PATH.tar.gz`). A name is that of tfhub.dev
(google/imagenet/mobilenet_v2_100_224/feature_vector/5) or of Kaggle (google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2).
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from topwork_server.atomic_store import build_once, disk_errors, file_sha256
from topwork_server.errors import InvalidInput, NotReady
from topwork_server.plugin_api import archive_record
from topwork_server.plugin_api.archive_record import ArchiveRecord
from topwork_server.plugin_api.untrusted_files import Unpacking

#: Where the archives of names come from. $TOPWORK_TFHUB names a mirror of both.
TFHUB, KAGGLE = "https://tfhub.dev", "https://www.kaggle.com/api/v1/models"
MIRROR = "TOPWORK_TFHUB"
SUFFIXES = (".tar.gz", ".tgz")
#: Seconds that the connection, and each block of an archive, may take.
PATIENCE = 30
BLOCK = 1 << 20


def name_of(written: str) -> str:
    """The name of a model, which may be written as the address of its page. InvalidInput where it is none."""
    name = re.sub(r"^https?://(tfhub\.dev|(www\.)?kaggle\.com/models)/", "", written).partition("?")[0].strip("/")
    name = re.sub(r"/(frameworks|variations|versions)/", "/", name)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)+", name):
        raise InvalidInput(
            f"tfhub:{written} names no model",
            remedy="write it as tfhub.dev or Kaggle does: tfhub:google/imagenet/mobilenet_v2_100_224/feature_vector/5",
        )
    return name


def short_name(name: str) -> str:
    """Name an encoder of that model, unless its user does: the last part that is not the same for many models."""
    parts = [part for part in name.split("/") if not part.isdigit()]
    if re.fullmatch("tensorflow[12]", parts[-2], re.IGNORECASE):
        return f"{parts[-3]}-{parts[-1]}"
    return parts[-2] if parts[-1] in ("feature_vector", "classification") else parts[-1]


def address(name: str) -> str:
    """The address of the archive of a model."""
    base = os.environ.get(MIRROR, "").rstrip("/")
    match name.split("/"):
        case [_, _, framework, _, version] if framework.lower() in ("tensorflow1", "tensorflow2") and version.isdigit():
            return f"{base or KAGGLE}/{name}/download"
    return f"{base or TFHUB}/{name}?tf-hub-format=compressed"


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that is read here."""
    return path.name.endswith(SUFFIXES)


def downloaded(name: str, home: Path) -> Path | None:
    """The folder of a model that was downloaded, or None."""
    folder = _folder(home, name, short_name(name))
    return folder / short_name(name) if archive_record.read(folder) else None


def download(name: str, home: Path, sha256: str | None, progress: Callable[[int, int], None]) -> None:
    """Download the archive of a model and unpack it. NotReady where it is not to be had, InvalidInput where it is damaged."""

    def build(scratch: Path) -> None:
        archive, digest = scratch / ".archive", hashlib.sha256()
        with archive.open("wb") as file:
            for block in _blocks(name, progress):
                digest.update(block)
                file.write(block)
        if sha256 and digest.hexdigest() != sha256:
            raise NotReady(f"tfhub:{name} has SHA-256 {digest.hexdigest()}, not {sha256}", remedy="try another mirror")
        record = ArchiveRecord(address(name), archive.stat().st_size, digest.hexdigest())
        _unpack(archive, scratch, short_name(name), f"the archive of tfhub:{name}")
        archive.unlink()
        record.write(scratch)

    folder = _folder(home, name, short_name(name))
    with disk_errors(f"tfhub:{name}", "pull it again"):
        build_once(folder, lambda: archive_record.read(folder) is not None, build)


def unpacked(archive: Path, home: Path) -> Path | None:
    """The folder of an archive on this machine, unpacked where that was not yet done, or the archive has changed since. None
    where there is neither. InvalidInput where the archive is damaged."""
    name = archive.name.removesuffix(".tgz").removesuffix(".tar.gz")
    folder = _folder(home, str(archive), name)
    if not archive.is_file():
        return folder / name if archive_record.read(folder) else None
    state = archive.stat()
    stamp = (state.st_size, state.st_mtime_ns)

    def is_unpacked() -> bool:
        record = archive_record.read(folder)
        return record is not None and record.stamp == stamp

    def build(scratch: Path) -> None:
        record = ArchiveRecord(str(archive), state.st_size, file_sha256(archive), stamp)
        _unpack(archive, scratch, name, archive.name)
        record.write(scratch)

    if not is_unpacked():
        with disk_errors(f"the content of {archive.name}", "try again"):
            build_once(folder, is_unpacked, build)
    return folder / name


def _folder(home: Path, key: str, name: str) -> Path:
    return home / "tfhub" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _blocks(name: str, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    """The content of a model's archive. NotReady where it does not come, or not whole."""
    url, done = address(name), 0
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "topwork"}), timeout=PATIENCE) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read(BLOCK):
                done += len(block)
                progress(done, total)
                yield block
    except urllib.error.HTTPError as error:
        raise _not_to_be_had(name, url, f"it answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, ValueError) as error:
        raise _not_to_be_had(name, url, f"{getattr(error, 'reason', '') or error or type(error).__name__}") from error
    if done < total:
        raise _not_to_be_had(name, url, f"it ended after {done:,} of {total:,} bytes")


def _not_to_be_had(name: str, url: str, why: str) -> NotReady:
    return NotReady(
        f"tfhub:{name} could not be downloaded from {url}: {why}",
        remedy="check the name and the network; or download it elsewhere (Kaggle may ask for consent first), and pull"
        " file:/THE/ARCHIVE.tar.gz",
    )


def _unpack(archive: Path, folder: Path, name: str, what: str) -> None:
    """Write the model of an archive, as `name`, into a folder. InvalidInput where it is not whole, has a
    path that leads out of it, or is of something else."""
    everything, unpacking = folder / ".everything", Unpacking(what, archive.stat().st_size)
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                unpacking.check(entry.name, entry.size, plain=entry.isreg() or entry.isdir())
            tar.extractall(everything, filter="data")  # which has its own checks of the same
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput(f"{what} is no .tar.gz, or damaged: {error}", remedy="copy it or download it again") from error
    found = next((place for place in (everything, *sorted(everything.glob("*"))) if (place / "saved_model.pb").is_file()), None)
    if found is None:
        raise InvalidInput(f"{what} holds no saved_model.pb", remedy="name an archive of TensorFlow's SavedModel")
    found.rename(folder / name)
    shutil.rmtree(everything, ignore_errors=True)  # the model may have been all of it
