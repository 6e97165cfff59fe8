"""Real inputs of mixed size, sentences of documentation and photographs as JPEG files; and clustered vectors."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


class Clustered:
    """Vectors (rows, 384) float32 of unit length in 1 cluster for each 100 rows, 1,000 queries out of the same clusters, and the
    positions of the 10 nearest rows of each. The same in every run."""

    def __init__(self, rows: int, dim: int = 384, queries: int = 1000) -> None:
        rng = np.random.default_rng(0)
        self.rows = rows
        centres = rng.standard_normal((max(10, rows // 100), dim), dtype=np.float32)
        self.vectors = self._around(centres, rows, rng)
        self.queries = self._around(centres, queries, rng)
        self.truth = self._nearest(10)

    def save(self, folder: Path) -> None:
        for name in ("vectors", "queries", "truth"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @staticmethod
    def _around(centres: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
        found = rng.standard_normal((count, centres.shape[1]), dtype=np.float32)
        found *= 0.7
        found += centres[rng.integers(0, len(centres), count)]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found

    def _nearest(self, k: int) -> NDArray[np.int64]:
        best = np.full((len(self.queries), k), -np.inf, np.float32)
        found = np.zeros((len(self.queries), k), np.int64)
        for start in range(0, self.rows, 50_000):
            scores = np.hstack([best, self.queries @ self.vectors[start : start + 50_000].T])
            part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            places = np.where(part < k, np.take_along_axis(found, np.minimum(part, k - 1), 1), part - k + start)
            best, found = np.take_along_axis(scores, part, 1), places
        return np.take_along_axis(found, np.argsort(-best, axis=1), 1)
