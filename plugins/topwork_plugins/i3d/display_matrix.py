"""Orientation of a video: the display matrix of its file, as phones and editors write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from topwork_server import Array

if TYPE_CHECKING:
    from av import VideoFrame


def upright(pixels: Array, frame: VideoFrame) -> Array:
    """(H, W, 3) as it is shown: turned by quarters, mirrored, or both. Other angles count as the nearest quarter turn."""
    matrix = _matrix(frame)
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _mirrored(pixels.transpose(1, 0, 2), c, b)
    return _mirrored(pixels, a, d)


def _matrix(frame: VideoFrame) -> list[list[int]] | None:
    """[[a, b], [c, d]] of x' = a x + c y, y' = b x + d y (ISO 14496-12, 8.3.2), None where the file has none."""
    from av.sidedata.sidedata import Type

    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return None
    values = np.frombuffer(bytes(found), np.int32)[:9].reshape(3, 3)
    return [[int(value) for value in row[:2]] for row in values[:2]]


def _mirrored(pixels: Array, x: int, y: int) -> Array:
    """Left to right where `x` is negative, upside down where `y` is."""
    pixels = pixels[:, ::-1] if x < 0 else pixels
    return pixels[::-1] if y < 0 else pixels
