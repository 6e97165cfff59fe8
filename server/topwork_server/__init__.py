"""Topwork's server. This page lists all that a plugin author imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topwork_server.blocking_calls import Report, check_caller
    from topwork_server.errors import DiskFull, InvalidInput, TopworkError
    from topwork_server.features import rows_of, starts_of, sums_of
    from topwork_server.models.onnx_files import save as save_onnx
    from topwork_server.models.onnx_graph import node_inputs, node_subgraphs
    from topwork_server.models.torch_compat import prepare_torchvision
    from topwork_server.models.untrusted_graphs import load_onnx
    from topwork_server.plugin_api.average_precision import mean_average_precision
    from topwork_server.plugin_api.boxes import cell_centers, true_boxes
    from topwork_server.plugin_api.chunk_options import ChunkOptions
    from topwork_server.plugin_api.encoder import Encoder, NoOptions, Reference, Trunk, batch_key
    from topwork_server.plugin_api.environments import Environment
    from topwork_server.plugin_api.example_inputs import texts as example_texts
    from topwork_server.plugin_api.hookspecs import hookimpl
    from topwork_server.plugin_api.options import option
    from topwork_server.plugin_api.pretrainer import BaseEncoder, Measure, Pretrainer, PretrainerSpec, PretrainResult
    from topwork_server.plugin_api.sources import SourceUri
    from topwork_server.plugin_api.splits import folds, rest
    from topwork_server.plugin_api.trainer import (
        Examples,
        FeatureView,
        FineTuneDataset,
        FineTuner,
        FineTuneResult,
        FittedHead,
        PretrainedHead,
        Target,
        Trainer,
        TrainerSpec,
        TrainingPlan,
        Trial,
        head_graph,
        linear_graph,
    )
    from topwork_server.plugin_api.untrusted_files import check_file
    from topwork_server.plugin_api.vector_index import IndexSpec, Metric, VectorIndex, VectorSource
    from topwork_server.plugin_api.weight_checks import check_weights
    from topwork_server.runtime.parity import FP32_FLOOR, difference
    from topwork_server.runtime.session import Session
    from topwork_server.types import (
        Array,
        AudioItem,
        EncoderSpec,
        GapRows,
        Granularity,
        ImageItem,
        Item,
        Modality,
        Prompt,
        Refusal,
        Role,
        Sample,
        Tap,
        TextItem,
        Token,
        TokenSpans,
        VideoItem,
        item_kind,
    )

__version__ = "0.1.0"

__all__ = [
    "FP32_FLOOR",
    "Array",
    "AudioItem",
    "BaseEncoder",
    "ChunkOptions",
    "DiskFull",
    "Encoder",
    "EncoderSpec",
    "Environment",
    "Examples",
    "FeatureView",
    "FineTuneDataset",
    "FineTuneResult",
    "FineTuner",
    "FittedHead",
    "GapRows",
    "Granularity",
    "ImageItem",
    "IndexSpec",
    "InvalidInput",
    "Item",
    "Measure",
    "Metric",
    "Modality",
    "NoOptions",
    "PretrainResult",
    "PretrainedHead",
    "Pretrainer",
    "PretrainerSpec",
    "Prompt",
    "Reference",
    "Refusal",
    "Report",
    "Role",
    "Sample",
    "Session",
    "SourceUri",
    "Tap",
    "Target",
    "TextItem",
    "Token",
    "TokenSpans",
    "TopworkError",
    "Trainer",
    "TrainerSpec",
    "TrainingPlan",
    "Trial",
    "Trunk",
    "VectorIndex",
    "VectorSource",
    "VideoItem",
    "batch_key",
    "cell_centers",
    "check_caller",
    "check_file",
    "check_weights",
    "difference",
    "example_texts",
    "folds",
    "head_graph",
    "hookimpl",
    "item_kind",
    "linear_graph",
    "load_onnx",
    "mean_average_precision",
    "node_inputs",
    "node_subgraphs",
    "option",
    "prepare_torchvision",
    "rest",
    "rows_of",
    "save_onnx",
    "starts_of",
    "sums_of",
    "true_boxes",
]

#: The module of each name, and its name there where that is another. A name loads at its first use, so that commands start
#: fast and what only an export needs stays out of a server at rest.
_MODULES = {
    "blocking_calls": "Report check_caller",
    "errors": "DiskFull InvalidInput TopworkError",
    "features": "rows_of starts_of sums_of",
    "models.onnx_files": "save_onnx=save",
    "models.onnx_graph": "node_inputs node_subgraphs",
    "models.torch_compat": "prepare_torchvision",
    "models.untrusted_graphs": "load_onnx",
    "plugin_api.average_precision": "mean_average_precision",
    "plugin_api.boxes": "cell_centers true_boxes",
    "plugin_api.chunk_options": "ChunkOptions",
    "plugin_api.encoder": "Encoder NoOptions Reference Trunk batch_key",
    "plugin_api.environments": "Environment",
    "plugin_api.example_inputs": "example_texts=texts",
    "plugin_api.hookspecs": "hookimpl",
    "plugin_api.options": "option",
    "plugin_api.pretrainer": "BaseEncoder Measure Pretrainer PretrainerSpec PretrainResult",
    "plugin_api.sources": "SourceUri",
    "plugin_api.splits": "folds rest",
    "plugin_api.trainer": "Examples FeatureView FineTuneDataset FineTuneResult FineTuner FittedHead PretrainedHead Target "
    "Trainer TrainerSpec TrainingPlan Trial head_graph linear_graph",
    "plugin_api.untrusted_files": "check_file",
    "plugin_api.vector_index": "IndexSpec Metric VectorIndex VectorSource",
    "plugin_api.weight_checks": "check_weights",
    "runtime.parity": "FP32_FLOOR difference",
    "runtime.session": "Session",
    "types": "Array AudioItem EncoderSpec GapRows Granularity ImageItem Item Modality Prompt Refusal Role Sample Tap TextItem "
    "Token TokenSpans VideoItem item_kind",
}

if not TYPE_CHECKING:  # for a type checker the names are those of the imports above

    def __getattr__(name: str) -> Any:
        """Load a name of `__all__` at its first use."""
        for module, names in _MODULES.items():
            for there in names.split():
                here, _, original = there.partition("=")
                if here == name:
                    found = globals()[name] = getattr(import_module(f"topwork_server.{module}"), original or here)
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
