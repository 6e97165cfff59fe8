"""Real inputs of mixed size, sentences of documentation and photographs as JPEG files; and clustered vectors."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import zlib
from collections.abc import Iterator
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
#: Those whose texts are told apart, by `labeled_sentences`.
CLASSES = ("numpy", "asyncio", "email", "http", "logging", "unittest", "xml", "skimage", "rich", "json")
PICTURES = "astronaut coffee chelsea rocket camera coins moon page retina hubble_deep_field motorcycle".split()


@cache
def sentences(count: int = 2000) -> list[str]:
    """First paragraphs of docstrings, in a fixed order that mixes short with long."""
    found = dict.fromkeys(text for package in PACKAGES for text in docstrings(package))
    return sorted(found, key=hash_of)[:count]


def labeled_sentences(count: int = 500) -> list[tuple[str, str]]:
    """Collect (text, package): first paragraphs of docstrings, as evenly of the packages as they have them."""
    pairs = []
    for package in CLASSES:
        texts = list(dict.fromkeys(docstrings(package, owner=package)))[: count // 5]
        pairs += [(text, package) for text in texts if len(texts) >= 5]
    return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:count]]


def hash_of(text: str) -> int:
    """The same order on every run, unlike hash()."""
    return zlib.crc32(text.encode())


def docstrings(package: str, owner: str = "") -> Iterator[str]:
    """Collect the docstrings of a package's and its modules' public members; only of those that were defined in `owner`."""
    path = getattr(importlib.import_module(package), "__path__", [])
    modules = [m.name for m in pkgutil.iter_modules(path) if not m.name.startswith(("_", "test", "conftest"))]
    for module in (package, *(f"{package}.{name}" for name in modules)):
        yield from _docstrings(module, owner)


def _docstrings(module: str, owner: str) -> Iterator[str]:
    try:
        members = vars(importlib.import_module(module))
    except ImportError:
        return
    for name, member in sorted(members.items()):
        if callable(member) and not name.startswith("_") and str(getattr(member, "__module__", "")).startswith(owner):
            paragraph = " ".join((inspect.getdoc(member) or "").partition("\n\n")[0].split())
            if 10 < len(paragraph) < 1500:
                yield paragraph


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
        centers = rng.standard_normal((max(10, rows // 100), dim), dtype=np.float32)
        self.vectors = self._around(centers, rows, rng)
        self.queries = self._around(centers, queries, rng)
        self.truth = self._nearest(10)

    def save(self, folder: Path) -> None:
        for name in ("vectors", "queries", "truth"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @staticmethod
    def _around(centers: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
        found = rng.standard_normal((count, centers.shape[1]), dtype=np.float32)
        found *= 0.7
        found += centers[rng.integers(0, len(centers), count)]
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
