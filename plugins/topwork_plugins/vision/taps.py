"""The taps of picture nets. Light: the catalog lists them without opening a net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from topwork_server import Granularity, Tap

#: A layer is the net's last stage at which a cell is so many pixels of the net's input apart from the next.
LAYERS = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
PATCHES = "patches"
ROWS = {
    "pooled": "the net's own pooled features, before its classifier",
    "cls": "the class token after the last block, as the net gives it",
}


def map_names(strides: Sequence[int]) -> dict[str, int]:
    """Name the maps of a net whose stages or blocks have these strides in pixels; each name with the stage's place in the list.

    layer1 to layer4 where the net has all four strides of LAYERS; block.1, block.2 ... where all are the same, as in a ViT;
    stage.1, stage.2 ... of any other.
    """
    last = {stride: place for place, stride in enumerate(strides)}
    if all(stride in last for stride in LAYERS.values()):
        return {name: last[stride] for name, stride in LAYERS.items()}
    word = "block" if len(last) == 1 else "stage"
    return {f"{word}.{place + 1}": place for place in range(len(strides))}


def image_taps(
    rows: Mapping[str, int],
    maps: Mapping[str, tuple[int, tuple[int, int]]],
    height: int,
    places: Mapping[str, str] | None = None,
) -> tuple[Tap, ...]:
    """List the taps: rows of the whole picture and, of each map, its mean over the cells and its cells.

    `rows` gives their dims, `maps` a map's dim and grid (rows, columns), `height` that of the net's input in pixels, `places`
    the module of the net at whose end a map is read.
    """
    where = {name: (places or {}).get(name, name) for name in maps}
    every = {name: round(height / grid[0]) for name, (_, grid) in maps.items()}
    return (
        *(Tap(name, dim, Granularity.ITEM, description=ROWS[name]) for name, dim in rows.items()),
        *(
            Tap(f"{name}.pooled", dim, Granularity.ITEM, description=f"mean over the cells of {name}")
            for name, (dim, _) in maps.items()
        ),
        *(
            Tap(name, dim, Granularity.CELL, grid, f"the map after {where[name]}, one cell every {every[name]} pixels")
            for name, (dim, grid) in maps.items()
        ),
    )


def taps_at_224(pooled: int, *dims: int, places: Iterable[str] = LAYERS) -> tuple[Tap, ...]:
    """List the taps of a net with layer1 to layer4 that reads 224 x 224 pixels."""
    maps = {name: (dim, (224 // stride, 224 // stride)) for (name, stride), dim in zip(LAYERS.items(), dims, strict=True)}
    return image_taps({"pooled": pooled}, maps, 224, dict(zip(LAYERS, places, strict=True)))
