"""Detection on composed scenes: stamps pasted at random places and sizes, those of the test on no scene that is learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import topwork
from PIL import Image
from topwork import Client, HeadInfo
from topwork_server.models.catalog import Catalog
from topwork_server.types import Array

from benchmarks.transfer import datasets
from benchmarks.transfer.frozen_features import SPLIT, Line, line_of
from benchmarks.transfer.random_baseline import random_encoder

#: Categories with many stamps that look like things; the classes of the boxes.
CLASSES = ("animals", "food", "plants", "town", "vehicles")
#: Pixels of a scene, which the encoders do not crop: they resize 256 to 256, and cut 224 out of the middle.
SIDE, MARGIN = 256, 16
MOST_STAMPS, SMALLEST, LARGEST = 4, 48, 150
#: The most that two stamps may overlap, as intersection over union, and how often another place is tried.
MOST_OVERLAP, TRIES = 0.1, 20
LEARNED, TESTED = (60,), 60
READS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("efficientnet-lite0", ("layer3",)),
    ("efficientnet-lite0", ("layer3", "layer4")),
    ("resnet50-thin", ("layer3",)),
)
NAME = "transfer-scenes"

Stamps = Mapping[str, Sequence[Image.Image]]


def lines(client: Client, catalog: Catalog, seeds: Sequence[int], say: Callable[[str], None]) -> Iterator[Line]:
    """Measure mAP and mAP at .5 of each trunk, and of one with random weights, for each number of scenes."""
    pictures, metadata = scenes(max(LEARNED) * len(seeds), seeds)
    ids = [f"{number:05d}" for number in range(len(pictures))]
    ways = [(f"{encoder}, {' and '.join(taps)}", encoder, taps) for encoder, taps in READS]
    encoder, taps = READS[0]
    ways.append((f"{ways[0][0]}, random weights", random_encoder(catalog, encoder), taps))
    for left in client.sets():  # of a run that was ended
        if left.name == NAME:
            client.drop_set(NAME)
    for reads, encoder, taps in ways:
        say(f"scenes: writing {reads}")
        client.write(NAME, pictures, ids, list(metadata), encoder=encoder, taps=taps)
        try:
            for size in LEARNED:
                say(f"scenes: {reads}, {size} scenes")
                heads = [_train(client, taps, size, seed) for seed in seeds]
                for metric in range(2):
                    yield line_of(f"scenes, {TESTED} tested", "boxes", f"{size} scenes", reads, heads, metric)
        finally:
            client.drop_set(NAME)


def scenes(count: int, seeds: Sequence[int]) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Make scenes as PNGs, with boxes, a split, and for each seed an order of those to learn from."""
    learned, held = _split_stamps(np.random.default_rng(0))
    random, pictures, metadata = np.random.default_rng(1), [], []
    for number in range(count + TESTED):
        picture, boxes = _scene(random, learned if number < count else held)
        pictures.append(datasets.png_of(picture))
        metadata.append({"boxes": boxes, "split": "train" if number < count else "test"})
    for seed in seeds:
        for place, number in enumerate(np.random.default_rng(seed).permutation(count).tolist()):
            metadata[number][f"place_{seed}"] = place
    return pictures, metadata


def _split_stamps(random: np.random.Generator) -> tuple[Stamps, Stamps]:
    """Read the stamps of each class; a third of them is for the test."""
    learned, held = {}, {}
    for name in CLASSES:
        paths = [path for path in sorted((datasets.STAMPS / name).rglob("*.png")) if "mirror" not in path.stem]
        stamps = [_cut_out(Image.open(path).convert("RGBA")) for path in paths]
        order = random.permutation(len(stamps)).tolist()
        held[name] = [stamps[at] for at in order[: len(order) // 3]]
        learned[name] = [stamps[at] for at in order[len(order) // 3 :]]
    return learned, held


def _cut_out(stamp: Image.Image) -> Image.Image:
    return stamp.crop(stamp.getchannel("A").getbbox())


def _scene(random: np.random.Generator, stamps: Stamps) -> tuple[Image.Image, list[str]]:
    ground, boxes = _background(random), np.zeros((0, 4))
    labels: list[str] = []
    for _ in range(int(random.integers(1, MOST_STAMPS + 1))):
        label = CLASSES[int(random.integers(len(CLASSES)))]
        stamp = stamps[label][int(random.integers(len(stamps[label])))]
        scale = random.uniform(SMALLEST, LARGEST) / max(stamp.size)
        width, height = (max(8, round(side * scale)) for side in stamp.size)
        box = _free_place(random, boxes, width, height)
        if box is not None:
            small = stamp.resize((width, height))
            ground.paste(small, (int(box[0]), int(box[1])), small)
            boxes, labels = np.concatenate([boxes, box[None]]), [*labels, label]
    return ground, [topwork.box(x0, y0, x1, y1, label) for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels, strict=True)]


def _background(random: np.random.Generator) -> Image.Image:
    """A smooth mixture of colors, with noise."""
    colors = Image.fromarray(random.integers(60, 255, (3, 3, 3)).astype(np.uint8))
    smooth = np.asarray(colors.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


def _free_place(random: np.random.Generator, boxes: Array, width: int, height: int) -> Array | None:
    for _ in range(TRIES):
        x, y = (int(random.integers(MARGIN, max(MARGIN + 1, SIDE - MARGIN - side))) for side in (width, height))
        box = np.array([x, y, x + width, y + height], float)
        shared = (np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])).clip(0).prod(axis=1)
        either = width * height + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
        if not len(boxes) or float((shared / either).max()) < MOST_OVERLAP:
            return box
    return None


def _train(client: Client, taps: Sequence[str], size: int, seed: int) -> HeadInfo:
    where, several = f"{SPLIT} OR place_{seed} < {size}", len(taps) > 1
    head = client.train(
        NAME, target="boxes", task="detection", taps=taps, combine=several, seed=seed, where=where, test_where=SPLIT, replace=True
    )
    client.drop_head(head.name)
    return head
