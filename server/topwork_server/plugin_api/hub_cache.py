"""Model repositories in the hub's own cache: found, downloaded where that is allowed, and checked by the names of their blobs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from topwork_server.atomic_store import file_sha256
from topwork_server.errors import NotReady

#: Names of the files of a repository that are downloaded.
FILES = ["*.json", "*.txt", "*.model", "*/config.json", "*.safetensors"]
#: The lengths of the names of blobs, which are hexadecimal digests.
SHA256, GIT = 64, 40


def snapshot(repository: str, revision: str, uri: str, *, offline: bool) -> Path | None:
    """Find the folder of a repository with its weights, with the hub's own progress bar where it downloads. `offline` downloads
    nothing. None where there is none, or it is not whole; NotReady where the hub does not answer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def ask(patterns: list[str]) -> Path:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns, local_files_only=offline))

    try:
        folder = ask(FILES)
        if not _holds(folder, "*.safetensors") and not offline:
            folder = ask([*FILES, "*pytorch_model*.bin"])  # read with weights_only=True
    except LocalEntryNotFoundError as error:
        if offline:
            return None
        raise _unreachable(repository, uri, error) from error
    except Exception as error:
        raise _unreachable(repository, uri, error) from error
    return folder if _has_weights(folder) else None


def check(snapshot: Path, uri: str) -> None:
    """Raise NotReady where a file of a snapshot is not the one that the hub published.

    A snapshot links to blobs, each named by its SHA-256, or a small one by git's digest; the hub's library compares the size of a
    download alone. On a disk without links, a snapshot holds plain files, and nothing is checked."""
    for path in sorted(snapshot.rglob("*")):
        if not path.is_symlink():
            continue
        blob = path.parent / os.readlink(path)
        if blob.parent.name == "blobs" and blob.is_file() and _digest(blob) != blob.name:
            raise NotReady(
                f"{path} is not the file that the hub published: its digest is not {blob.name}",
                remedy=f"delete the file {os.path.realpath(blob)}, and run `topwork pull {uri}` again",
            )


def _digest(blob: Path) -> str:
    """The digest that a blob has to be named by; its name where that is none."""
    if len(blob.name) == SHA256:
        return file_sha256(blob)
    if len(blob.name) == GIT:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
        digest.update(blob.read_bytes())
        return digest.hexdigest()
    return blob.name


def _has_weights(folder: Path) -> bool:
    """True if a folder has weights, and of weights in several files all of them: a download may have been cut short."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            parts = set(json.loads((folder / f"{name}.index.json").read_text("utf-8"))["weight_map"].values())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return False  # cut short itself
        return all((folder / part).exists() for part in parts)
    return _holds(folder, "*.safetensors") or _holds(folder, "*pytorch_model.bin")


def _holds(folder: Path, pattern: str) -> bool:
    """True if there are such files in a folder, or in that of a sentence-transformers model's first module (0_CLIPModel)."""
    return any(True for place in (folder, *folder.glob("0_*")) for _ in place.glob(pattern))


def _unreachable(repository: str, uri: str, error: Exception) -> NotReady:
    return NotReady(
        f"{repository} could not be had from the model hub: {type(error).__name__}: {str(error).splitlines()[0]}",
        remedy=f"where the hub can be reached run `topwork pull {uri}`, copy its folder here, and pull file:/THAT/FOLDER",
    )
