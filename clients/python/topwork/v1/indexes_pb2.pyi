from google.protobuf import struct_pb2 as _struct_pb2
from topwork.v1 import encoders_pb2 as _encoders_pb2
from topwork.v1 import jobs_pb2 as _jobs_pb2
from topwork.v1 import sets_pb2 as _sets_pb2
from topwork.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_COSINE: _ClassVar[Metric]
    METRIC_INNER_PRODUCT: _ClassVar[Metric]
    METRIC_L2: _ClassVar[Metric]

class IndexState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INDEX_STATE_UNSPECIFIED: _ClassVar[IndexState]
    INDEX_STATE_BUILDING: _ClassVar[IndexState]
    INDEX_STATE_READY: _ClassVar[IndexState]
    INDEX_STATE_REBUILDING: _ClassVar[IndexState]
    INDEX_STATE_FAILED: _ClassVar[IndexState]
METRIC_UNSPECIFIED: Metric
METRIC_COSINE: Metric
METRIC_INNER_PRODUCT: Metric
METRIC_L2: Metric
INDEX_STATE_UNSPECIFIED: IndexState
INDEX_STATE_BUILDING: IndexState
INDEX_STATE_READY: IndexState
INDEX_STATE_REBUILDING: IndexState
INDEX_STATE_FAILED: IndexState

class IndexKind(_message.Message):
    __slots__ = ("kind", "description", "options", "plugin")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    description: str
    options: _containers.RepeatedCompositeFieldContainer[_encoders_pb2.Option]
    plugin: str
    def __init__(self, kind: _Optional[str] = ..., description: _Optional[str] = ..., options: _Optional[_Iterable[_Union[_encoders_pb2.Option, _Mapping]]] = ..., plugin: _Optional[str] = ...) -> None: ...

class ListKindsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListKindsResponse(_message.Message):
    __slots__ = ("kinds",)
    KINDS_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedCompositeFieldContainer[IndexKind]
    def __init__(self, kinds: _Optional[_Iterable[_Union[IndexKind, _Mapping]]] = ...) -> None: ...

