"""Real data, each with what a plain baseline reads of it. Debian's packages bring most: tuxpaint-stamps-default,
dataset-fashion-mnist, wordnet-base; the movie reviews are in the source package of vaderSentiment (Hutto and Gilbert 2014).
"""

from __future__ import annotations

import gzip
import io
import itertools
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from topwork_server.types import Array

from benchmarks import video_motion

STAMPS = Path("/usr/share/tuxpaint/stamps")
FASHION = Path("/usr/share/datasets/fashion-mnist")
WORDNET = Path("/usr/share/wordnet")
#: A category with fewer stamps is left out: naturalforces has three.
FEWEST_STAMPS = 5
FASHION_TRAIN, FASHION_TEST = 1000, 200  # a class
TERMS = 2000
SUPERSENSES = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object person"
    " phenomenon plant possession process quantity relation shape state substance time"
).split()
FEWEST_WORDS, MOST_WORDS = 60, 600  # of a supersense


@dataclass(frozen=True)
class Dataset:
    """Items with labels. `plain` (n, dim) float32 is what the baseline reads; `metadata` has an entry an item."""

    name: str
    encoder: str
    items: Sequence[Any]
    metadata: Sequence[dict[str, Any]]
    plain: Array
    plain_name: str
    targets: tuple[str, ...] = ("label",)
    group: str = ""
    taps: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()  # labels a class; metadata then has "split" and "place_SEED"
    random: Array | None = None  # random rows, where the encoder is no network


def stamps() -> Dataset:
    """Cartoons and photographs of things, 16 categories by folder; a mirrored one is in the fold of its original."""
    paths = [path for path in sorted(STAMPS.rglob("*.png")) if _category(path) != "naturalforces"]
    pictures = [on_white(path) for path in paths]
    metadata = [{"label": _category(path), "group": _original(path)} for path in paths]
    plain = np.stack([_pixels(picture.resize((32, 32))) for picture in pictures])
    return Dataset("stamps", "efficientnet-lite0", [png_of(p) for p in pictures], metadata, plain, "32x32 pixels", group="group")


def _category(path: Path) -> str:
    return path.relative_to(STAMPS).parts[0]


def _original(path: Path) -> str:
    return re.sub(r"_(mirror|flip|mirror_flip)$", "", str(path.relative_to(STAMPS).with_suffix("")))


def on_white(path: Path) -> Image.Image:
    picture = Image.open(path).convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def png_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _pixels(picture: Image.Image) -> Array:
    return np.asarray(picture, np.float32).ravel() / 255


def fashion(seeds: Sequence[int]) -> Dataset:
    """Clothes in 28x28 gray (Xiao et al. 2017): 1,000 a class to learn from, 200 a class to test on."""
    train = _some(*_read_fashion("train"), FASHION_TRAIN)
    test = _some(*_read_fashion("t10k"), FASHION_TEST)
    pictures, labels = (np.concatenate(parts) for parts in zip(train, test, strict=True))
    split = ["train"] * len(train[0]) + ["test"] * len(test[0])
    places = {f"place_{seed}": _places(labels, len(train[0]), seed) for seed in seeds}
    metadata = [
        {"label": f"class {labels[i]}", "split": split[i], **{name: int(column[i]) for name, column in places.items()}}
        for i in range(len(labels))
    ]
    items = [png_of(Image.fromarray(picture)) for picture in pictures]
    plain = pictures.reshape(len(pictures), -1).astype(np.float32) / 255
    return Dataset("fashion-mnist", "efficientnet-lite0", items, metadata, plain, "28x28 pixels", sizes=(10, 100, 1000))


def _read_fashion(part: str) -> tuple[Array, Array]:
    with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
        return pictures, np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)


def _some(pictures: Array, labels: Array, a_class: int) -> tuple[Array, Array]:
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:a_class] for label in range(10)]))
    return pictures[chosen], labels[chosen]


def _places(labels: Array, count: int, seed: int) -> Array:
    """The place of each of the first `count` items among those of its class, in an order of the seed's; the rest have 10^9."""
    rng, places = np.random.default_rng(seed), np.full(len(labels), 10**9, np.int64)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[:count] == label)
        places[mine] = rng.permutation(len(mine))
    return places


def reviews(folder: Path) -> Dataset:
    """10,605 sentences of film reviews, rated -4 to 4 by people: the rating; and its side, where it is 0.5 or more from 0."""
    ratings, texts = zip(*_read_ratings(folder, "movieReviewSnippets"), strict=True)
    metadata = [{"rating": rating, "side": _side(rating)} for rating in ratings]
    plain = tf_idf([_words(text) for text in texts])
    return Dataset("reviews", "all-minilm-l6-v2", texts, metadata, plain, "TF-IDF of words and pairs", targets=("rating", "side"))


