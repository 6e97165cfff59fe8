"""Topwork's server. This page lists all that a plugin author imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from topwork_server.errors import DiskFull, InvalidInput, TopworkError
from topwork_server.features import rows_of
from topwork_server.jobs.progress import Report
from topwork_server.models.onnx_graph import node_inputs, node_subgraphs
from topwork_server.models.torch_compat import prepare_torchvision
from topwork_server.plugin_api.cancellation import check_caller
from topwork_server.plugin_api.encoder import Encoder, NoOptions, Trunk, batch_key
from topwork_server.plugin_api.example_inputs import texts as example_texts
from topwork_server.plugin_api.head_graphs import head_graph, linear_graph
from topwork_server.plugin_api.hookspecs import hookimpl
from topwork_server.plugin_api.options import option
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.plugin_api.splits import folds, rest
from topwork_server.plugin_api.trainer import (
    Examples,
    FeatureView,
    FineTuneDataset,
    FineTuner,
    FineTuneResult,
    FittedHead,
    NativeHead,
    Target,
    Trainer,
    TrainerSpec,
    Trial,
)
from topwork_server.plugin_api.vector_index import IndexSpec, Metric, VectorIndex, VectorSource
from topwork_server.ragged_arrays import starts_of, sums_of
from topwork_server.types import (
    Array,
    Clip,
    EncoderSpec,
    Granularity,
    Item,
    Modality,
    Picture,
    Refusal,
    Sample,
    Tap,
    Text,
    TokenSpans,
)

if TYPE_CHECKING:
    from topwork_server.runtime.parity import FP32_FLOOR, difference
    from topwork_server.runtime.session import Session

__version__ = "0.1.0"

#: Loaded at their first use: only an export needs them.
_LOADED_LATE = {
    "FP32_FLOOR": "topwork_server.runtime.parity",
    "Session": "topwork_server.runtime.session",
    "difference": "topwork_server.runtime.parity",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOADED_LATE[name]), name)


__all__ = [
    "FP32_FLOOR",
    "Array",
    "Clip",
    "DiskFull",
    "Encoder",
    "EncoderSpec",
    "Examples",
    "FeatureView",
    "FineTuneDataset",
    "FineTuneResult",
    "FineTuner",
    "FittedHead",
    "Granularity",
    "IndexSpec",
    "InvalidInput",
    "Item",
    "Metric",
    "Modality",
    "NativeHead",
    "NoOptions",
    "Picture",
    "Refusal",
    "Report",
    "Sample",
    "Session",
    "SourceUri",
    "Tap",
    "Target",
    "Text",
    "TokenSpans",
    "TopworkError",
    "Trainer",
    "TrainerSpec",
    "Trial",
    "Trunk",
    "VectorIndex",
    "VectorSource",
    "batch_key",
    "check_caller",
    "difference",
    "example_texts",
    "folds",
    "head_graph",
    "hookimpl",
    "linear_graph",
    "node_inputs",
    "node_subgraphs",
    "option",
    "prepare_torchvision",
    "rest",
    "rows_of",
    "starts_of",
    "sums_of",
]