class CreateIndexRequest(_message.Message):
    __slots__ = ("set", "name", "tap", "kind", "metric", "options", "target_recall", "items", "vectors", "stored", "encoder", "fingerprint")
    SET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TARGET_RECALL_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    set: str
    name: str
    tap: str
    kind: str
    metric: Metric
    options: _struct_pb2.Struct
    target_recall: float
    items: _encoders_pb2.Items
    vectors: _types_pb2.Tensor
    stored: _sets_pb2.Strings
    encoder: str
    fingerprint: str
    def __init__(self, set: _Optional[str] = ..., name: _Optional[str] = ..., tap: _Optional[str] = ..., kind: _Optional[str] = ..., metric: _Optional[_Union[Metric, str]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., target_recall: _Optional[float] = ..., items: _Optional[_Union[_encoders_pb2.Items, _Mapping]] = ..., vectors: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., stored: _Optional[_Union[_sets_pb2.Strings, _Mapping]] = ..., encoder: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class OperatingPoint(_message.Message):
    __slots__ = ("effort", "recall", "qps")
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    QPS_FIELD_NUMBER: _ClassVar[int]
    effort: int
    recall: float
    qps: float
    def __init__(self, effort: _Optional[int] = ..., recall: _Optional[float] = ..., qps: _Optional[float] = ...) -> None: ...

class LiveRecall(_message.Message):
    __slots__ = ("filtered", "above", "up_to", "searches", "recall")
    FILTERED_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    UP_TO_FIELD_NUMBER: _ClassVar[int]
    SEARCHES_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    filtered: bool
    above: float
    up_to: float
    searches: int
    recall: float
    def __init__(self, filtered: _Optional[bool] = ..., above: _Optional[float] = ..., up_to: _Optional[float] = ..., searches: _Optional[int] = ..., recall: _Optional[float] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("set", "name", "tap", "fingerprint", "kind", "built", "metric", "dim", "state", "detail", "version", "rows", "delta_rows", "deleted_rows", "target_recall", "recall", "effort", "operating_points", "held_out", "build_seconds", "disk_bytes", "memory_bytes", "job", "options", "own_queries", "live_recall", "damage")
    SET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BUILT_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DELTA_ROWS_FIELD_NUMBER: _ClassVar[int]
    DELETED_ROWS_FIELD_NUMBER: _ClassVar[int]
    TARGET_RECALL_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    OPERATING_POINTS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    OWN_QUERIES_FIELD_NUMBER: _ClassVar[int]
    LIVE_RECALL_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    set: str
    name: str
    tap: str
    fingerprint: str
    kind: str
    built: str
    metric: Metric
    dim: int
    state: IndexState
    detail: str
    version: int
    rows: int
    delta_rows: int
    deleted_rows: int
    target_recall: float
    recall: float
    effort: int
    operating_points: _containers.RepeatedCompositeFieldContainer[OperatingPoint]
    held_out: int
    build_seconds: float
    disk_bytes: int
    memory_bytes: int
    job: _jobs_pb2.Job
    options: _struct_pb2.Struct
    own_queries: bool
    live_recall: _containers.RepeatedCompositeFieldContainer[LiveRecall]
    damage: str
    def __init__(self, set: _Optional[str] = ..., name: _Optional[str] = ..., tap: _Optional[str] = ..., fingerprint: _Optional[str] = ..., kind: _Optional[str] = ..., built: _Optional[str] = ..., metric: _Optional[_Union[Metric, str]] = ..., dim: _Optional[int] = ..., state: _Optional[_Union[IndexState, str]] = ..., detail: _Optional[str] = ..., version: _Optional[int] = ..., rows: _Optional[int] = ..., delta_rows: _Optional[int] = ..., deleted_rows: _Optional[int] = ..., target_recall: _Optional[float] = ..., recall: _Optional[float] = ..., effort: _Optional[int] = ..., operating_points: _Optional[_Iterable[_Union[OperatingPoint, _Mapping]]] = ..., held_out: _Optional[int] = ..., build_seconds: _Optional[float] = ..., disk_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., job: _Optional[_Union[_jobs_pb2.Job, _Mapping]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., own_queries: _Optional[bool] = ..., live_recall: _Optional[_Iterable[_Union[LiveRecall, _Mapping]]] = ..., damage: _Optional[str] = ...) -> None: ...

class ListIndexesRequest(_message.Message):
    __slots__ = ("set",)
    SET_FIELD_NUMBER: _ClassVar[int]
    set: str
    def __init__(self, set: _Optional[str] = ...) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes",)
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    def __init__(self, indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ...) -> None: ...

class GetIndexRequest(_message.Message):
    __slots__ = ("set", "name")
    SET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    set: str
    name: str
    def __init__(self, set: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RebuildIndexRequest(_message.Message):
    __slots__ = ("set", "name")
    SET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    set: str
    name: str
    def __init__(self, set: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DropIndexRequest(_message.Message):
    __slots__ = ("set", "name")
    SET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    set: str
    name: str
    def __init__(self, set: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DropIndexResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("set", "index", "items", "vectors", "stored", "encoder", "fingerprint", "k", "within", "where", "every_row", "columns", "all_columns", "with_vectors", "exact", "effort", "offset", "metric")
    SET_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    EVERY_ROW_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ALL_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTORS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    EFFORT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    set: str
    index: str
    items: _encoders_pb2.Items
    vectors: _types_pb2.Tensor
    stored: _sets_pb2.Strings
    encoder: str
    fingerprint: str
    k: int
    within: float
    where: str
    every_row: bool
    columns: _containers.RepeatedScalarFieldContainer[str]
    all_columns: bool
    with_vectors: bool
    exact: bool
    effort: int
    offset: int
    metric: Metric
    def __init__(self, set: _Optional[str] = ..., index: _Optional[str] = ..., items: _Optional[_Union[_encoders_pb2.Items, _Mapping]] = ..., vectors: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., stored: _Optional[_Union[_sets_pb2.Strings, _Mapping]] = ..., encoder: _Optional[str] = ..., fingerprint: _Optional[str] = ..., k: _Optional[int] = ..., within: _Optional[float] = ..., where: _Optional[str] = ..., every_row: _Optional[bool] = ..., columns: _Optional[_Iterable[str]] = ..., all_columns: _Optional[bool] = ..., with_vectors: _Optional[bool] = ..., exact: _Optional[bool] = ..., effort: _Optional[int] = ..., offset: _Optional[int] = ..., metric: _Optional[_Union[Metric, str]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("counts", "ids", "scores", "rows", "spans", "metadata", "vectors", "metric", "version", "timings", "search_seconds", "strategy", "unindexed", "rows_compared")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    UNINDEXED_FIELD_NUMBER: _ClassVar[int]
    ROWS_COMPARED_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _types_pb2.Tensor
    rows: _types_pb2.Tensor
    spans: _types_pb2.Spans
    metadata: _containers.RepeatedCompositeFieldContainer[_sets_pb2.Column]
    vectors: _types_pb2.TapFeatures
    metric: Metric
    version: int
    timings: _encoders_pb2.Timings
    search_seconds: float
    strategy: str
    unindexed: bool
    rows_compared: int
    def __init__(self, counts: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., rows: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., spans: _Optional[_Union[_types_pb2.Spans, _Mapping]] = ..., metadata: _Optional[_Iterable[_Union[_sets_pb2.Column, _Mapping]]] = ..., vectors: _Optional[_Union[_types_pb2.TapFeatures, _Mapping]] = ..., metric: _Optional[_Union[Metric, str]] = ..., version: _Optional[int] = ..., timings: _Optional[_Union[_encoders_pb2.Timings, _Mapping]] = ..., search_seconds: _Optional[float] = ..., strategy: _Optional[str] = ..., unindexed: _Optional[bool] = ..., rows_compared: _Optional[int] = ...) -> None: ...
