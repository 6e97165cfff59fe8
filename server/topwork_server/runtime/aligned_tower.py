"""Puts a map to the space of a text encoder on top of a trunk: the graph of the tower is that of the trunk, the map behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from topwork_server import atomic_store
from topwork_server.errors import ExportFailed
from topwork_server.models import fingerprint, onnx_files
from topwork_server.models.artifacts import MODEL
from topwork_server.models.head_graph import ROWS, SCORES
from topwork_server.models.onnx_graph import NodeWriter, convert_opset, opset_of, prune_to, rename_values
from topwork_server.plugin_api.encoder import Reference, Trunk
from topwork_server.runtime.session import Session
from topwork_server.types import AlignedMap, Array, EncoderSpec, Granularity, Tap

TRUNK, MAP = "topwork.trunk/", "topwork.map/"


def describe(spec: EncoderSpec, trunk: Trunk) -> Trunk:
    """The trunk as the tower that it becomes: with one tap, and the map as a part of its definition; without a map as it is.
    ExportFailed where the map was changed, or reads a tap that the trunk has not."""
    aligned = spec.aligned
    if aligned is None:
        return trunk
    if not atomic_store.is_unchanged(Path(aligned.path), aligned.sha256):
        raise ExportFailed(f"{aligned.path} is not what {spec.name} was aligned by", remedy="train its head again")
    dims = {tap.name: tap.dim for tap in trunk.taps if tap.granularity is Granularity.ITEM}
    if lacking := [tap for tap in aligned.taps if tap not in dims]:
        raise ExportFailed(f"{aligned.base} has no tap {lacking[0]} any more", remedy=f"train the head of {spec.name} again")
    reads, gives = _dims(Path(aligned.path))
    if reads != (there := sum(dims[tap] for tap in aligned.taps)):
        what = f"the map of {spec.name} reads {reads} numbers, and {aligned.base} gives {there}"
        raise ExportFailed(what, remedy="train its head again")
    definition = {**trunk.definition, "map": fingerprint.graph_digest(Path(aligned.path)), "map_reads": list(aligned.taps)}
    return replace(trunk, taps=(Tap(spec.default_tap, gives, Granularity.ITEM),), definition=definition, heads=())


def append(aligned: AlignedMap, tap: str, reference: Reference, folder: Path) -> Reference:
    """Put the map behind the trunk's graph in `folder`, whose only output is then `tap`; give what it is compared with: the map,
    run by itself on the rows of the trunk's own reference."""
    _join(folder / MODEL, Path(aligned.path), aligned.taps, tap)
    session = Session(Path(aligned.path), optimize=False)

    def run(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        rows = np.concatenate(reference.run(aligned.taps, feeds), axis=1)
        return session.run([SCORES], {ROWS: rows})

    return Reference(reference.name, run)


def _dims(map: Path) -> tuple[int, int]:
    import onnx

    graph = onnx.load(str(map)).graph
    reads, gives = (value.type.tensor_type.shape.dim[1].dim_value for value in (graph.input[0], graph.output[0]))
    return int(reads), int(gives)


def _join(model: Path, map: Path, taps: Sequence[str], output: str) -> None:
    import onnx
    from onnx import TensorProto, helper

    trunk, small = onnx_files.load_structure(model), onnx.load(str(map))
    prune_to(trunk, *taps)
    later = max(opset_of(trunk), opset_of(small))
    trunk, small = convert_opset(trunk, later), convert_opset(small, later)
    inputs = {value.name for value in trunk.graph.input}
    rename_values(trunk.graph, lambda name: name if name in inputs else TRUNK + name)
    nodes = NodeWriter(f"{MAP}rows/")
    rows = nodes.add("Concat", *(TRUNK + tap for tap in taps), axis=1) if len(taps) > 1 else TRUNK + taps[0]
    outside = {ROWS: rows, SCORES: output}
    dim = small.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    rename_values(small.graph, lambda name: outside.get(name, MAP + name))
    trunk.graph.node.extend([*nodes.made, *small.graph.node])
    trunk.graph.initializer.extend(small.graph.initializer)
    trunk.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", dim]))
    trunk.ir_version = max(trunk.ir_version, small.ir_version)
    onnx.save(trunk, str(model))
