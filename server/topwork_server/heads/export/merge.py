"""Export of trunk, pooling and head as one ONNX file for plain onnxruntime; `model_card.py` explains its use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.heads.export.model_card import model_card, one_clip
from topwork_server.heads.export.pooling_graph import PAIR_MASK, SECOND_INPUT, masks_of, pool, pool_side_by_side, unpool
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head, Pooling, Task
from topwork_server.heads.pooling import TOWERS
from topwork_server.heads.pretrained import pretrained_head
from topwork_server.models import onnx_files
from topwork_server.models.artifacts import MODEL, verify
from topwork_server.models.catalog import Catalog
from topwork_server.models.head_graph import PROBABILITIES, ROWS, SCORES, TYPICALITY
from topwork_server.models.onnx_graph import NodeWriter, all_names, convert_opset, opset_of, prune_to, rename_values
from topwork_server.types import Granularity

if TYPE_CHECKING:
    import onnx

HEAD = "topwork.head/"
BESIDE = "topwork.typicality/"
TRUNK = "topwork.trunk/"
#: Prefix of the second pass, where the trunk reads the two texts of a pair separately.
SECOND = "topwork.second/"
#: An axis name that no trunk uses: an axis of this name and another length would mislead onnxruntime.
TOKENS = "topwork.tokens"
#: Bytes of a file of 2 GiB that are left to the head and to the nodes of the trunk.
ROOM_FOR_HEAD = 64 << 20
#: Key of the model card, in JSON, in the metadata of the file.
METADATA = "topwork"


def export_head(head: Head, store: HeadStore, catalog: Catalog) -> tuple[bytes, str]:
    """Export the ONNX file and its model card, in JSON. NotReady where the head's trunk is missing or has changed."""
    if head.task is Task.FILL:
        raise InvalidInput(
            f"the head {head.name!r} reads the rows of gaps, which one graph cannot find", remedy="call `fill` where it is served"
        )
    if not head.encoder:
        raise NotReady(
            f"the head {head.name!r} was trained on ready vectors of no encoder: there is no trunk to export it with",
            remedy="export heads of sets that an encoder made",
        )
    if len(head.sources) > 1:
        raise InvalidInput(
            f"the head {head.name!r} reads {' and '.join(head.encoders)}, and a file holds one trunk",
            remedy="serve it here, or train one on the taps of a single encoder",
        )
    if any(info.tap.granularity is Granularity.CHUNK for info in head.taps):
        raise InvalidInput(
            f"the head {head.name!r} reads chunks of texts, which are no part of its encoder's graph",
            remedy="serve it here, or train one on another tap",
        )
    entry = catalog.entry(head.encoder)
    if entry.folder is None or entry.manifest is None:
        raise NotReady(f"the encoder {head.encoder} of the head {head.name!r} is not ready", remedy=entry.detail)
    for info in head.taps:
        tap = entry.manifest.tap(info.tap.name)
        if tap is None or tap.fingerprint != info.fingerprint:
            raise NotReady(
                f"the head {head.name!r} stands on fingerprint {info.fingerprint}, and {head.encoder} now has"
                f" {tap.fingerprint if tap else 'no such tap'}",
                remedy=f"train it again, or serve the {head.encoder} that it stands on",
            )
    stored = pretrained_head(catalog, head.name) if head.pretrained else store.find(head.name)
    stored.check_graph()
    trunk = entry.tower_with(head.taps[0].tap.name)
    assert trunk.folder is not None, "all towers are ready"
    assert trunk.manifest is not None, "all towers are ready"
    verify(trunk.folder, trunk.manifest)
    if stored.typicality_graph:
        stored.check_graph(stored.typicality_graph)
    data, description = merge_onnx(trunk.folder / MODEL, stored.graph, stored.head, stored.typicality_graph)
    return data, json.dumps(description)


