"""The classifier that a checkpoint of Inception I3D brings. Imports torch: only code that exports imports this module."""

from __future__ import annotations

from pathlib import Path

from topwork_server import InvalidInput, NativeHead

from topwork_plugins.i3d.inception import InceptionI3d

#: Beside the checkpoint, a name a line in the order of the classes: the file of that name in DeepMind's kinetics-i3d.
LABELS = "label_map.txt"


def kinetics_head(net: InceptionI3d, checkpoint: Path) -> NativeHead:
    """`logits` as a head on `pooled`: a 1x1x1 convolution and a mean over time may change places."""
    convolution = net.logits.conv3d
    assert convolution.bias is not None
    weight = convolution.weight.detach().flatten(1).numpy().copy()
    names = class_names(checkpoint.with_name(LABELS), net.classes)
    said = f"the {net.classes} classes of its training"
    return NativeHead("kinetics", "pooled", names, weight, convolution.bias.detach().numpy().copy(), description=said)


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
