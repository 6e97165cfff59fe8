"""The taps of video nets. Light: the catalog lists them without opening a net."""

from __future__ import annotations

from collections.abc import Mapping

from topwork_server import Granularity, Tap


def _tap(name: str, dim: int, description: str) -> Tap:
    return Tap(name, dim, Granularity.WINDOW, description=description)


def inception_taps(blocks: Mapping[str, int], dim: int, classes: int) -> tuple[Tap, ...]:
    """List the taps of Inception-v1 I3D: `blocks` are the dims of its blocks."""
    return (
        *(_tap(name, width, "mean over space and time") for name, width in blocks.items()),
        _tap("pooled", dim, "average pool of 2x7x7, then the mean over time"),
        _tap("pooled.mean_std", 2 * dim, "`pooled`, and the deviation over time of Mixed_5c's mean over space"),
        _tap("logits", classes, "class scores before softmax, mean over time"),
    )


def inflated_taps(layers: Mapping[str, int], dim: int) -> tuple[Tap, ...]:
    """List the taps of an inflated net: `layers` are the dims of its layers."""
    return (
        *(_tap(name, width, "mean over space and time") for name, width in layers.items()),
        _tap("pooled", dim, "the picture net's pooled features, mean over time"),
        _tap("pooled.mean_std", 2 * dim, "`pooled`, and its deviation over time"),
    )
