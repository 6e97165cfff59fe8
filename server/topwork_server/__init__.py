"""Topwork's server. This page lists all that a plugin author imports."""

from topwork_server.encoder import Encoder, NoOptions, Trunk
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.hookspecs import hookimpl
from topwork_server.sources import Source
from topwork_server.types import (
    Clip,
    EncoderSpec,
    Granularity,
    Item,
    Modality,
    Picture,
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
    "Granularity",
    "IndexSpec",
    "InvalidInput",
    "Item",
    "Metric",
    "Modality",
    "NoOptions",
    "Picture",
    "Sample",
    "Source",
    "Tap",
    "Text",
    "TokenSpans",
    "TopworkError",
    "Trunk",
    "VectorIndex",
    "Vectors",
    "hookimpl",
]
