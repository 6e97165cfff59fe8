"""Errors for sources that no plugin reads: what the source is, why each plugin declines it, and what to do instead."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from topwork._display.excerpts import excerpt, listed

from topwork_server.errors import InvalidInput
from topwork_server.names import instead, near
from topwork_server.plugin_api.sources import MOST_NAMES, SourceUri
from topwork_server.plugin_api.untrusted_files import check_files, check_links
from topwork_server.types import EncoderSpec, Refusal


def check_there(source: SourceUri) -> None:
    """Raise InvalidInput where a file: or onnx: source names nothing that this user can read."""
    if source.scheme not in ("file", "onnx"):
        return
    path = Path(source.location)
    try:
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        check_links(path)
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(f"{source} cannot be read: {reason}", remedy=_instead(path)) from None
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InvalidInput(f"{source} cannot be read by this user: Permission denied", remedy="change its permissions")
    check_files(path)


def unread(source: SourceUri, refusals: Sequence[tuple[str, Refusal]], families: Sequence[str]) -> InvalidInput:
    """The error for a source that no plugin reads. `refusals` are pairs of a plugin's name and its reason."""
    ordered = sorted(refusals, key=lambda refusal: -refusal[1].nearness)
    by_reason: dict[str, list[str]] = {}
    for plugin, refusal in ordered:
        by_reason.setdefault(refusal.reason, []).append(plugin)
    reasons = "".join(f"; {', '.join(plugins)}: {reason}" for reason, plugins in by_reason.items())
    asked = f" as {source.family}" if source.family else ""
    remedy = next((refusal.remedy for _, refusal in ordered if refusal.remedy), "")
    families_said = f"or name the family with --family ({', '.join(families)})"
    return InvalidInput(
        f"no plugin reads {source}{asked}{_what(source)}{reasons}",
        remedy=f"{remedy}; {families_said}" if remedy else f"check what it names, {families_said}",
    )


def check_target(target: str) -> None:
    """Raise InvalidInput for a path or a name of the hub that was given without its scheme."""
    looks_like_path = target.startswith((".", "~", os.sep)) or os.path.exists(os.path.expanduser(target))
    if ":" in target or not (looks_like_path or "/" in target):
        return
    if looks_like_path:
        scheme = "onnx" if target.endswith(".onnx") else "file"
        raise InvalidInput(f"{target!r} is a path, and no name of an encoder", remedy=f"write {scheme}:{target}")
    raise InvalidInput(f"{target!r} is no name of an encoder", remedy=f"write hf:{target} for a model of the hub")


def check_settings(spec: EncoderSpec, given: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a setting that no tower of the encoder has."""
    declared = [tower.encoder.settings for tower in spec.towers]
    known = list(dict.fromkeys(name for names in declared for name in names or ()))
    for name in given:
        if None not in declared and name not in known:
            reader = " and ".join(dict.fromkeys(tower.encoder.__name__ for tower in spec.towers))
            raise InvalidInput(
                f"{excerpt(name)} is no setting of what reads {spec.source} ({reader})",
                remedy=instead(name, known, "it has none: leave --set out"),
            )


def _instead(path: Path) -> str:
    parent = next((folder for folder in path.parents if os.path.isdir(folder)), Path("/"))  # Path.is_dir raises for a long name
    if parent != path.parent:
        return f"check the path: {parent} is there, and {path.relative_to(parent).parts[0]} is not in it"
    try:
        alike = near(path.name, islice((entry.name for entry in os.scandir(parent)), MOST_NAMES))
    except OSError:
        alike = []
    return f"did you mean {' or '.join(alike)}?" if alike else f"check the path: {parent} is there, and {path.name} is not in it"


def _what(source: SourceUri) -> str:
    """Describe a source on this machine: (a folder of config.json, vocab.txt)."""
    if source.scheme not in ("file", "onnx"):
        return ""
    path = Path(source.location)
    if path.is_dir():
        try:
            names = sorted(islice((entry.name for entry in os.scandir(path)), MOST_NAMES))
        except OSError:
            return ""
        return f" (a folder of {listed(names)})" if names else " (an empty folder)"
    state = path.stat()
    return f" (a file of {state.st_size:,} bytes)" if stat.S_ISREG(state.st_mode) else " (neither a file nor a folder)"
