"""Real inputs of mixed size: sentences of documentation, and photographs as JPEG files."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from functools import cache

PACKAGES = (
    "numpy",
    "scipy.ndimage",
    "scipy.signal",
    "scipy.stats",
    "scipy.linalg",
    "scipy.optimize",
    "skimage",
    "rich",
    "asyncio",
    "email",
    "http",
    "json",
    "logging",
    "unittest",
    "xml",
)
PICTURES = "astronaut coffee chelsea rocket camera coins moon page retina hubble_deep_field motorcycle".split()


@cache
def sentences(count: int = 2000) -> list[str]:
    """First paragraphs of docstrings, in a fixed order that mixes short with long."""
    found: dict[str, None] = {}
    for package in PACKAGES:
        for module in [package, *_submodules(package)]:
            for said in _docstrings(module):
                found.setdefault(said)
    ordered = sorted(found, key=lambda text: hash_of(text))
    return ordered[:count]


def hash_of(text: str) -> int:
    """The same order on every run, unlike hash()."""
    import zlib

    return zlib.crc32(text.encode())


def _submodules(package: str) -> list[str]:
    path = getattr(importlib.import_module(package), "__path__", [])
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if not m.name.startswith(("_", "test", "conftest"))]


def _docstrings(module: str) -> list[str]:
    try:
        things = vars(importlib.import_module(module))
    except ImportError:
        return []
    found = []
    for name, thing in sorted(things.items()):
        said = (inspect.getdoc(thing) or "") if callable(thing) and not name.startswith("_") else ""
        paragraph = " ".join(said.partition("\n\n")[0].split())
        found += [paragraph] if 10 < len(paragraph) < 1500 else []
    return found


@cache
def jpegs() -> list[bytes]:
    """Photographs of scikit-image as JPEG, quality 90, 200 to 1,400 pixels wide."""
    import skimage.data
    from PIL import Image

    found = []
    for name in PICTURES:
        loaded = getattr(skimage.data, name, None)
        for picture in [loaded()] if loaded and name != "motorcycle" else []:
            file = io.BytesIO()
            Image.fromarray(picture).convert("RGB").save(file, "JPEG", quality=90)
            found.append(file.getvalue())
    return found
