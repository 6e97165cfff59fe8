"""A picture net inflated to a video net (Carreira & Zisserman 2017, section 2.4), with no weight but the picture net's own.

It imports torch: only code that exports imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from topwork_server import InvalidInput, Tap
from torch import Tensor, nn

from topwork_plugins.i3d.taps import inflated_taps
from topwork_plugins.parameter_blocks import under
from topwork_plugins.vision.tapped import Tapped
from topwork_plugins.vision.taps import LAYERS

#: How many frames a kernel spans, as in the I3D ResNet-50 of Wang et al. 2018 ("Non-local Neural Networks", section 4.1): the
#: first convolution 5; of the blocks, about one in two has 3 in its first convolution. A pattern repeats over the blocks.
STEM_SPAN = 5
BLOCK_SPANS = {"layer1": (3, 3), "layer2": (3, 1), "layer3": (3, 1), "layer4": (1, 3)}
#: After this layer two frames become one.
HALVED = "layer1"


@dataclass
class Clips:
    """Counts of frames of each clip in the pass under way, at the current layer: they lie in the batch axis, clip after clip."""

    frames: int = 0


class Inflated(nn.Module):
    """A 2D convolution as the 3D one that it inflates to: its kernel `span` times over time, divided by `span`.

    That is the 2D convolution of the mean of `span` neighboring frames, or the mean of the convolutions of each, whichever
    has fewer numbers to add (the whole net takes half of the time that it takes with the mean always first). Beyond both ends
    of a clip stands its first and last frame, so that a clip of one picture gives what the picture gives; zeros there would
    not.
    """

    def __init__(self, conv: nn.Conv2d, span: int, clips: Clips) -> None:
        super().__init__()
        self.conv = conv
        self.span = span
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch * frames, channels, H, W) to the same with the convolution's channels and size."""
        if self.conv.out_channels < self.conv.in_channels:
            return self._near(self.conv(x))
        return self.conv(self._near(x))  # type: ignore[no-any-return]

    def _near(self, x: Tensor) -> Tensor:
        """The mean of each frame and its neighbors."""
        half, frames = self.span // 2, self.clips.frames
        rows = x.reshape(-1, frames, *x.shape[1:])
        rows = torch.cat([rows[:, :1]] * half + [rows] + [rows[:, -1:]] * half, dim=1)
        total = rows[:, :frames]
        for i in range(1, self.span):  # sums, not a stack: a stack writes every frame `span` times
            total = total + rows[:, i : i + frames]
        return (total / self.span).flatten(0, 1)


class HalfTime(nn.Module):
    """The larger of each two frames: max pool 2x1x1 with stride 2, after the first layer as in Wang et al. 2018."""

    def __init__(self, clips: Clips) -> None:
        super().__init__()
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch * frames, channels, H, W) to (batch * frames / 2, channels, H, W)."""
        self.clips.frames = self.clips.frames // 2
        return torch.maximum(x[0::2], x[1::2])


class InflatedResNet(nn.Module):
    """(batch, 3, frames, H, W) float32, each frame as the 2D net reads it, to one tensor a tap, each (batch, dim).

    `frames` is even. Takes over `tapped` and changes it.
    """

    def __init__(self, tapped: Tapped) -> None:
        super().__init__()
        self.clips = Clips()
        self.tapped = tapped
        self.spans = spans(tapped.net)
        for name, span in self.spans.items():
            conv = tapped.net.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            tapped.net.set_submodule(name, Inflated(conv, span, self.clips))
        tapped.net.set_submodule(HALVED, nn.Sequential(tapped.net.get_submodule(HALVED), HalfTime(self.clips)))
        self.eval()

    def taps(self, size: tuple[int, int]) -> tuple[Tap, ...]:
        """List the taps in the order of `forward`; each row is one window. `size` is (height, width)."""
        with torch.no_grad():
            *layers, pooled, _ = (rows.shape[1] for rows in self(torch.zeros(1, 3, 2, *size)))
        return inflated_taps(dict(zip(LAYERS, layers, strict=True)), pooled)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """List the blocks of `Trunk.blocks`: those of the picture net, whose stages keep their names."""
        return under("tapped.", self.tapped.blocks())

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        self.clips.frames = clips.shape[2]
        rows, maps = self.tapped.outputs(clips.transpose(1, 2).flatten(0, 1))
        layers = [self._by_clip(maps[name].mean((2, 3))).mean(1) for name in LAYERS]
        steps = self._by_clip(rows["pooled"])
        mean = steps.mean(1)
        return (*layers, mean, torch.cat([mean, steps.std(1, correction=0)], dim=1))

    def _by_clip(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, self.clips.frames, rows.shape[1])


def spans(net: nn.Module) -> dict[str, int]:
    """Map the name of each convolution to the number of frames that it will span. InvalidInput where the net is no ResNet."""
    found = {_first_convolution(net, ""): STEM_SPAN}
    for layer, pattern in BLOCK_SPANS.items():
        blocks = getattr(net, layer, None)
        if not isinstance(blocks, nn.Sequential):
            raise InvalidInput(
                f"a {type(net).__name__} cannot be inflated: it has no {layer}", remedy="give a ResNet (layer1 to layer4)"
            )
        for i, (name, _) in enumerate(blocks.named_children()):
            found[_first_convolution(net, f"{layer}.{name}.")] = pattern[i % len(pattern)]
    return {name: span for name, span in found.items() if span > 1}


def _first_convolution(net: nn.Module, prefix: str) -> str:
    return next(str(n) for n, m in net.named_modules() if n.startswith(prefix) and isinstance(m, nn.Conv2d))
