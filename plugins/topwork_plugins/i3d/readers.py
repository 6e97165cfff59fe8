"""Readers of a video encoder's input: pictures, or the flow between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from topwork_server import Array, Item, VideoItem

from topwork_plugins.i3d import flow as i3d_flow
from topwork_plugins.i3d.videos import check_clip, frames_of, from_array, pixels
from topwork_plugins.i3d.windows import Frame, bounded, mapped, resample
from topwork_plugins.images.preprocess import Recipe


class Reader(Protocol):
    """Reader of an encoder's input: `frames` gives an item's, one after another, `prepare` turns one into the net's input."""

    def frames(self, item: Item, fps: float) -> Iterator[Frame]: ...

    def prepare(self, picture: Any) -> Array: ...


class RgbReader:
    """Frames as pictures, prepared as the net's pictures are."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def frames(self, item: Item, fps: float) -> Iterator[Frame]:
        return _at_rate(item, fps)

    def prepare(self, picture: Any) -> Array:
        """Return (3, height, width) float32."""
        from PIL import Image

        return self._recipe.prepare(Image.fromarray(np.ascontiguousarray(pixels(picture))))[0]


class FlowReader:
    """Flow volumes as they are, and the flow between the frames of all else."""

    def __init__(self) -> None:
        self._estimate = i3d_flow.Estimator()

    def frames(self, item: Item, fps: float) -> Iterator[Frame]:
        if isinstance(item, np.ndarray) and item.shape[-1:] == (2,):
            check_clip(item, 2, np.float32)
            return from_array(item, fps)
        return i3d_flow.pairs(mapped(_at_rate(item, fps), i3d_flow.gray))

    def prepare(self, picture: Any) -> Array:
        """Return (2, 224, 224) float32."""
        return i3d_flow.from_volume(picture) if isinstance(picture, np.ndarray) else self._estimate(picture)


def _at_rate(item: Item, fps: float) -> Iterator[Frame]:
    frames = bounded(frames_of(item, fps))
    return bounded(resample(frames, fps)) if fps and isinstance(item, VideoItem) else frames
