"""Audio models of transformers out of folders in its layout: wav2vec 2, HuBERT, WavLM, Whisper's encoder, AST.

Baevski et al. 2020 (wav2vec 2.0), Hsu et al. 2021 (HuBERT), Chen et al. 2021 (WavLM), Radford et al. 2022 (Whisper), Gong et al.
2021 (AST). Samples of different lengths share no batch: no net here is given padding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from topwork_server import (
    Array,
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

from topwork_plugins.audio.layout import is_ours, read_layout
from topwork_plugins.audio.layout import read_recipe as recipe_of
from topwork_plugins.audio.recipes import read_recipe
from topwork_plugins.audio.recordings import MOST_SECONDS, samples_of
from topwork_plugins.audio.windows import windows

FAMILY = "audio"
#: The longest window of a net that takes any: its attention costs memory by the square of the length.
MOST_AT_ONCE = 60
#: Repositories of the hub that are taken for this family's by how their names begin.
NAMES = re.compile(r"^[^/]+/(ast-|hubert|wav2vec2|wavlm|whisper)", re.IGNORECASE)


@dataclass(frozen=True)
class SoundOptions:
    """Options of a recording's windows."""

    seconds: float = option(
        0.0,
        "seconds in a window; 0: as many as the model takes at once. One that takes any length gets the whole recording, up to"
        f" {MOST_AT_ONCE} s",
        minimum=0,
        maximum=MOST_AT_ONCE,
    )
    stride: float = option(
        0.0, "seconds between the starts of two windows; 0: as many as a window has", minimum=0, maximum=MOST_SECONDS
    )
    drop_last: bool = option(False, "leave out a last window that is not full, unless it is the only one")


class AudioEncoder(Encoder):
    """Recordings to one row a window, with its seconds. `export` writes the recipe that `preprocess` follows."""

    options = SoundOptions
    budget = 60

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_server import prepare_torchvision

        prepare_torchvision()
        import torch

        from topwork_plugins.audio.nets import dims_of, open_model
        from topwork_plugins.pretrained_models import remarks_on

        layout = read_layout(assets)
        recipe = recipe_of(layout)
        tapped, unused = open_model(layout)
        inputs = recipe.inputs(np.zeros(recipe.longest or 2 * recipe.least, np.float32))
        dims = dims_of(tapped, [torch.from_numpy(array[None]) for array in inputs.values()], assets.name)
        recipe.write(out)
        return Trunk(
            inputs={name: ("batch", *(array.shape if recipe.longest else ("samples",))) for name, array in inputs.items()},
            taps=tapped.taps(dims),
            definition={"config": layout.definition, "pooling": "mean"},
            preprocessing=recipe.json(),
            module=tapped,
            exporter="legacy",
            blocks=tapped.blocks(),
            unused=unused,
            remarks=remarks_on(layout.config, tapped.net),
        )

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self._recipe = read_recipe(folder)

    def preprocess(self, item: Item, options: SoundOptions) -> Iterator[Sample]:
        """Decodes as windows are asked for, and holds one window's samples."""
        recipe, rate = self._recipe, self._recipe.rate
        longest = recipe.longest or MOST_AT_ONCE * rate
        length = round(options.seconds * rate) or longest
        if not recipe.least <= length <= longest:
            raise InvalidInput(
                f"{self.spec.name} cannot take windows of {options.seconds} s",
                remedy=f"ask for {recipe.least / rate} to {longest / rate} s",
            )
        blocks = samples_of(item, rate)
        if not recipe.longest and not options.seconds:
            blocks = _whole(blocks, longest, rate)
        stride = max(1, round(options.stride * rate)) if options.stride else length
        for window in windows(blocks, length, stride, recipe.least, drop_last=options.drop_last):
            span = window.start / rate, (window.start + len(window.samples)) / rate
            yield Sample(recipe.inputs(window.samples), window=span)

    def cost(self, sample: Sample) -> int:
        """Seconds of sound that the net computes."""
        return -(-(self._recipe.longest or len(sample.inputs["samples"])) // self._recipe.rate)


def _whole(blocks: Iterator[Array], most: int, rate: int) -> Iterator[Array]:
    count = 0
    for block in blocks:
        count += len(block)
        if count > most:
            raise InvalidInput(
                f"the recording is longer than {most // rate} s, which is as much as one row may stand for",
                remedy="set the option seconds, to 30 for instance: one row a window",
            )
        yield block


@hookimpl(tryfirst=True)
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Folders of audio models of transformers, repositories of the hub that are named so, and what is declared to be of this
    family."""
    local = source.scheme == "file" and is_ours(Path(source.location))
    hub = source.scheme == "hf" and NAMES.search(source.location)
    if source.family not in ("", FAMILY) or not (local or hub or source.family):
        return None
    description = f"{read_layout(Path(source.location)).kind} of transformers" if local else ""
    return EncoderSpec(name, AudioEncoder, str(source), Modality.AUDIO, description=description)


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme != "file" or not (path / "config.json").exists():
        return None
    try:
        read_layout(path)
    except InvalidInput as error:
        return Refusal(error.message, error.remedy, nearness=1)
    return None