def sides(folder: Path, file: str, most: int) -> tuple[list[str], list[str]]:
    """Draw up to `most` texts of one of the files of vaderSentiment, rated 0.5 or more from 0, with their sides: good or bad."""
    rated = [(text, side) for rating, text in _read_ratings(folder, file) if (side := _side(rating))]
    chosen = np.random.default_rng(0).permutation(len(rated))[:most]
    return [rated[i][0] for i in chosen], [rated[i][1] for i in chosen]


def _side(rating: float) -> str | None:
    return None if abs(rating) < 0.5 else "good" if rating > 0 else "bad"


def _read_ratings(folder: Path, file: str) -> list[tuple[float, str]]:
    archive = folder / "vaderSentiment-3.3.2.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
        subprocess.run([*command, "vaderSentiment==3.3.2"], check=True)
    inner = _member(archive.read_bytes(), "hutto_ICWSM_2014.tar.gz")
    lines = _member(inner, f"{file}_GroundTruth.txt").decode("utf-8", "replace").splitlines()
    return [(float(rating), text.strip()) for _, rating, text in (line.split("\t", 2) for line in lines) if text.strip()]


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = next(member for member in tar.getmembers() if member.name.endswith(f"/{name}"))
        file = tar.extractfile(member)
        assert file is not None, "it is a file"
        return file.read()


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z']+", text.lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def tf_idf(documents: Sequence[Sequence[str]], most: int = TERMS) -> Array:
    """Compute (n, terms) float32: log(1 + tf) idf, rows of unit length, of the terms in most documents. Labels play no part in
    it."""
    found = Counter(term for document in documents for term in set(document))
    terms = {term: i for i, (term, _) in enumerate(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:most])}
    rows = np.zeros((len(documents), len(terms)), np.float32)
    for i, document in enumerate(documents):
        for term, count in Counter(document).items():
            if term in terms:
                rows[i, terms[term]] = np.log1p(count) * np.log(len(documents) / found[term])
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit


def supersenses() -> Dataset:
    """Nouns of WordNet (Fellbaum 1998) and the lexicographer's file of their first sense, of 26 (Ciaramita and Johnson 2003)."""
    words = [(word, sense) for word, sense in _nouns() if sense != "Tops"]
    counts = Counter(sense for _, sense in words)
    rng = np.random.default_rng(0)
    kept = []
    for sense in sorted(sense for sense, count in counts.items() if count >= FEWEST_WORDS):
        mine = [word for word, of in words if of == sense]
        kept += [(mine[i], sense) for i in np.sort(rng.permutation(len(mine))[:MOST_WORDS])]
    metadata = [{"label": sense} for _, sense in kept]
    plain = tf_idf([_letters(word) for word, _ in kept])
    random = np.random.default_rng(1).normal(size=(len(kept), 50)).astype(np.float32)
    names = [word for word, _ in kept]
    return Dataset("supersenses", "glove-6b-50d", names, metadata, plain, "TF-IDF of letters, 1 to 4", random=random)


def _nouns() -> Iterable[tuple[str, str]]:
    """Words of one part that GloVe is likely to know: those with a sense that was tagged in a corpus."""
    senses = {
        line[:8]: SUPERSENSES[int(line[9:11]) - 3]
        for line in (WORDNET / "data.noun").read_text("utf-8").splitlines()
        if not line.startswith("  ")
    }
    for line in (WORDNET / "index.noun").read_text("utf-8").splitlines():
        parts = line.split()
        tagged = not line.startswith("  ") and int(parts[5 + int(parts[3])]) > 0
        if tagged and re.fullmatch(r"[a-z]+", parts[0]):
            yield parts[0], senses[parts[6 + int(parts[3])]]


def _letters(word: str) -> list[str]:
    padded = f"<{word}>"
    return [padded[i : i + n] for n in range(1, 5) for i in range(len(padded) - n + 1)]


def motions() -> Dataset:
    """Six motions of 16 photographs, in clips of 16 frames (benchmarks/video_motion.py makes them); folds are of photographs."""
    rng, clips, metadata = np.random.default_rng(0), [], []
    for _ in range(video_motion.REPEATS):
        for name in video_motion.PHOTOGRAPHS:
            for motion in video_motion.MOTIONS:
                clips.append(video_motion.clip(video_motion.photograph(name), motion, rng))
                metadata.append({"label": motion, "photograph": name})
    plain = np.stack([_small(clip) for clip in clips])
    taps = ("pooled.mean_std",)
    return Dataset("motions", "i3d-resnet50-thin", clips, metadata, plain, "16x14x14 gray", group="photograph", taps=taps)


def _small(clip: Array) -> Array:
    gray = clip.mean(3).reshape(len(clip), 14, 16, 14, 16).mean((2, 4))
    return np.asarray(gray / 255, np.float32).ravel()


def all_of(folder: Path, seeds: Sequence[int]) -> dict[str, Callable[[], Dataset]]:
    """Return the datasets by name; each is read when it is called. `folder` keeps what is downloaded."""
    return {
        "stamps": stamps,
        "fashion-mnist": lambda: fashion(seeds),
        "reviews": lambda: reviews(folder),
        "supersenses": supersenses,
        "motions": motions,
    }
