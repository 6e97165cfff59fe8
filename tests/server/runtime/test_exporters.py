"""Each exporter of torch has operators that the other lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from topwork_server import Encoder, EncoderSpec, Granularity, Item, Modality, Sample, Tap, Trunk
from topwork_server.models.artifacts import Manifest
from topwork_server.runtime.export import export_encoder


class Sinc(Encoder):
    """Sines over numbers, which the legacy exporter cannot write."""

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        import torch

        class Net(torch.nn.Module):
            def forward(self, numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return (torch.sinc(numbers),)

        exporter: Literal["dynamo", "legacy"] = spec.settings["exporter"]
        return Trunk({"numbers": ("batch", 4)}, (Tap("pooled", 4, Granularity.ITEM),), {}, {}, Net(), exporter=exporter)

    @classmethod
    def examples(cls, spec: EncoderSpec) -> Sequence[Item]:
        return [np.arange(4, dtype=np.float32) + n / 3 for n in range(3)]

    def preprocess(self, item: Any, options: Any) -> Iterable[Sample]:
        yield Sample({"numbers": item})


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_the_other_exporter_writes_what_one_cannot(exporter: str, tmp_path: Path) -> None:
    spec = EncoderSpec("sinc", Sinc, "none:", Modality.TENSOR, settings={"exporter": exporter})
    assert export_encoder(spec, tmp_path, tmp_path).numerics.parity > 0.9999
    assert Manifest.read(tmp_path).parameters == 0
