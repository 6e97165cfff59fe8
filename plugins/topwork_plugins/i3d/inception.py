"""Inception-v1 inflated to 3D (Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?", figure 3), and its weights.

Module names are those of the PyTorch checkpoints that people have (rgb_imagenet.pt, flow_imagenet.pt), so that a state dict
loads as it is. It imports torch: only code that exports imports this module.
"""

from __future__ import annotations

from pathlib import Path

import torch
from topwork_server import InvalidInput, PretrainedHead, Tap
from torch import Tensor, nn
from torch.nn import functional

from topwork_plugins.i3d.taps import inception_taps
from topwork_plugins.weight_files import misshapen, read_tensors, refuse_misfits

#: Output channels of a block's branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pool then 1x1 (Szegedy et al. 2014, table 1).
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
#: The blocks whose outputs are taps, and their channels.
BLOCK_TAPS = {"Conv3d_2c_3x3": 192, "Mixed_3c": 480, "Mixed_4f": 832, "Mixed_5c": 1024}
DIM = 1024
CLASSES = 400  # Kinetics-400
BN_EPS = 1e-3  # as the published weights were trained, in TensorFlow
REMEDY = "give a state dict with the keys of rgb_imagenet.pt, such as Conv3d_1a_7x7.conv3d.weight and logits.conv3d.bias"
FIRST, LAST = "Conv3d_1a_7x7.conv3d.weight", "logits.conv3d.weight"


def same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zeros around the last three axes as TensorFlow's SAME lays them: output ceil(size / stride), the odd one at the end."""
    around: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        short = max(k - (s if size % s == 0 else size % s), 0)
        around += [short // 2, short - short // 2]
    return functional.pad(x, around) if any(around) else x


class Unit3D(nn.Module):
    """Convolution (SAME), batch norm, ReLU; or, without `norm`, a convolution with a bias and nothing after it."""

    def __init__(self, channels_in: int, channels: int, size: int = 1, stride: int = 1, *, norm: bool = True) -> None:
        super().__init__()
        self.kernel, self.stride = (size, size, size), (stride, stride, stride)
        self.conv3d = nn.Conv3d(channels_in, channels, self.kernel, self.stride, bias=not norm)
        self.bn = nn.BatchNorm3d(channels, eps=BN_EPS) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(same(x, self.kernel, self.stride))
        return x if self.bn is None else functional.relu(self.bn(x))


class MaxPool(nn.Module):
    """Max pool (SAME). Zeros may stand for the missing values: all that is pooled here has passed a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool3d(same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block: four branches, joined by channel (figure 3, right)."""

    def __init__(self, channels_in: int, branches: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = branches
        self.b0 = Unit3D(channels_in, b0)
        self.b1a, self.b1b = Unit3D(channels_in, b1a), Unit3D(b1a, b1b, 3)
        self.b2a, self.b2b = Unit3D(channels_in, b2a), Unit3D(b2a, b2b, 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit3D(channels_in, b3b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class InceptionI3d(nn.Module):
    """(batch, channels, frames, H, W) float32 in [-1, 1] to one tensor a tap (`taps`), each (batch, dim).

    The average pool is 2x7x7 with stride 1, as published: of 16 x 224 x 224 it gives one step, of 64 frames seven, over
    which `pooled` and `logits` are the mean. It needs 9 frames; served graphs take multiples of 8 from 16, so that no
    step sees half of its frames. Of maps smaller than 7x7 (pictures below 193 pixels) it takes the whole.
    """

    def __init__(self, channels: int = 3, classes: int = CLASSES) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        self.Conv3d_1a_7x7 = Unit3D(channels, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        width = self._add_blocks(192, "Mixed_3")
        self.MaxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
        width = self._add_blocks(width, "Mixed_4")
        self.MaxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
        width = self._add_blocks(width, "Mixed_5")
        self.logits = Unit3D(width, classes, norm=False)

    def _add_blocks(self, width: int, stage: str) -> int:
        for name, branches in MIXED.items():
            if name.startswith(stage):
                self.add_module(name, Mixed(width, branches))
                width = branches[0] + branches[2] + branches[4] + branches[5]
        return width

    def taps(self) -> tuple[Tap, ...]:
        """List the taps in the order of `forward`; each row is one window."""
        return inception_taps(BLOCK_TAPS, DIM, self.classes)

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """List the blocks of `Trunk.blocks`: the convolutions and Inception blocks; the unnamed classifier goes with the last."""
        return tuple(
            (f"{name}.",) for name, part in self.named_children() if isinstance(part, Unit3D | Mixed) and name != "logits"
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        means: dict[str, Tensor] = {}
        for name, part in self.named_children():  # in the order that __init__ added them
            if name != "logits":
                x = part(x)
            if name in BLOCK_TAPS:
                means[name] = x.mean((2, 3, 4))
        steps = functional.avg_pool3d(x, (2, min(7, x.shape[3]), min(7, x.shape[4])), stride=1)
        pooled = steps.mean((2, 3, 4))
        deviation = x.mean((3, 4)).std(2, correction=0)
        logits = self.logits(steps).mean((2, 3, 4))
        return (*means.values(), pooled, torch.cat([pooled, deviation], dim=1), logits)


def load_inception(path: Path) -> InceptionI3d:
    """The net with a checkpoint's weights, in evaluation mode; channels and classes are the checkpoint's.

    Reads .safetensors, and what torch.save wrote (unpickled as weights only). InvalidInput names the keys that do not fit.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in read_tensors(path).items()}
    for name in (FIRST, LAST):
        if name not in state or state[name].ndim != 5:
            raise InvalidInput(f"{path.name} is no Inception-v1 I3D: it has no {name}", remedy=REMEDY)
    net = InceptionI3d(state[FIRST].shape[1], state[LAST].shape[0])
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    refuse_misfits(f"{path.name}, read as Inception-v1 I3D,", missing, misshapen(wanted, state), unexpected, REMEDY)
    net.load_state_dict(wanted | state)
    return net.eval()


#: Beside the checkpoint, a name a line in the order of the classes: the file of that name in DeepMind's kinetics-i3d.
LABELS = "label_map.txt"


def kinetics_head(net: InceptionI3d, checkpoint: Path) -> PretrainedHead:
    """Make `logits` a head on `pooled`: a 1x1x1 convolution and a mean over time may change places."""
    convolution = net.logits.conv3d
    assert convolution.bias is not None
    weight = convolution.weight.detach().flatten(1).numpy().copy()
    names = class_names(checkpoint.with_name(LABELS), net.classes)
    description = f"the {net.classes} classes of its training"
    return PretrainedHead("kinetics", "pooled", names, weight, convolution.bias.detach().numpy().copy(), description=description)


def class_names(file: Path, count: int) -> tuple[str, ...]:
    """Read the names of the file, or make "class 0", "class 1" ... without one. InvalidInput where it is another net's."""
    if not file.exists():
        return tuple(f"class {i}" for i in range(count))
    names = tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
    if len(names) != count or len(set(names)) != count:
        raise InvalidInput(
            f"{file} names {len(set(names))} classes on {len(names)} lines; the checkpoint has {count}",
            remedy="give a name a line, in the order of the classes, or take the file away",
        )
    return names
