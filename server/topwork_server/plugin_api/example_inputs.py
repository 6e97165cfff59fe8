"""Small real inputs that ship with the server: parity is measured on them, and the contract tests use them."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from topwork_server.types import Array, AudioItem, ImageItem, Item, Modality, TextItem

FOLDER = Path(__file__).parent / "example_files"


def texts() -> list[TextItem]:
    """Sentences of 1 to about 120 words."""
    return [TextItem(line) for line in (FOLDER / "texts.txt").read_text("utf-8").splitlines() if line]


def pictures() -> list[ImageItem]:
    """Photographs as JPEG and PNG files of several sizes and shapes."""
    return [ImageItem(path.read_bytes()) for path in sorted(FOLDER.iterdir()) if path.suffix in (".jpg", ".png")]


@cache
def _photograph() -> Array:
    from PIL import Image

    with Image.open(FOLDER / "coffee.jpg") as image:
        return np.asarray(image.convert("RGB"))


def clips(frames: int = 16, size: int = 256) -> list[Array]:
    """Clips (frames, size, size, 3) uint8 of a camera that pans over and closes in on a real photograph."""
    photograph = _photograph()
    height, width = photograph.shape[:2]
    size = min(size, height)

    def window(x: int, y: int) -> Array:
        return photograph[y : y + size, x : x + size]

    right = np.stack([window((width - size) * t // frames, (height - size) // 2) for t in range(frames)])
    down = np.stack([window((width - size) // 2, (height - size) * t // frames) for t in range(frames)])
    return [right, down, right[::-1].copy()]


def recordings(rate: int = 16_000) -> list[AudioItem]:
    """WAV files of sounds as speech has them, made here: gliding tones with overtones, noise and pauses, 0.3 to 3 seconds."""
    random = np.random.default_rng(0)
    made = []
    for seconds, pitch in ((0.3, 220.0), (1.0, 130.0), (1.7, 320.0), (3.0, 90.0)):
        at = np.arange(int(seconds * rate)) / rate
        turns = np.cumsum(pitch * (1 + 0.3 * np.sin(2 * np.pi * 1.5 * at))) / rate
        voice = sum(np.sin(2 * np.pi * turns * overtone) / overtone for overtone in range(1, 8))
        syllables = np.clip(np.sin(2 * np.pi * 2 * at) + 0.5, 0, 1)
        made.append(_wav(0.3 * voice * syllables + 0.02 * random.standard_normal(len(at)), rate))
    return made


def _wav(samples: Array, rate: int) -> AudioItem:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return AudioItem(file.getvalue())


def of(modality: Modality) -> Sequence[Item]:
    """Examples of one modality; none for TENSOR, where only the encoder knows what its graph reads."""
    match modality:
        case Modality.TEXT:
            return texts()
        case Modality.IMAGE:
            return pictures()
        case Modality.VIDEO:
            return clips()
        case Modality.AUDIO:
            return recordings()
    return []
