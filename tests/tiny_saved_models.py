"""SavedModels without TensorFlow: saved_model.pb as TensorFlow writes it, and beside it the ONNX graph that `fake_tensorflow.py`
gives for it."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from topwork_plugins.saved_model.converter import TENSORFLOW
from topwork_plugins.saved_model.signatures import DTYPES

NUMBERS = {name: number for number, name in DTYPES.items()}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "red", "owl", "##s", "sat", "of", "and", "a", "bird", "is", "to"]
RANDOM = np.random.default_rng(5)
TABLE = RANDOM.normal(size=(len(WORDS), 6)).astype(np.float32)
#: A tensor: its dtype, and its shape, where -1 is any length and None an unknown rank.
Tensors = Mapping[str, tuple[str, Sequence[int] | None]]


def number(value: int) -> bytes:
    """A varint; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    low = bytearray()
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])


def message(**fields: bytes | str | int | Sequence[bytes]) -> bytes:
    """A message of protobuf: message(f1="text", f2=3)."""
    made = b""
    for name, values in fields.items():
        key = int(name[1:]) << 3
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                made += number(key) + number(value)
            else:
                content = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[arg-type]
                made += number(key | 2) + number(len(content)) + content
    return made


def graph_file(signatures: Mapping[str, tuple[Tensors, Tensors]], operators: Sequence[str] = ()) -> bytes:
    """The content of a saved_model.pb."""

    def tensors(named: Tensors) -> list[bytes]:
        made = []
        for name, (dtype, shape) in named.items():
            rank = message(f3=1) if shape is None else message(f2=[message(f1=length) for length in shape])
            made.append(message(f1=name, f2=message(f1=f"{name}:0", f2=NUMBERS[dtype], f3=rank)))
        return made

    entries = [
        message(f1=name, f2=message(f1=tensors(inputs), f2=tensors(outputs), f3="tensorflow/serving/predict"))
        for name, (inputs, outputs) in signatures.items()
    ]
    function = message(f3=[message(f1=f"node{i}", f2=operator) for i, operator in enumerate(operators)])
    library = message(f2=message(f1=function), f1=message(f1="x", f2="Placeholder"))
    return message(f1=1, f2=message(f1=message(f4="serve", f5="2.21.0"), f2=library, f5=entries))


def write(
    folder: Path,
    signatures: Mapping[str, tuple[Tensors, Tensors]],
    operators: Sequence[str] = (),
    net: onnx.ModelProto | None = None,
    vocabulary: Sequence[str] = (),
) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(graph_file(signatures, operators))
    if net is not None:
        onnx.save(net, str(folder / "converted.onnx"))
    if vocabulary:
        (folder / "assets").mkdir()
        (folder / "assets" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    return folder


def _net(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[int, Sequence[object]]], **constants: object
) -> onnx.ModelProto:
    outputs = sorted(name for node in nodes for name in node.output if name.startswith("output_"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def pictures(folder: Path, size: int = -1, batch: int = -1) -> Path:
    """map = 2 * picture, default = its mean."""
    net = _net(
        [
            helper.make_node("Mul", ["input_0", "two"], ["output_1"]),
            helper.make_node("ReduceMean", ["output_1", "cells"], ["output_0"], keepdims=0),
        ],
        {"input_0": (TensorProto.FLOAT, ["N", size if size > 0 else "H", size if size > 0 else "W", 3])},
        two=np.float32(2),
        cells=np.array([1, 2]),
    )
    inputs: Tensors = {"inputs": ("float32", [batch, size, size, 3])}
    outputs: Tensors = {
        "default": ("float32", [batch, 3]),
        "map": ("float32", [batch, size, size, 3]),
        "class": ("int64", [batch]),
        "loss": ("float32", []),
    }
    return write(folder, {"serving_default": (inputs, outputs)}, ["Conv2D"], net)


def texts(folder: Path, vocabulary: Sequence[str] = WORDS) -> Path:
    """states = TABLE[ids] * mask of at most 40 tokens, pooled = the first of them."""
    nodes = [
        helper.make_node("Gather", ["table", "input_2"], ["rows"]),
        helper.make_node("Cast", ["input_0"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["masks"]),
        helper.make_node("Mul", ["rows", "masks"], ["masked"]),
        helper.make_node("Shape", ["input_2"], ["shape"], start=1, end=2),
        helper.make_node("Slice", ["places", "zero", "shape"], ["placed"]),
        helper.make_node("Add", ["masked", "placed"], ["output_1"]),
        helper.make_node("Gather", ["output_1", "first"], ["output_0"], axis=1),
    ]
    kind = (TensorProto.INT32, ["N", "T"])
    net = _net(
        nodes,
        {"input_0": kind, "input_1": kind, "input_2": kind},
        table=TABLE,
        last=np.array([2]),
        places=np.zeros((40, 6), np.float32),
        zero=np.array([0]),
        first=np.array(0),
    )
    inputs: Tensors = {name: ("int32", [-1, -1]) for name in ("input_mask", "input_type_ids", "input_word_ids")}
    outputs: Tensors = {"pooled_output": ("float32", [-1, 6]), "sequence_output": ("float32", [-1, -1, 6])}
    return write(folder, {"serving_default": (inputs, outputs)}, ["GatherV2"], net, vocabulary)


def arrays(folder: Path) -> Path:
    """steps = 2 * x of any length; another signature reads strings."""
    net = _net(
        [helper.make_node("Mul", ["input_0", "two"], ["output_0"])],
        {"input_0": (TensorProto.FLOAT, ["N", "T", 4])},
        two=np.float32(2),
    )
    strings: tuple[Tensors, Tensors] = ({"inputs": ("string", [-1])}, {"outputs": ("float32", [-1, 6])})
    numbers: tuple[Tensors, Tensors] = ({"x": ("float32", [-1, -1, 4])}, {"steps": ("float32", [-1, -1, 4])})
    return write(folder, {"serving_default": strings, "vectors": numbers}, ["StringSplitV2", "StringJoin"], net)


def packed(folder: Path, archive: Path) -> Path:
    """A .tar.gz of a SavedModel, as TensorFlow Hub has them."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, f"./{path.relative_to(folder)}", recursive=False)
    return archive


def fake_environment(home: Path) -> None:
    """An environment in which the converter is `fake_tensorflow.py`."""
    program = TENSORFLOW.folder(home) / "bin" / "python"
    program.parent.mkdir(parents=True)
    fake = Path(__file__).with_name("fake_tensorflow.py")
    program.write_text(f'#!/bin/sh\nfor last; do :; done\nexec "{sys.executable}" "{fake}" "$last"\n')
    program.chmod(0o755)
