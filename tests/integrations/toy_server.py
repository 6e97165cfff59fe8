"""A real server with toy encoders of texts, pictures and arrays, for packages in an environment without the server's: prints its
addresses, of gRPC and of HTTP, and ends with its standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import real_server
import sets_harness
import toy_pictures
import toy_towers
from PIL import Image
from topwork_server import (
    Encoder,
    EncoderSpec,
    Granularity,
    ImageItem,
    InvalidInput,
    Item,
    Modality,
    Role,
    Sample,
    Tap,
    TextItem,
    Trunk,
    option,
)
from topwork_server.runtime.export import publish_towers
from topwork_server.types import Array
from toys import LetterOptions, Letters, letters_spec

NUMBERS = (Tap("both", 2, Granularity.ITEM),)


class PromptedLetters(Letters):
    """Queries are in small letters."""

    def role_options(self, role: Role, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**options, "case": "lower"} if role == Role.QUERY else options


@dataclass(frozen=True)
class MarkOptions(LetterOptions):
    prompt: str = option("", "put before the text")
    prompt_name: str = option("", "one of MARKS")


MARKS = {"query": "?", "document": "!", "none": ""}


class MarkedLetters(Letters):
    """Puts ? before queries and ! before documents, and * before what is neither, unless a prompt is set."""

    options = MarkOptions

    def role_options(self, role: Role, options: Mapping[str, Any]) -> Mapping[str, Any]:
        chosen = options.get("prompt") or options.get("prompt_name") == "none"
        return options if chosen else {**options, "prompt_name": role.value}

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        prompt = options.prompt or MARKS.get(options.prompt_name, "*")
        return super().preprocess(TextItem(prompt + item.text) if isinstance(item, TextItem) else item, options)


class Pictures(toy_pictures.Patches):
    """Takes arrays (H, W, 3), too."""

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if isinstance(item, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(item).save(file, "PNG")
            item = ImageItem(file.getvalue())
        return super().preprocess(item, options)


class Numbers(Encoder):
    """The mean of an array (n,) and of its squares."""

    pads = True

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        import torch

        class Both(torch.nn.Module):
            def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
                count = mask.sum(1)
                return (torch.stack([(values * mask).sum(1) / count, (values * values * mask).sum(1) / count], 1),)

        inputs = {"values": ("batch", "numbers"), "mask": ("batch", "numbers")}
        return Trunk(inputs, NUMBERS, {}, {}, module=Both(), exporter="legacy")

    @classmethod
    def examples(cls, spec: EncoderSpec) -> Sequence[Item]:
        random = np.random.default_rng(0)
        return [random.normal(size=count).astype(np.float32) for count in range(1, 20)]

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if not isinstance(item, np.ndarray) or item.ndim != 1:
            raise InvalidInput("not an array of one axis", remedy="send (n,)")
        return [Sample({"values": item.astype(np.float32)})]

    def cost(self, sample: Sample) -> int:
        return len(sample.inputs["values"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        longest = max(map(self.cost, samples))
        values, mask = (np.zeros((len(samples), longest), np.float32) for _ in range(2))
        for i, sample in enumerate(samples):
            values[i, : self.cost(sample)], mask[i, : self.cost(sample)] = sample.inputs["values"], 1
        return {"values": values, "mask": mask}


SPECS = [
    letters_spec(encoder=PromptedLetters),
    letters_spec("marked", MarkedLetters),
    replace(toy_pictures.spec(), encoder=Pictures),
    EncoderSpec("numbers", Numbers, "none:", Modality.TENSOR, "both", NUMBERS),
]


class Toys(real_server.ToyEncoders):
    def __init__(self) -> None:
        super().__init__()
        self.specs = [*SPECS, toy_towers.colors_spec()]


def serve() -> None:
    with TemporaryDirectory() as folder:
        home = sets_harness.export(Path(folder), SPECS)
        publish_towers(home, toy_towers.colors_spec(), lambda tower: Path())
        with real_server.started(home, Toys(), http="127.0.0.1:0", default_encoder="marked") as ready:
            print(ready.address, ready.http, flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    serve()
