"""Topwork's server. This page lists all that a plugin author imports."""

from topwork_server.caller import check_caller
from topwork_server.encoder import Encoder, NoOptions, Trunk
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.head_graph import head_graph, linear_graph
from topwork_server.hookspecs import hookimpl
from topwork_server.options import option
from topwork_server.sources import Source
from topwork_server.splits import folds, rest
from topwork_server.trainer import (
    Examples,
    Fitted,
    Lesson,
    NativeHead,
    Target,
    Trainer,
    TrainerSpec,
    Trial,
    Tuned,
    Tuner,
    View,
)
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
from topwork_server.vector_index import IndexSpec, Metric, VectorIndex, Vectors

__version__ = "0.1.0"

__all__ = [
    "Clip",
    "Encoder",
    "EncoderSpec",
    "Examples",
    "Fitted",
    "Granularity",
    "IndexSpec",
    "InvalidInput",
    "Item",
    "Lesson",
    "Metric",
    "Modality",
    "NativeHead",
    "NoOptions",
    "Picture",
    "Refusal",
    "Sample",
    "Source",
    "Tap",
    "Target",
    "Text",
    "TokenSpans",
    "TopworkError",
    "Trainer",
    "TrainerSpec",
    "Trial",
    "Trunk",
    "Tuned",
    "Tuner",
    "VectorIndex",
    "Vectors",
    "View",
    "check_caller",
    "folds",
    "head_graph",
    "hookimpl",
    "linear_graph",
    "option",
    "rest",
]
