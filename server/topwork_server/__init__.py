"""Topwork's server. This page lists all that a plugin author imports."""

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.plugin_api.cancellation import check_caller
from topwork_server.plugin_api.encoder import Encoder, NoOptions, Trunk
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
    TrainerTrial,
)
from topwork_server.plugin_api.vector_index import IndexSpec, Metric, VectorIndex, VectorSource
from topwork_server.types import (
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

__version__ = "0.1.0"

__all__ = [
    "Clip",
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
    "Sample",
    "SourceUri",
    "Tap",
    "Target",
    "Text",
    "TokenSpans",
    "TopworkError",
    "Trainer",
    "TrainerSpec",
    "TrainerTrial",
    "Trunk",
    "VectorIndex",
    "VectorSource",
    "check_caller",
    "folds",
    "head_graph",
    "hookimpl",
    "linear_graph",
    "option",
    "rest",
]
