"""Toy encoders: tiny, exported in a second, with every granularity that the real ones have."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from topwork_server import (
    Encoder,
    EncoderSpec,
    Granularity,
    IndexSpec,
    InvalidInput,
    Item,
    Modality,
    Refusal,
    Sample,
    Tap,
    TextItem,
    TokenSpans,
    Trunk,
    option,
)
from topwork_server.plugin_api.plugin_registry import Registered, RegisteredIndex
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.types import Array

DIM = 8
TAPS = (Tap("mean", DIM, Granularity.ITEM), Tap("letters", DIM, Granularity.TOKEN))


@dataclass(frozen=True)
class LetterOptions:
    case: Literal["keep", "lower"] = option("keep", "lower: capitals are small letters")
    repeat: int = option(1, "how often the text stands")


class Letters(Encoder):
    """Embeds each letter at random and takes their masked mean: pads, has TOKEN rows, and is padding-invariant."""

    options = LetterOptions
    pads = True
    budget = 64
    exporter: ClassVar[Literal["dynamo", "legacy"]] = "legacy"

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        import torch

        class Mean(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(int(spec.settings.get("seed", 0)))
                self.table = torch.nn.Embedding(128, DIM)

            def forward(self, codes: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                rows = self.table(codes) * mask.unsqueeze(-1)
                return rows.sum(1) / mask.sum(1, keepdim=True), rows

        inputs = {"codes": ("batch", "letters"), "mask": ("batch", "letters")}
        return Trunk(inputs, TAPS, {"dim": DIM}, {}, module=Mean(), exporter=cls.exporter)

    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        if not isinstance(item, TextItem):
            raise InvalidInput("not a text", remedy="send text")
        if not item.text:
            raise InvalidInput("the text is empty", remedy="send at least one letter")
        text = (item.text.lower() if options.case == "lower" else item.text) * options.repeat
        codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64)
        n = np.arange(len(codes))
        spans = TokenSpans(n, np.stack([n, n + 1], 1).astype(np.int32), np.zeros(len(n), np.int32))
        return [Sample({"codes": codes}, tokens=spans, notes={"spaces": text.count(" ")} if " " in text else {})]

    def cost(self, sample: Sample) -> int:
        return len(sample.inputs["codes"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        longest = max(self.cost(s) for s in samples)
        letters = np.zeros((len(samples), longest), np.int64)
        mask = np.zeros((len(samples), longest), np.float32)
        for i, sample in enumerate(samples):
            letters[i, : self.cost(sample)] = sample.inputs["codes"]
            mask[i, : self.cost(sample)] = 1
        return {"codes": letters, "mask": mask}


class DynamoLetters(Letters):
    exporter = "dynamo"


class Gate:
    """Lets a test hold the inference thread, and see that it is held."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.open.wait(30), "the gate was not opened"


def letters_spec(name: str = "letters", encoder: type[Encoder] = Letters, seed: int = 0) -> EncoderSpec:
    """Have no weights to fetch: its export makes the table."""
    return EncoderSpec(
        name=name,
        encoder=encoder,
        source="none:",
        modality=Modality.TEXT,
        default_tap="mean",
        taps=TAPS,
        settings={"seed": seed},
    )


@dataclass
class FakePlugins:
    """Plugins without entry points: a test's own encoders and kinds of index."""

    specs: list[EncoderSpec] = field(default_factory=list)
    kinds: list[IndexSpec] = field(default_factory=list)

    def encoders(self) -> dict[str, Registered]:
        return {spec.name: Registered(spec, "tests", "tests") for spec in self.specs}

    def found(self) -> list[object]:
        return []

    def resolve_source(self, name: str, source: SourceUri) -> Registered | None:
        return None

    def refusals(self, source: SourceUri) -> list[tuple[str, Refusal]]:
        return []

    def indexes(self) -> dict[str, RegisteredIndex]:
        return {spec.kind: RegisteredIndex(spec, "tests", "tests") for spec in self.kinds}

    def index(self, kind: str) -> IndexSpec:
        for spec in self.kinds:
            if spec.kind == kind:
                return spec
        raise InvalidInput(f"there is no kind of index named {kind!r}")
