"""Does a video encoder see how things move? Six motions of 16 photographs, told apart on photographs that it has not seen.

python -m benchmarks.video_motion

Still, panned across, panned down, zoomed, turned, shaken; speed, size and place at random. Ridge regression on a tap's rows,
eight folds over the photographs; chance is 0.167. `frames apart` is the picture net alone: the mean and deviation over time
of its features of each frame. The penalty is the best of four for every column alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from topwork_server import Encoder
from topwork_server.models.artifacts import MODEL
from topwork_server.runtime.session import Session
from topwork_server.types import Array, Item

from benchmarks import models

PHOTOGRAPHS = (
    "astronaut brick camera cat coffee coins grass gravel hubble_deep_field immunohistochemistry moon retina rocket page text"
    " clock"
).split()
MOTIONS = "still across down zoomed turned shaken".split()
FRAMES, SIZE, REPEATS, FOLDS = 16, 224, 3, 8


def photograph(name: str) -> Image.Image:
    import skimage.data

    pixels = getattr(skimage.data, name)()
    image = Image.fromarray(pixels).convert("RGB")
    scale = 512 / min(image.size)
    return image.resize((int(image.width * scale), int(image.height * scale)))


def clip(image: Image.Image, motion: str, rng: np.random.Generator) -> Array:
    """Return (16, 224, 224, 3) uint8."""
    speed = rng.uniform(2, 8) * rng.choice([-1, 1])
    side, angle = rng.uniform(180, 260), rng.uniform(-8, 8)
    x, y = image.width / 2 + rng.uniform(-30, 30), image.height / 2 + rng.uniform(-20, 20)
    frames = []
    for t in range(FRAMES):
        step = speed * (t - (FRAMES - 1) / 2)
        shake = rng.normal(size=2) * abs(speed) * 1.5 if motion == "shaken" else (0.0, 0.0)
        center = (x + shake[0] + step * (motion == "across"), y + shake[1] + step * (motion == "down"))
        zoom = side * (np.exp(0.005 * step) if motion == "zoomed" else 1.0)
        frames.append(view(image, center, zoom, angle + 0.5 * step * (motion == "turned")))
    return np.stack(frames)


def view(image: Image.Image, center: tuple[float, float], side: float, degrees: float) -> Array:
    cos, sin = (f(np.deg2rad(degrees)) * side / SIZE for f in (np.cos, np.sin))
    middle = SIZE / 2
    matrix = (cos, -sin, center[0] - middle * (cos - sin), sin, cos, center[1] - middle * (sin + cos))
    return np.asarray(image.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def opened(name: str) -> tuple[Encoder, Session]:
    _, folder, encoder = models.opened(name)
    return encoder, Session(folder / MODEL)


def rows(encoder: Encoder, session: Session, item: Item, taps: Sequence[str]) -> list[Array]:
    samples = list(encoder.preprocess(item, encoder.options()))
    return session.run(taps, encoder.collate(samples))


def accuracy(features: Array, labels: Array, groups: Array) -> float:
    """Return the accuracy of ridge regression, on photographs that were not in its training set."""
    right = dict.fromkeys((10, 100, 1000, 10000), 0)
    for fold in range(FOLDS):
        test = groups % FOLDS == fold
        mean, scale = features[~test].mean(0), features[~test].std(0) + 1e-6
        train, held = (features[~test] - mean) / scale, (features[test] - mean) / scale
        targets = np.eye(len(MOTIONS))[labels[~test]] - 1 / len(MOTIONS)
        for penalty in right:
            scores = held @ train.T @ np.linalg.solve(train @ train.T + penalty * np.eye(len(train)), targets)
            right[penalty] += int((scores.argmax(1) == labels[test]).sum())
    return round(max(right.values()) / len(labels), 3)


def main() -> int:
    rng = np.random.default_rng(0)
    video, picture = opened("i3d-resnet50-thin"), opened("resnet50-thin")
    found: dict[str, list[Array]] = {}
    labels, groups, seconds = [], [], []
    for _ in range(REPEATS):
        for group, name in enumerate(PHOTOGRAPHS):
            image = photograph(name)
            for label, motion in enumerate(MOTIONS):
                frames = clip(image, motion, rng)
                began = time.perf_counter()
                mean, both = rows(*video, frames, ["pooled", "pooled.mean_std"])
                seconds.append(time.perf_counter() - began)
                apart = np.concatenate([rows(*picture, frame, ["pooled"])[0] for frame in frames])
                for column, row in {
                    "i3d-resnet50-thin pooled": mean[0],
                    "i3d-resnet50-thin pooled.mean_std": both[0],
                    "frames apart, mean": apart.mean(0),
                    "frames apart, mean and deviation": np.concatenate([apart.mean(0), apart.std(0)]),
                }.items():
                    found.setdefault(column, []).append(row)
                labels.append(label)
                groups.append(group)
    figures: dict[str, Any] = {c: accuracy(np.stack(f), np.array(labels), np.array(groups)) for c, f in found.items()}
    figures["clips"] = len(labels)
    figures["ms a clip of 16 frames, preprocessing and session"] = round(1000 * float(np.median(seconds)))
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