def merge_onnx(trunk: Path, graph: Path, head: Head, typicality: Path | None = None) -> tuple[bytes, dict[str, Any]]:
    """Merge the graphs of trunk and head; give the file and its model card.

    `trunk` is the model of an encoder's artifact, `graph` that of the head, `typicality` the one beside it. The file has the
    trunk's inputs, the masks that pooling needs, and the outputs `scores`, `probabilities` and, of the last, `typicality`; of the
    trunk it keeps only what the head's tap needs. It imports onnx and holds the trunk about three times in memory: do not call it
    on the event loop.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    model, small = onnx_files.load_structure(trunk), onnx.load(str(graph))
    prune_to(model, *(info.tap.name for info in head.taps))
    _check_size(model, head)
    load_external_data_for_model(model, str(trunk.parent))
    later = max(opset_of(model), opset_of(small))
    model, small = convert_opset(model, later), convert_opset(small, later)
    taps = _free_names(model.graph, head)
    nodes, tap = NodeWriter(f"{HEAD}pooling/"), taps[0]
    if head.parts:
        rows = pool_side_by_side(nodes, head, taps)
    else:
        rows = pool(nodes, head, tap, duplicate_trunk(model.graph, tap) if head.pooling in TOWERS else "")
    rename_values(small.graph, lambda name: rows if name == ROWS else HEAD + name)
    model.graph.node.extend([*nodes.made, *small.graph.node])
    model.graph.initializer.extend(small.graph.initializer)
    _join(model, small)
    _add_ends(model.graph, small.graph, head, tap)
    if typicality:
        _add_typicality(model, convert_opset(onnx.load(str(typicality)), later), rows, head)
    card = model_card(head, model, trunk.parent)
    model.producer_name = "topwork"
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA, value=json.dumps(card))
    return model.SerializeToString(), card


def _check_size(model: onnx.ModelProto, head: Head) -> None:
    weights = onnx_files.weight_bytes(model)
    if weights > onnx_files.LARGEST_FILE - ROOM_FOR_HEAD:
        raise NotReady(
            f"the trunk {head.encoder} has {weights / 1e9:.1f} GB of weights below {head.tap.tap.name}, and a single ONNX file"
            f" holds {onnx_files.LARGEST_FILE / 1e9:.1f}",
            remedy="serve the head beside its trunk, or train one on a lower tap",
        )


def _free_names(graph: onnx.GraphProto, head: Head) -> list[str]:
    """Rename the trunk's values that clash with names of the file; return the names of the taps' values."""
    taken = {SCORES, PROBABILITIES, TYPICALITY, *masks_of(head)}
    inputs = {value.name for value in graph.input}
    if clash := taken & inputs:
        raise NotReady(
            f"the trunk {head.encoder} has an input named {sorted(clash)[0]!r}, which the file needs for itself",
            remedy="give the input another name in the encoder's export",
        )
    found = all_names(graph)
    if not taken & found and not any(name.startswith(HEAD) for name in found):
        return [info.tap.name for info in head.taps]

    def named(name: str) -> str:
        return name if name in inputs else TRUNK + name

    rename_values(graph, named)
    return [named(info.tap.name) for info in head.taps]


def duplicate_trunk(graph: onnx.GraphProto, tap: str) -> str:
    """Add a second pass of the trunk, with its own inputs and the same weights; return the name of its tap."""
    shared = {tensor.name for tensor in graph.initializer}
    own = {value.name for value in graph.input} - shared
    copy = type(graph)()
    copy.node.extend(graph.node)
    copy.input.extend(value for value in graph.input if value.name in own)

    def named(name: str) -> str:
        if name in own:
            return SECOND_INPUT + name
        return name if name in shared else SECOND + name

    rename_values(copy, named)
    for value in copy.input:
        for axis in value.type.tensor_type.shape.dim[1:]:
            axis.dim_param = axis.dim_param and SECOND_INPUT + axis.dim_param
    graph.node.extend(copy.node)
    graph.input.extend(copy.input)
    return SECOND + tap


def _join(model: onnx.ModelProto, small: onnx.ModelProto) -> None:
    """Merge the IR versions and operator sets of both models."""
    model.ir_version = max(model.ir_version, small.ir_version)
    known = {one.domain for one in model.opset_import}
    model.opset_import.extend(one for one in small.opset_import if one.domain not in known)


def _add_ends(graph: onnx.GraphProto, small: onnx.GraphProto, head: Head, tap: str) -> None:
    from onnx import TensorProto, helper

    for mask in masks_of(head):
        tokens = SECOND_INPUT + TOKENS if mask == PAIR_MASK and head.pooling in TOWERS else TOKENS
        graph.input.append(helper.make_tensor_value_info(mask, TensorProto.INT64, ["batch", tokens]))
    nodes = NodeWriter(f"{HEAD}ends/")
    outputs = small.output[0].type.tensor_type.shape.dim[1].dim_value
    kind = small.output[0].type.tensor_type.elem_type  # of numbers DOUBLE
    for name in (SCORES, PROBABILITIES):
        unpool(nodes, head, tap, HEAD + name, name)
        graph.output.append(helper.make_tensor_value_info(name, kind, [*_leading_axes(head), outputs]))
    graph.node.extend(nodes.made)


def _add_typicality(model: onnx.ModelProto, beside: onnx.ModelProto, rows: str, head: Head) -> None:
    """Add the graph of the typicality, which reads the same pooled rows."""
    from onnx import TensorProto, helper

    outside = {ROWS: rows, TYPICALITY: TYPICALITY}
    rename_values(beside.graph, lambda name: outside.get(name, BESIDE + name))
    model.graph.node.extend(beside.graph.node)
    model.graph.initializer.extend(beside.graph.initializer)
    model.graph.output.append(helper.make_tensor_value_info(TYPICALITY, TensorProto.FLOAT, _leading_axes(head)))


def _leading_axes(head: Head) -> list[str | int]:
    """The axes of an output before that of its names."""
    tap = head.tap.tap
    if head.pooling is Pooling.ROWS:
        return ["batch", TOKENS if tap.grid is None else tap.grid[0] * tap.grid[1]]
    return [1 if one_clip(head) else "batch"]
