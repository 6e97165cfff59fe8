"""What inputs cost before they reach a session: CPU microseconds an item, and how that compares with the libraries alone.

python -m benchmarks.inputs_speed [--json]

In one process and, but for the engine, one thread, on the encoders that are exported in $TOPWORK_HOME; the least of several
rounds, since others may use this machine. `one by one` is `Encoder.preprocess`, `slab` is `Encoder.preprocess_many`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import simplejpeg
from PIL import Image
from topwork_plugins.i3d.videos import decode, pixels
from topwork_server import Encoder, ImageItem, Item, TextItem, VideoItem
from topwork_server.config import Config, default_home
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.plugin_registry import PluginRegistry

from benchmarks import inputs
from benchmarks.serving.parts import clips

ROUNDS = 7
SLAB = 128
WORDS_A_TEXT = 20
Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    catalogue = Catalog(PluginRegistry.load(), default_home())
    figures = {
        "words": words(catalogue),
        "texts": texts(opened(catalogue, "all-minilm-l6-v2")),
        "pictures": pictures(opened(catalogue, "resnet50-thin")),
        "video": video(opened(catalogue, "i3d-resnet50-thin")),
    }
    print(json.dumps(figures) if as_json else json.dumps(figures, indent=1))
    return 0


def opened(catalogue: Catalog, name: str) -> Encoder:
    entry = catalogue.entry(name)
    if entry.folder is None:
        sys.exit(f"{name} is not exported in {default_home()}: topwork pull {name}")
    return entry.spec.encoder(entry.spec, entry.folder)


def words(catalogue: Catalog) -> Figures:
    """Texts of 20 words; `engine` is all that a streamed text costs but for gRPC: both sides of the session, and it."""
    said = " ".join(inputs.sentences()).split()
    items: list[Item] = [TextItem(" ".join(said[i : i + WORDS_A_TEXT])) for i in range(0, len(said) - WORDS_A_TEXT, WORDS_A_TEXT)]
    encoder = opened(catalogue, "glove-6b-50d")
    options = {"unknown": "zero"}
    figures = prepared(encoder, items, encoder.options(**options))
    figures["engine us"] = asyncio.run(through_engine(catalogue, encoder.spec.name, items, options))
    for way in ("one by one", "slab", "engine"):
        figures[f"{way} words/s a core"] = round(1e6 * WORDS_A_TEXT / figures[f"{way} us"])
    return figures


async def through_engine(catalogue: Catalog, name: str, items: Sequence[Item], options: dict[str, Any]) -> float:
    engine = Engine(catalogue, Config(provider="cpu"))
    ask = EmbedParams(name, options=options, wait=True)
    await engine.embed(ask, items[:8])
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        await asyncio.gather(*(engine.embed(ask, items[i : i + 256]) for i in range(0, len(items), 256)))
        best = min(best, time.process_time() - began)
    await engine.close()
    return round(best / len(items) * 1e6, 2)


def texts(encoder: Encoder) -> Figures:
    """Docstring sentences."""
    return prepared(encoder, [TextItem(text) for text in inputs.sentences()[:512]], encoder.options())


def pictures(encoder: Encoder) -> Figures:
    """JPEG files; `library` is the decoder and PIL's resize to 256 x 256 with nothing around them."""
    files = inputs.jpegs()

    def library() -> None:
        for file in files:
            Image.fromarray(simplejpeg.decode_jpeg(file, "RGB")).resize((256, 256), Image.Resampling.BILINEAR)

    figures = {"library us": cheapest(library, len(files))}
    return figures | {"one by one us": prepared(encoder, [ImageItem(file) for file in files], encoder.options())["one by one us"]}


def video(encoder: Encoder) -> Figures:
    """A frame: PyAV's decoder alone, our timed frames, these as RGB, and whole windows."""
    import av

    clip = clips()[0]

    def alone() -> None:
        with av.open(io.BytesIO(clip)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            exhaust(container.decode(container.streams.video[0]))

    count = sum(1 for _ in decode(clip))
    return {
        "frames": count,
        "PyAV decode us": cheapest(alone, count),
        "timed frames us": cheapest(lambda: exhaust(decode(clip)), count),
        "RGB us": cheapest(lambda: exhaust(pixels(frame.picture) for frame in decode(clip)), count),
        "windows us": cheapest(lambda: exhaust(encoder.preprocess(VideoItem(clip), encoder.options())), count),
    }


def prepared(encoder: Encoder, items: Sequence[Item], options: Any) -> Figures:
    def one_by_one() -> None:
        for item in items:
            exhaust(encoder.preprocess(item, options))

    def slabs() -> None:
        for start in range(0, len(items), SLAB):
            exhaust(encoder.preprocess_many(items[start : start + SLAB], options))

    return {"one by one us": cheapest(one_by_one, len(items)), "slab us": cheapest(slabs, len(items))}


def cheapest(work: Callable[[], None], count: int) -> float:
    """CPU microseconds for each of `count`, in the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return round(best / count * 1e6, 2)


def exhaust(things: Iterable[Any]) -> None:
    for _ in things:
        pass


if __name__ == "__main__":
    sys.exit(main())
