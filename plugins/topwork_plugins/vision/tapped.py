"""Picture nets whose forward gives every tap in one pass. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from topwork_server import Tap
from torch import Tensor, nn

from topwork_plugins.parameter_blocks import under
from topwork_plugins.vision.taps import image_taps


class Outputs(NamedTuple):
    """The rows (batch, dim) and maps (batch, dim, H', W') that a net gives of a batch of pictures, by the names of their taps."""

    rows: Mapping[str, Tensor]
    maps: Mapping[str, Tensor]


class Tapped(nn.Module):
    """(batch, 3, H, W) float32 to one tensor a tap: rows (batch, dim), maps' means, maps' cells (batch, H' * W', dim).

    `places` says by tap where in the net a map ends.
    """

    def __init__(self, net: nn.Module, places: Mapping[str, str]) -> None:
        super().__init__()
        self.net = net
        self.places = places

    def outputs(self, pictures: Tensor) -> Outputs:
        raise NotImplementedError

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        rows, maps = self.outputs(pictures)
        cells = (m.flatten(2).transpose(1, 2) for m in maps.values())
        return *rows.values(), *(m.mean((2, 3)) for m in maps.values()), *cells

    def taps(self, size: tuple[int, int]) -> tuple[Tap, ...]:
        """List the taps of `forward`, in its order, for pictures of `size` (height, width)."""
        self.eval()
        with torch.no_grad():
            rows, maps = self.outputs(torch.zeros(1, 3, *size))
        grids = {name: (m.shape[1], (m.shape[2], m.shape[3])) for name, m in maps.items()}
        return image_taps({name: row.shape[1] for name, row in rows.items()}, grids, size[0], self.places)

    @property
    def exporter(self) -> Literal["dynamo", "legacy"]:
        """Say which exporter writes the graph. Of a Swin with 5 blocks dynamo needs 54 s where the legacy one needs 2.3 s."""
        return "legacy" if any(isinstance(part, nn.LayerNorm) for part in self.net.modules()) else "dynamo"

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """List the blocks of `Trunk.blocks`, from the bottom up."""
        return under("net.", self._blocks())

    def _blocks(self) -> tuple[tuple[str, ...], ...]:
        raise NotImplementedError
