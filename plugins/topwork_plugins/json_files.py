"""JSON files of a model's folder. Light: they are read to tell which family a folder is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput, check_file


def read_json(path: Path, remedy: str = "", *, missing_ok: bool = False) -> dict[str, Any]:
    """Read the object of a JSON file; {} where `missing_ok` and it is not there. InvalidInput as `load`, or where the file
    holds anything else."""
    if missing_ok and not path.exists():
        return {}
    found = load(path, remedy)
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no JSON object", remedy="copy the model's folder again")
    return found


def own_code(config: Mapping[str, Any]) -> str:
    """Name the code that a config.json brings to compute its model (`auto_map`); "" where it brings none."""
    named = config.get("auto_map")
    places = named.values() if isinstance(named, dict) else [named] if named else []
    return ", ".join(sorted(map(str, places))[:3])


def code_refusal(folder: str, code: str) -> InvalidInput:
    """The error for a folder whose model nothing but such code computes."""
    return InvalidInput(
        f"{folder} is computed by code of its own (auto_map in config.json: {code}), which is never run here",
        remedy="take a model whose architecture transformers has itself",
    )


def load(path: Path, remedy: str = "") -> Any:
    """Parse a JSON file. InvalidInput where it is not there, with this `remedy`, cannot be read or is too large."""
    check_file(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise InvalidInput(
            f"{path} cannot be read as JSON: it is nested too deep", remedy="copy the model's folder again"
        ) from error
    except FileNotFoundError as error:
        raise InvalidInput(f"{path.parent} has no {path.name}", remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}", remedy="copy the model's folder again") from error


def folder_in(folder: Path, path: str, told_in: str) -> Path:
    """A folder, or a file, that a file of the model's own folder names in it. InvalidInput where it leads out."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise InvalidInput(
            f"{folder.name}: {told_in} names {path!r}, which is not in its folder",
            remedy="do not trust where the folder came from",
        )
    return folder / path
