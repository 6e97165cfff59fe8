"""Topwork's client: features of texts, pictures and videos, one call away.

with topwork.Client("127.0.0.1:50051") as client:
    features = client.embed("all-minilm-l6-v2", ["a red bird", "a blue whale"])   # np.asarray(features): (2, 384)
"""

from topwork import errors
from topwork.aio import AsyncClient
from topwork.client import Client
from topwork.encoders import EncoderInfo, OptionInfo, TapInfo, Word
from topwork.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    TopworkError,
    Unavailable,
)
from topwork.features import Features, Numerics, Timings, concatenate

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "EncoderInfo",
    "Features",
    "InvalidInput",
    "NotFound",
    "NotReady",
    "Numerics",
    "OptionInfo",
    "Overloaded",
    "TapInfo",
    "Timings",
    "TooLarge",
    "TopworkError",
    "Unavailable",
    "Word",
    "concatenate",
    "errors",
]
