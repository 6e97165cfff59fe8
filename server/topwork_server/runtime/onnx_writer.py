"""Writes torch modules as ONNX graphs, by torch's two exporters. Export process only."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork_server.errors import ExportFailed, TopworkError
from topwork_server.models import onnx_files
from topwork_server.plugin_api.encoder import Trunk
from topwork_server.types import Array, EncoderSpec

if TYPE_CHECKING:
    import torch

OPSET = {"dynamo": 20, "legacy": 18}


def write_graph(spec: EncoderSpec, trunk: Trunk, module: torch.nn.Module, arguments: dict[str, Array], model: Path) -> None:
    """Write a module as the file `model`, by the exporter that the trunk asks for, or else by the other; `arguments` are inputs
    by name. ExportFailed where neither can."""
    import torch

    module.eval()  # on the wrapper itself: the legacy exporter restores the mode it finds, recursively
    tensors = tuple(torch.from_numpy(arguments[name]) for name in trunk.inputs)
    names: dict[str, Any] = {"input_names": list(trunk.inputs), "output_names": [tap.name for tap in trunk.taps]}
    large = sum(p.numel() * p.element_size() for p in module.state_dict().values()) > onnx_files.EXTERNAL_FROM
    writers = (_write_legacy, _write_dynamo) if trunk.exporter == "legacy" else (_write_dynamo, _write_legacy)
    refusals: list[Exception] = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporters' own deprecations
        for write in writers:  # each has operators that the other lacks
            try:
                write(trunk, module, tensors, names, model, large)
                return
            except (OSError, MemoryError, TopworkError):
                raise
            except Exception as error:  # an exporter fails with errors of any kind
                refusals.append(error)
    raise ExportFailed(
        f"the network of {named(spec, trunk)} has no ONNX graph: {first_line(refusals[0])}",
        remedy="a part of its architecture cannot be written as ONNX; take a model of another architecture",
    ) from refusals[0]


def named(spec: EncoderSpec, trunk: Trunk) -> str:
    """The encoder, with its architecture where its definition says which that is."""
    config = trunk.definition.get("config")
    for described in (trunk.definition, config if isinstance(config, Mapping) else {}):
        for key in ("architecture", "model_type"):
            if isinstance(found := described.get(key), str):
                return f"{spec.name} (architecture {found})"
    return spec.name


def first_line(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    return ": ".join([type(error).__name__, *[line for line in str(error).splitlines() if line.strip()][:1]])


def _write_dynamo(trunk: Trunk, module: Any, tensors: Any, names: Mapping[str, Any], model: Path, large: bool) -> None:
    import torch

    shapes = _shapes(trunk)
    program = torch.onnx.export(
        module, tensors, dynamo=True, opset_version=OPSET["dynamo"], dynamic_shapes=shapes, verbose=False, **names
    )
    assert program is not None
    program.save(str(model), external_data=large)


def _write_legacy(trunk: Trunk, module: Any, tensors: Any, names: Mapping[str, Any], model: Path, large: bool) -> None:
    import torch

    axes = {name: {i: axis for i, axis in enumerate(dims) if isinstance(axis, str)} for name, dims in trunk.inputs.items()}
    axes |= {tap.name: {0: "batch"} | ({1: "rows"} if tap.granularity == "token" else {}) for tap in trunk.taps}
    named = {**names, "opset_version": OPSET["legacy"], "dynamic_axes": axes}
    if not large:
        torch.onnx.export(module, tensors, str(model), dynamo=False, **named)
        return
    with tempfile.TemporaryDirectory() as folder:  # of more than 2 GiB it writes each weight into a file of its own
        parts = Path(folder) / model.name
        torch.onnx.export(module, tensors, str(parts), dynamo=False, **named)
        onnx_files.gather(parts, model)


def _shapes(trunk: Trunk) -> tuple[dict[int, Any], ...]:
    """torch.export's dynamic shapes. Inputs share one Dim a name; "8*n" is a multiple."""
    import torch

    dims: dict[str, Any] = {}

    def dim(axis: str) -> Any:
        factor, _, name = axis.rpartition("*")
        base = dims.setdefault(name, torch.export.Dim(name, min=1, max=4096))
        return int(factor) * base if factor else base

    return tuple({i: dim(axis) for i, axis in enumerate(axes) if isinstance(axis, str)} for axes in trunk.inputs.values())
