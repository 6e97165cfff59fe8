"""Measures what inputs cost before they reach a session: CPU microseconds an item, and how that compares with the libraries
alone.

python -m benchmarks.inputs_speed [--json]

In one process and, but for the engine, one thread, on the encoders that are exported in $TOPWORK_HOME; the least of several
rounds, since others may use this machine. `one by one` is `Encoder.preprocess`, `many` is `Encoder.preprocess_many`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import simplejpeg
from PIL import Image
from topwork_plugins.i3d.videos import decode, pixels
from topwork_server import Encoder, ImageItem, Item, TextItem, VideoItem
from topwork_server.access.passes import EncoderPass, server_pass
from topwork_server.config import Config
from topwork_server.inference.engine import EmbedParams, Engine

from benchmarks import inputs, models
from benchmarks.measure import Figures, show
from benchmarks.serving.parts import clips

ROUNDS = 7
CHUNK = 128
WORDS_A_TEXT = 20
exhaust: Callable[[Any], object] = deque(maxlen=0).extend


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    figures = {"words": words(), "texts": texts(), "pictures": pictures(), "video": video()}
    show(figures, as_json)
    return 0


def words() -> Figures:
    """Texts of 20 words; `engine` is all that a streamed text costs but for gRPC: both sides of the session, and it."""
    known = " ".join(inputs.sentences()).split()
    starts = range(0, len(known) - WORDS_A_TEXT, WORDS_A_TEXT)
    items: list[Item] = [TextItem(" ".join(known[i : i + WORDS_A_TEXT])) for i in starts]
    encoder, options = models.opened("glove-6b-50d")[2], {"unknown": "zero"}
    figures = prepared(encoder, items, encoder.options(**options))
    figures["engine us"] = asyncio.run(through_engine(encoder.spec.name, items, options))
    return figures | {f"{name[:-3]} words/s a core": round(1e6 * WORDS_A_TEXT / us) for name, us in figures.items()}


async def through_engine(name: str, items: Sequence[Item], options: dict[str, Any]) -> float:
    engine = Engine(models.catalog(), Config(provider="cpu"))
    params = EmbedParams(server_pass(EncoderPass, name), options=options, wait=True)
    await engine.embed(params, items[:8])
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        await asyncio.gather(*(engine.embed(params, items[i : i + 256]) for i in range(0, len(items), 256)))
        best = min(best, time.process_time() - began)
    await engine.close()
    return round(best / len(items) * 1e6, 2)


def texts() -> Figures:
    """Docstring sentences."""
    encoder = models.opened("all-minilm-l6-v2")[2]
    return prepared(encoder, [TextItem(text) for text in inputs.sentences()[:512]], encoder.options())


def pictures() -> Figures:
    """JPEG files; `library` is the decoder and PIL's resize to 256 x 256 with nothing around them."""
    files, encoder = inputs.jpegs(), models.opened("resnet50-thin")[2]

    def library() -> None:
        for file in files:
            Image.fromarray(simplejpeg.decode_jpeg(file, "RGB")).resize((256, 256), Image.Resampling.BILINEAR)

    figures = prepared(encoder, [ImageItem(file) for file in files], encoder.options())
    return {"library us": cheapest(library, len(files)), "one by one us": figures["one by one us"]}


def video() -> Figures:
    """A frame: PyAV's decoder alone, our timed frames, these as RGB, and whole windows."""
    import av

    encoder, clip = models.opened("i3d-resnet50-thin")[2], clips()[0]

    def decoder() -> None:
        with av.open(io.BytesIO(clip)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            exhaust(container.decode(container.streams.video[0]))

    count = sum(1 for _ in decode(clip))
    return {
        "frames": count,
        "PyAV decode us": cheapest(decoder, count),
        "timed frames us": cheapest(lambda: exhaust(decode(clip)), count),
        "RGB us": cheapest(lambda: exhaust(pixels(frame.picture) for frame in decode(clip)), count),
        "windows us": cheapest(lambda: exhaust(encoder.preprocess(VideoItem(clip), encoder.options())), count),
    }


def prepared(encoder: Encoder, items: Sequence[Item], options: Any) -> Figures:
    def one_by_one() -> None:
        for item in items:
            exhaust(encoder.preprocess(item, options))

    def many() -> None:
        for start in range(0, len(items), CHUNK):
            exhaust(encoder.preprocess_many(items[start : start + CHUNK], options))

    cost = partial(cheapest, count=len(items))
    return {"one by one us": cost(one_by_one), "many us": cost(many)}


def cheapest(work: Callable[[], object], count: int) -> float:
    """CPU microseconds for each of `count`, in the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return round(best / count * 1e6, 2)


if __name__ == "__main__":
    sys.exit(main())
