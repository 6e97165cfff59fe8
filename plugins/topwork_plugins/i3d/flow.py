"""Optical flow as the flow stream of I3D reads it (Carreira & Zisserman 2017, section 2.5 and the released preprocessing).

The paper computed it by TV-L1. Here it is DIS (Kroeger et al. 2016) of OpenCV, preset MEDIUM, which ends in a variational
refinement of its own: about 15 ms a pair of 256 x 256 pictures, the same to the bit on any number of threads. TV-L1 is only
in OpenCV's contrib builds. A caller that wants the paper's flow computes it and sends the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Array, InvalidInput

from topwork_plugins.i3d.videos import pixels
from topwork_plugins.i3d.windows import Frame

if TYPE_CHECKING:
    from PIL.Image import Image

RESIZE, CROP = 256, 224
#: Pixels a frame, at the resized size: what moves faster counts as this fast; then the range is scaled to [-1, 1].
LIMIT = 20.0

MEANING = {"flow": "OpenCV DIS, medium", "resize": RESIZE, "crop": CROP, "limit": LIMIT}


def gray(picture: Any) -> Array:
    """Return (256, 256) uint8: the middle of a frame whose shorter side was resized to 256."""
    from PIL import Image

    return np.asarray(_middle(Image.fromarray(np.ascontiguousarray(pixels(picture))).convert("L"), RESIZE))


def pairs(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Pair each frame with the next: n frames make n - 1 pairs. InvalidInput where there is one frame alone."""
    before: Frame | None = None
    found = False
    for frame in frames:
        if before is not None:
            found = True
            yield Frame(before.start, before.end, (before.picture, frame.picture))
        before = frame
    if before is not None and not found:
        raise InvalidInput("one frame has no flow", remedy="send at least two frames, or a flow volume (T, H, W, 2) float32")


class Estimator:
    """Flow of pairs of gray pictures, for one thread."""

    def __init__(self) -> None:
        import cv2

        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, pair: tuple[Array, Array]) -> Array:
        """Two (256, 256) uint8 to (2, 224, 224) float32 in [-1, 1]: x (to the right), then y (down)."""
        flow: Array = self._dis.calc(*pair, None)
        edge = (RESIZE - CROP) // 2
        return _scaled(flow[edge : edge + CROP, edge : edge + CROP].transpose(2, 0, 1))


def from_volume(flow: Array) -> Array:
    """Convert (H, W, 2) float32 in pixels a frame to (2, 224, 224) float32 in [-1, 1], resized as pictures are.

    A motion is as many pixels more or fewer as the picture is resized. InvalidInput where a value is not finite.
    """
    from PIL import Image

    if not np.isfinite(flow).all():
        raise InvalidInput("the flow has values that are not finite", remedy="replace NaN and infinity before sending")
    planes = [np.asarray(_middle(Image.fromarray(np.ascontiguousarray(flow[:, :, i])), CROP)) for i in range(2)]
    return _scaled(np.stack(planes) * (RESIZE / min(flow.shape[:2])))


def _middle(image: Image, size: int) -> Image:
    """The middle `size` x `size` of the picture after its shorter side is resized to 256; computes no more than that."""
    from PIL import Image

    side = min(image.size) * size / RESIZE
    x, y = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))


def _scaled(flow: Array) -> Array:
    return np.clip(flow, -LIMIT, LIMIT).astype(np.float32) / np.float32(LIMIT)
