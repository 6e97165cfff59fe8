"""Topwork's client: features of texts, pictures and videos, one call away.

with topwork.Client("127.0.0.1:50051") as client:
    features = client.embed("all-minilm-l6-v2", ["a red bird", "a blue whale"])   # np.asarray(features): (2, 384)
"""

from topwork import errors
from topwork.aio import AsyncClient
from topwork.annotations import box, mask, span
from topwork.client import Client
from topwork.encoders import DeviceInfo, EncoderInfo, OptionInfo, TapInfo, Word
from topwork.errors import (
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    DiskFull,
    InvalidInput,
    JobFailed,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    TopworkError,
    Unavailable,
)
from topwork.features import Features, Numerics, Timings, concatenate
from topwork.heads import Figure, HeadInfo, TrainerInfo
from topwork.indexes import IndexInfo, IndexKind, LiveRecall, OperatingPoint
from topwork.jobs import Job
from topwork.predictions import FoundSpan, Prediction, Predictions
from topwork.probes import ProbeRow, ProbeTable
from topwork.report import Report
from topwork.rows import Rows
from topwork.search_results import Hit, Hits
from topwork.sets import Acknowledged, Pruned, SavedSet, SetInfo, UpdateReport, VersionInfo, WriteReport

__version__ = "0.1.0"

__all__ = [
    "Acknowledged",
    "AlreadyExists",
    "AsyncClient",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "DeviceInfo",
    "DiskFull",
    "EncoderInfo",
    "Features",
    "Figure",
    "FoundSpan",
    "HeadInfo",
    "Hit",
    "Hits",
    "IndexInfo",
    "IndexKind",
    "InvalidInput",
    "Job",
    "JobFailed",
    "LiveRecall",
    "NotFound",
    "NotReady",
    "Numerics",
    "OperatingPoint",
    "OptionInfo",
    "Overloaded",
    "Prediction",
    "Predictions",
    "ProbeRow",
    "ProbeTable",
    "Pruned",
    "Report",
    "Rows",
    "SavedSet",
    "SetInfo",
    "TapInfo",
    "Timings",
    "TooLarge",
    "TopworkError",
    "TrainerInfo",
    "Unavailable",
    "UpdateReport",
    "VersionInfo",
    "Word",
    "WriteReport",
    "box",
    "concatenate",
    "errors",
    "mask",
    "span",
]
