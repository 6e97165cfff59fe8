"""The taps of picture nets. Light: the catalog lists them without opening a net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from topwork_server import Granularity, Tap

#: A layer is the net's last stage at which a cell is so many pixels of the net's input apart from the next.
LAYERS = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


def image_taps(
    pooled: int, layers: Mapping[str, tuple[int, tuple[int, int]]], places: Mapping[str, str] | None = None
) -> tuple[Tap, ...]:
    """List the taps: `pooled` and, of each layer, its mean over the cells and its cells.

    `layers` gives a layer's dim and grid (rows, columns), `places` the module of the net at whose end it is read.
    """
    where = {name: (places or {}).get(name, name) for name in layers}
    return (
        Tap("pooled", pooled, Granularity.ITEM, description="the net's own pooled features, before its classifier"),
        *(
            Tap(f"{name}.pooled", dim, Granularity.ITEM, description=f"mean over the cells of {name}")
            for name, (dim, _) in layers.items()
        ),
        *(
            Tap(name, dim, Granularity.CELL, grid, f"the map after {where[name]}, one cell every {LAYERS[name]} pixels")
            for name, (dim, grid) in layers.items()
        ),
    )


def taps_at_224(pooled: int, *dims: int, places: Iterable[str] = LAYERS) -> tuple[Tap, ...]:
    """List the taps of a net that reads 224 x 224 pixels."""
    layers = {name: (dim, (224 // stride, 224 // stride)) for (name, stride), dim in zip(LAYERS.items(), dims, strict=True)}
    return image_taps(pooled, layers, dict(zip(LAYERS, places, strict=True)))
