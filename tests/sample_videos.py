"""Small videos, made for the tests that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

#: Codec by the suffix of a container.
CODECS = {
    **dict.fromkeys(("mp4", "mkv", "ts", "mov", "flv"), "libx264"),
    **{"webm": "libvpx-vp9", "avi": "mpeg4", "gif": "gif"},
}
#: Of x264: three frames between two that they are made from, stored after both (B-frames).
OUT_OF_ORDER = {"bf": "3", "b_strategy": "0", "sc_threshold": "0"}
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}
STEP = 5


def shades(count: int, height: int = 48, width: int = 64) -> list[Any]:
    """Frames (height, width, 3) uint8 that tell their number: frame t is evenly gray, 20 + 5 t."""
    return [np.full((height, width, 3), 20 + STEP * t, np.uint8) for t in range(count)]


def numbers(frames: Iterable[Any]) -> list[int]:
    """Which frames of `shades` these are, after a lossy codec."""
    return [round((float(np.mean(frame)) - 20) / STEP) for frame in frames]


def write(
    path: Path,
    frames: Iterable[Any],
    rate: int | Fraction = 25,
    codec: str | None = None,
    ticks: Sequence[int] | None = None,
    coding: Mapping[str, str] | None = None,
    **options: str,
) -> Path:
    """A video file. `ticks` are the frames' times in 1 / 1000 s, instead of one every 1 / rate s; `coding` is the codec's."""
    with av.open(str(path), "w", options=options) as container:
        stream: Any = None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec or CODECS[path.suffix[1:]], rate=rate, options=dict(coding or {}))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = PIXELS.get(stream.codec_context.name, "yuv420p")
                stream.bit_rate = 4_000_000
                if ticks:
                    stream.codec_context.time_base = Fraction(1, 1000)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if ticks:
                picture.pts, picture.time_base = ticks[index], Fraction(1, 1000)
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """A second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        for start in range(0, 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def turned(mp4: bytes) -> bytes:
    """The same file with a display matrix as phones write it for upright video: show it a quarter turn clockwise."""
    return displayed(mp4, ((0, 1), (-1, 0)))


def displayed(mp4: bytes, matrix: tuple[tuple[int, int], tuple[int, int]]) -> bytes:
    """The same file with the display matrix ((a, b), (c, d)): a pixel (x, y) is shown at (a x + c y, b x + d y)."""
    place = mp4.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2, version 0: the matrix
    (a, b), (c, d) = matrix
    values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    return mp4[:place] + b"".join(value.to_bytes(4, "big", signed=True) for value in values) + mp4[place + 36 :]
