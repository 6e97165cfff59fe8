"""Checks what a description reads against the graph's inputs, and writes it for the server. Export process only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from topwork_server import Array, InvalidInput, Item, check_file

from topwork_plugins.bert import tokens as bert_tokens
from topwork_plugins.bert.settings import Settings
from topwork_plugins.onnx_file import graph as onnx_graph
from topwork_plugins.onnx_file.description import TEXT_INPUTS, Description, ImageReads, TensorReads, TextReads
from topwork_plugins.onnx_file.graph import Input
from topwork_plugins.onnx_file.reads import PictureReader, TensorReader
from topwork_plugins.tokenizer_checks import check_tokenizer

#: Examples of an axis of any length have these, times its factor.
LENGTHS = (16, 24)


@dataclass(frozen=True)
class Wired:
    """The inputs' axes and the preprocessing as `Trunk` has them; example items where the modality has none of its own."""

    axes: Mapping[str, tuple[str | int, ...]]
    preprocessing: Mapping[str, Any]
    examples: Sequence[Item] = ()


def wire(model: onnx.ModelProto, description: Description, assets: Path, out: Path) -> Wired:
    """Write into `out` what the encoder's `__init__` reads. InvalidInput where the description and the graph disagree."""
    match description.reads:
        case ImageReads() as reads:
            return _image(reads, _only_input(model, reads.input, description, "image"), description.file, out)
        case TensorReads() as reads:
            return _tensor(reads, _only_input(model, reads.input, description, "tensor"), description.file, assets, out)
        case TextReads() as reads:
            return _text(reads, model, description.file, assets, out)


def _only_input(model: onnx.ModelProto, name: str | None, description: Description, section: str) -> Input:
    found = {value.name: value for value in onnx_graph.inputs(model)}
    if len(found) != 1:
        raise InvalidInput(
            f"{description.file}: the taps need {len(found)} inputs of the graph ({', '.join(found) or 'none'})",
            remedy=f'modality "{section}" feeds one; choose taps that need no other',
        )
    (value,) = found.values()
    if name not in (None, value.name):
        raise InvalidInput(f"{description.file}: {section}.input is {name!r}; the taps read {value.name!r}", remedy="correct it")
    return value


def _image(reads: ImageReads, value: Input, file: str, out: Path) -> Wired:
    height, width = reads.recipe.size
    wanted = (3, height, width) if reads.layout == "NCHW" else (height, width, 3)
    if len(value.axes) != 4 or any(isinstance(a, int) and a != w for a, w in zip(value.axes[1:], wanted, strict=False)):
        raise InvalidInput(
            f"{file}: image.size and image.layout make pictures {list(wanted)}; the graph's {value.name} reads {value.axes[1:]}",
            remedy="set them to what the graph reads",
        )
    reader = PictureReader(value.name, value.dtype, reads.recipe, reads.channels, reads.layout)
    reader.write(out)
    return Wired({value.name: ("batch", *wanted)}, {**reads.recipe.json(), "channels": reads.channels, "layout": reads.layout})


def _tensor(reads: TensorReads, value: Input, file: str, assets: Path, out: Path) -> Wired:
    axes = value.axes[1:] if reads.shape is None else reads.shape
    if len(axes) != len(value.axes) - 1 or any(isinstance(a, int) and a != b for a, b in zip(value.axes[1:], axes, strict=False)):
        raise InvalidInput(
            f"{file}: tensor.shape is {list(axes)}; the graph's {value.name} reads {list(value.axes[1:])} after the batch axis",
            remedy="leave it out, or name the graph's dynamic axes",
        )
    reader = TensorReader(value.name, value.dtype, tuple(axes))
    reader.write(out)
    examples = _example_file(assets.with_name(reads.examples), file) if reads.examples else _examples(reader)
    return Wired({value.name: ("batch", *axes)}, {"dtype": value.dtype}, examples)


def _example_file(path: Path, file: str) -> list[Item]:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"{file}: tensor.examples, {path.name}, cannot be read: {error}", remedy="save one array") from error
    if array.ndim < 1 or not len(array):
        raise InvalidInput(f"{file}: tensor.examples, {path.name}, is {array.shape}", remedy="save items along the first axis")
    return list(array)


def _examples(reader: TensorReader) -> list[Item]:
    """Noise for floating-point inputs, 0 and 1 for others; two of each length."""
    random, items = np.random.default_rng(0), list[Item]()
    for length in (*LENGTHS, *LENGTHS):
        shape = tuple(axis if isinstance(axis, int) else length * TensorReader.factor(axis) for axis in reader.axes)
        noise = random.normal(size=shape) if np.dtype(reader.dtype).kind == "f" else random.integers(0, 2, shape)
        items.append(np.asarray(noise).astype(reader.dtype))
    return items


def _text(reads: TextReads, model: onnx.ModelProto, file: str, assets: Path, out: Path) -> Wired:
    values = {value.name: value for value in onnx_graph.inputs(model)}
    roles = {name: role for role in TEXT_INPUTS if (name := reads.inputs.get(role, role)) in values}
    lost = [name for name in values if name not in roles] + [n for n in reads.inputs.values() if n not in values]
    missing = {"input_ids", "attention_mask"} - set(roles.values())
    if lost or missing:
        raise InvalidInput(
            f"{file}: text.inputs does not match the graph, whose taps read {', '.join(values)}",
            remedy="give the graph's names of input_ids and attention_mask (without which padding would count) and, if it"
            " has them, token_type_ids",
        )
    for name, value in values.items():
        if len(value.axes) != 2 or np.dtype(value.dtype).kind not in "iu":
            raise InvalidInput(f"{file}: the graph's {name} is {value.dtype} {value.axes}", remedy="it must be (batch, tokens)")
    for name, role in roles.items():
        if name != role or values[name].dtype != "int64":
            onnx_graph.feed_as(model, name, role)
    inputs = tuple(role for role in TEXT_INPUTS if role in roles.values())
    digest = _copy_tokenizer(assets.with_name(reads.tokenizer), out, file)
    Settings(inputs, reads.padding, reads.max_tokens, {}, "").write(out)
    facts = {"tokenizer_sha256": digest, "max_tokens": reads.max_tokens, "inputs": list(inputs)}
    return Wired(dict.fromkeys(inputs, ("batch", "tokens")), facts)


def _copy_tokenizer(path: Path, out: Path, file: str) -> str:
    """Copy a tokenizer without its truncation and padding, which the server does. Returns the SHA-256 of the file."""
    from tokenizers import Tokenizer

    check_file(path)
    try:
        content = path.read_bytes()
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises bare Exception
        raise InvalidInput(
            f"{file}: text.tokenizer, {path.name}, cannot be read: {error}", remedy="put the model's tokenizer.json there"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(out / bert_tokens.FILE), pretty=False)
    check_tokenizer(out / bert_tokens.FILE, f"{file} ({path.name})")
    return sha256(content).hexdigest()
