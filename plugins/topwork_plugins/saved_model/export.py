"""Makes a Trunk of a SavedModel: TensorFlow converts it, the ONNX family adopts the graph, and TensorFlow's own outputs are what
that is compared with. Export process only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from topwork_server import Array, EncoderSpec, InvalidInput, Modality, Reference, Session, Trunk, save_onnx

from topwork_plugins.bert.tokens import FILE as TOKENIZER
from topwork_plugins.onnx_file import export as onnx_export
from topwork_plugins.onnx_file import graph as onnx_graph
from topwork_plugins.onnx_file import taps as onnx_taps
from topwork_plugins.onnx_file.description import Description
from topwork_plugins.onnx_file.inputs import LENGTHS
from topwork_plugins.onnx_file.reads import TensorReader
from topwork_plugins.saved_model import canonical, description, reading, signatures, vocabulary
from topwork_plugins.saved_model.converter import Converter
from topwork_plugins.saved_model.reading import Reading

#: Items, and tokens of each, of the batch that tells the shapes of outputs.
ITEMS, TOKENS = 2, 8
#: Lengths of texts that are tried, from the longest, where the signature does not say how long they may be.
LIMITS = (512, 384, 256, 192, 128, 64, 32)


def export(spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
    """Convert the SavedModel in `assets` and export it. InvalidInput where it cannot be converted, or is not what its
    signature says."""
    model = signatures.read(assets)
    chosen = reading.choose(model, spec.settings)
    table = description.reads(chosen, spec.settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{assets.name}.onnx"
        converter = Converter(model, chosen, file)
        converted = onnx_graph.load(file)
        canonical.rename(converted)
        save_onnx(converted, file)
        if chosen.modality is Modality.TEXT:
            table = _with_tokenizer(table, model.folder, file, spec, converter)
            if chosen.tokens is None:
                table["max_tokens"] = _longest(converter, chosen, spec.settings.get("max_tokens"))
        found = converter.run(_blanks(chosen, table))
        taps = description.taps(chosen, found, ITEMS, TOKENS if chosen.tokens is None else chosen.tokens)
        if chosen.modality is Modality.TEXT:
            table["inputs"] = _inputs_in_use(table["inputs"], file, [tap["output"] for tap in taps.values()])
        record = {"modality": str(chosen.modality), str(chosen.modality): table, "taps": taps}
        described = replace(spec, settings={"description": record})
        trunk = onnx_export.export(described, file, out)
        return replace(trunk, reference=_reference(converter, chosen, record, found))


def _with_tokenizer(
    table: Mapping[str, Any], folder: Path, file: Path, spec: EncoderSpec, converter: Converter
) -> dict[str, Any]:
    source = reading.tokenizer_file(folder)
    assert source is not None, "a SavedModel of texts has a tokenizer"
    lower = spec.settings.get("lowercase", converter.facts["lower_case"])
    return {**table, "padding": vocabulary.write_tokenizer(source, file.with_name(TOKENIZER), lower)}


def _inputs_in_use(inputs: Mapping[str, str], file: Path, outputs: Sequence[str]) -> dict[str, str]:
    """Choose those inputs of texts that the outputs need. InvalidInput where the mask is none of them."""
    model = onnx_graph.load(file)
    onnx_graph.cut(model, outputs)
    needed = {value.name for value in onnx_graph.inputs(model)}
    found = {role: name for role, name in inputs.items() if name in needed}
    if missing := {"input_ids", "attention_mask"} - set(found):
        raise InvalidInput(
            f"the outputs of {file.stem} do not depend on {' and '.join(sorted(missing))}: texts would change with the padding"
            " of their batch",
            remedy="take a model that respects its mask",
        )
    return found


def _longest(converter: Converter, chosen: Reading, wanted: int | None) -> int:
    """Find the most tokens that the network takes. InvalidInput where it does not take as many as are wanted."""
    refused = None
    for length in (wanted,) if wanted else LIMITS:
        try:
            converter.run(_tokens(chosen, length))
            return length
        except InvalidInput as error:
            refused = error
    assert refused is not None
    raise refused


def _blanks(chosen: Reading, table: Mapping[str, Any]) -> list[Array]:
    """Make a batch of nothing, which tells the shapes of the outputs."""
    if chosen.modality is Modality.TEXT:
        return _tokens(chosen, TOKENS)
    (tensor,) = chosen.signature.inputs.values()
    if chosen.modality is Modality.IMAGE:
        size = table["size"]
        shape = [*(size if isinstance(size, list) else (size, size)), 3]
    else:
        axes = table.get("shape") or (tensor.shape or ())[1:]
        shape = [axis if isinstance(axis, int) else LENGTHS[0] * TensorReader.factor(axis or "any") for axis in axes]
    return [np.zeros((ITEMS, *shape), tensor.dtype)]


def _tokens(chosen: Reading, length: int) -> list[Array]:
    """Make texts of so many padding tokens, all of which count."""
    values = {"input_ids": 0, "attention_mask": 1, "token_type_ids": 0}
    dtypes = [chosen.signature.inputs[name].dtype for name in chosen.inputs.values()]
    return [np.full((ITEMS, length), values[role], dtype) for role, dtype in zip(chosen.inputs, dtypes, strict=True)]


def _reference(converter: Converter, chosen: Reading, record: Mapping[str, Any], found: Mapping[str, Array]) -> Reference:
    """Make the reference of TensorFlow's outputs: its taps are made of them by the nodes that make them of the graph's."""
    described = Description.parse(record, converter.name)
    reads = tuple(replace(tap, output=f"tensorflow.{tap.output}") for tap in described.taps)
    used = dict.fromkeys(tap.output for tap in reads)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in used]
    if chosen.modality is Modality.TEXT:
        inputs.append(helper.make_tensor_value_info(onnx_taps.MASK, TensorProto.INT64, [None, None]))
    graph = helper.make_graph([], "taps", inputs, [])
    tail = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx_taps.add_taps(tail, reads, {f"tensorflow.{name}": array for name, array in found.items()}, converter.name)
    session = _session(tail)
    masks = (onnx_taps.MASK,) if chosen.modality is Modality.TEXT else ()
    order = [role if chosen.modality is Modality.TEXT else "input_0" for role in chosen.inputs]

    def run(names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]:
        outputs = converter.run([_fed(feeds, name) for name in order])
        given = {name: outputs[name.removeprefix("tensorflow.")] for name in used}
        return session.run(list(names), given | {name: feeds[name] for name in masks})

    versions = " and ".join(f"{name} {version}" for name, version in converter.facts["versions"].items())
    return Reference(f"TensorFlow's own output ({versions})", run)


def _fed(feeds: Mapping[str, Array], name: str) -> Array:
    """Choose an input of the batch; zeros for token types, where the graph does not need them."""
    return feeds[name] if name in feeds else np.zeros_like(feeds["input_ids"])


def _session(model: onnx.ModelProto) -> Session:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "taps.onnx"
        save_onnx(model, path)
        return Session(path, optimize=False)
