from google.protobuf import struct_pb2 as _struct_pb2
from topwork.v1 import encoders_pb2 as _encoders_pb2
from topwork.v1 import jobs_pb2 as _jobs_pb2
from topwork.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_CLASSIFICATION: _ClassVar[Task]
    TASK_MULTI_LABEL: _ClassVar[Task]
    TASK_REGRESSION: _ClassVar[Task]
    TASK_TAGGING: _ClassVar[Task]
    TASK_QUESTION_ANSWERING: _ClassVar[Task]
    TASK_SEGMENTATION: _ClassVar[Task]
    TASK_FILL: _ClassVar[Task]
    TASK_DETECTION: _ClassVar[Task]
    TASK_ALIGNMENT: _ClassVar[Task]

class HeadState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEAD_STATE_UNSPECIFIED: _ClassVar[HeadState]
    HEAD_STATE_TRAINING: _ClassVar[HeadState]
    HEAD_STATE_READY: _ClassVar[HeadState]
    HEAD_STATE_FAILED: _ClassVar[HeadState]

class Abstention(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABSTENTION_UNSPECIFIED: _ClassVar[Abstention]
    ABSTENTION_UNSURE: _ClassVar[Abstention]
    ABSTENTION_UNLIKE: _ClassVar[Abstention]
TASK_UNSPECIFIED: Task
TASK_CLASSIFICATION: Task
TASK_MULTI_LABEL: Task
TASK_REGRESSION: Task
TASK_TAGGING: Task
TASK_QUESTION_ANSWERING: Task
TASK_SEGMENTATION: Task
TASK_FILL: Task
TASK_DETECTION: Task
TASK_ALIGNMENT: Task
HEAD_STATE_UNSPECIFIED: HeadState
HEAD_STATE_TRAINING: HeadState
HEAD_STATE_READY: HeadState
HEAD_STATE_FAILED: HeadState
ABSTENTION_UNSPECIFIED: Abstention
ABSTENTION_UNSURE: Abstention
ABSTENTION_UNLIKE: Abstention

class Trainer(_message.Message):
    __slots__ = ("kind", "description", "options", "plugin", "tasks", "needs_inputs", "needs_descriptions", "min_per_class")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_INPUTS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_DESCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    MIN_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    description: str
    options: _containers.RepeatedCompositeFieldContainer[_encoders_pb2.Option]
    plugin: str
    tasks: _containers.RepeatedScalarFieldContainer[Task]
    needs_inputs: bool
    needs_descriptions: bool
    min_per_class: int
    def __init__(self, kind: _Optional[str] = ..., description: _Optional[str] = ..., options: _Optional[_Iterable[_Union[_encoders_pb2.Option, _Mapping]]] = ..., plugin: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[Task, str]]] = ..., needs_inputs: _Optional[bool] = ..., needs_descriptions: _Optional[bool] = ..., min_per_class: _Optional[int] = ...) -> None: ...

class ListTrainersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTrainersResponse(_message.Message):
    __slots__ = ("trainers",)
    TRAINERS_FIELD_NUMBER: _ClassVar[int]
    trainers: _containers.RepeatedCompositeFieldContainer[Trainer]
    def __init__(self, trainers: _Optional[_Iterable[_Union[Trainer, _Mapping]]] = ...) -> None: ...

class TrainRequest(_message.Message):
    __slots__ = ("set", "target", "name", "kind", "task", "taps", "poolings", "options", "where", "test_where", "group", "folds", "seed", "version", "unlabeled", "descriptions", "replace", "weight", "combine", "also")
    class DescriptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AlsoEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SET_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    POOLINGS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    TEST_WHERE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FOLDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNLABELED_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    COMBINE_FIELD_NUMBER: _ClassVar[int]
    ALSO_FIELD_NUMBER: _ClassVar[int]
    set: str
    target: str
    name: str
    kind: str
    task: Task
    taps: _containers.RepeatedScalarFieldContainer[str]
    poolings: _containers.RepeatedScalarFieldContainer[str]
    options: _struct_pb2.Struct
    where: str
    test_where: str
    group: str
    folds: int
    seed: int
    version: int
    unlabeled: str
    descriptions: _containers.ScalarMap[str, str]
    replace: bool
    weight: str
    combine: bool
    also: _containers.ScalarMap[str, float]
    def __init__(self, set: _Optional[str] = ..., target: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ..., task: _Optional[_Union[Task, str]] = ..., taps: _Optional[_Iterable[str]] = ..., poolings: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., where: _Optional[str] = ..., test_where: _Optional[str] = ..., group: _Optional[str] = ..., folds: _Optional[int] = ..., seed: _Optional[int] = ..., version: _Optional[int] = ..., unlabeled: _Optional[str] = ..., descriptions: _Optional[_Mapping[str, str]] = ..., replace: _Optional[bool] = ..., weight: _Optional[str] = ..., combine: _Optional[bool] = ..., also: _Optional[_Mapping[str, float]] = ...) -> None: ...

class MetricValue(_message.Message):
    __slots__ = ("name", "value", "low", "high")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    low: float
    high: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("name", "state", "detail", "job", "task", "kind", "set", "version", "target", "encoder", "tap", "pooling", "fingerprint", "names", "metrics", "baseline", "estimate", "options", "chosen", "labeled", "unlabeled", "seed", "temperature", "max_abs_error", "created", "training_seconds", "bytes", "pretrained", "warnings", "server_version", "weight", "recent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    TAP_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    LABELED_FIELD_NUMBER: _ClassVar[int]
    UNLABELED_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    TRAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PRETRAINED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: HeadState
    detail: str
    job: _jobs_pb2.Job
    task: Task
    kind: str
    set: str
    version: int
    target: str
    encoder: str
    tap: str
    pooling: str
    fingerprint: str
    names: _containers.RepeatedScalarFieldContainer[str]
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    baseline: _containers.RepeatedCompositeFieldContainer[MetricValue]
    estimate: str
    options: _struct_pb2.Struct
    chosen: _struct_pb2.Struct
    labeled: int
    unlabeled: int
    seed: int
    temperature: float
    max_abs_error: float
    created: float
    training_seconds: float
    bytes: int
    pretrained: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    server_version: str
    weight: str
    recent: LabelShift
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[HeadState, str]] = ..., detail: _Optional[str] = ..., job: _Optional[_Union[_jobs_pb2.Job, _Mapping]] = ..., task: _Optional[_Union[Task, str]] = ..., kind: _Optional[str] = ..., set: _Optional[str] = ..., version: _Optional[int] = ..., target: _Optional[str] = ..., encoder: _Optional[str] = ..., tap: _Optional[str] = ..., pooling: _Optional[str] = ..., fingerprint: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., baseline: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., estimate: _Optional[str] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., chosen: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., labeled: _Optional[int] = ..., unlabeled: _Optional[int] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., max_abs_error: _Optional[float] = ..., created: _Optional[float] = ..., training_seconds: _Optional[float] = ..., bytes: _Optional[int] = ..., pretrained: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ..., server_version: _Optional[str] = ..., weight: _Optional[str] = ..., recent: _Optional[_Union[LabelShift, _Mapping]] = ...) -> None: ...

class LabelShift(_message.Message):
    __slots__ = ("items", "shares", "p_value", "warning")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    items: int
    shares: _containers.RepeatedCompositeFieldContainer[ClassShare]
    p_value: float
    warning: str
    def __init__(self, items: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[ClassShare, _Mapping]]] = ..., p_value: _Optional[float] = ..., warning: _Optional[str] = ...) -> None: ...

class ClassShare(_message.Message):
    __slots__ = ("name", "evaluated", "predicted", "estimated", "low", "high")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    name: str
    evaluated: float
    predicted: float
    estimated: float
    low: float
    high: float
    def __init__(self, name: _Optional[str] = ..., evaluated: _Optional[float] = ..., predicted: _Optional[float] = ..., estimated: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class ListHeadsRequest(_message.Message):
    __slots__ = ("encoder",)
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    def __init__(self, encoder: _Optional[str] = ...) -> None: ...

class ListHeadsResponse(_message.Message):
    __slots__ = ("heads",)
    HEADS_FIELD_NUMBER: _ClassVar[int]
    heads: _containers.RepeatedCompositeFieldContainer[Head]
    def __init__(self, heads: _Optional[_Iterable[_Union[Head, _Mapping]]] = ...) -> None: ...

class GetHeadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DropHeadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DropHeadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("name", "page")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    page: bool
    def __init__(self, name: _Optional[str] = ..., page: _Optional[bool] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("json", "page")
    JSON_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    json: str
    page: str
    def __init__(self, json: _Optional[str] = ..., page: _Optional[str] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("sets", "target", "taps", "poolings", "task", "kind", "options", "where", "group", "folds", "seed", "weight")
    SETS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    POOLINGS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    FOLDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    sets: _containers.RepeatedScalarFieldContainer[str]
    target: str
    taps: _containers.RepeatedScalarFieldContainer[str]
    poolings: _containers.RepeatedScalarFieldContainer[str]
    task: Task
    kind: str
    options: _struct_pb2.Struct
    where: str
    group: str
    folds: int
    seed: int
    weight: str
    def __init__(self, sets: _Optional[_Iterable[str]] = ..., target: _Optional[str] = ..., taps: _Optional[_Iterable[str]] = ..., poolings: _Optional[_Iterable[str]] = ..., task: _Optional[_Union[Task, str]] = ..., kind: _Optional[str] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., where: _Optional[str] = ..., group: _Optional[str] = ..., folds: _Optional[int] = ..., seed: _Optional[int] = ..., weight: _Optional[str] = ...) -> None: ...

class PredictSettings(_message.Message):
    __slots__ = ("heads", "top", "features", "options", "skip_bad_items", "priority", "coverage", "abstain", "unlike", "min_score", "max_overlap", "max_boxes")
    HEADS_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SKIP_BAD_ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    ABSTAIN_FIELD_NUMBER: _ClassVar[int]
    UNLIKE_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    MAX_BOXES_FIELD_NUMBER: _ClassVar[int]
    heads: _containers.RepeatedScalarFieldContainer[str]
    top: int
    features: bool
    options: _struct_pb2.Struct
    skip_bad_items: bool
    priority: _encoders_pb2.Priority
    coverage: float
    abstain: float
    unlike: float
    min_score: float
    max_overlap: float
    max_boxes: int
    def __init__(self, heads: _Optional[_Iterable[str]] = ..., top: _Optional[int] = ..., features: _Optional[bool] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., skip_bad_items: _Optional[bool] = ..., priority: _Optional[_Union[_encoders_pb2.Priority, str]] = ..., coverage: _Optional[float] = ..., abstain: _Optional[float] = ..., unlike: _Optional[float] = ..., min_score: _Optional[float] = ..., max_overlap: _Optional[float] = ..., max_boxes: _Optional[int] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("settings", "items", "vectors", "stored", "fingerprint")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    settings: PredictSettings
    items: _encoders_pb2.Items
    vectors: _types_pb2.Tensor
    stored: StoredItems
    fingerprint: str
    def __init__(self, settings: _Optional[_Union[PredictSettings, _Mapping]] = ..., items: _Optional[_Union[_encoders_pb2.Items, _Mapping]] = ..., vectors: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., stored: _Optional[_Union[StoredItems, _Mapping]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class StoredItems(_message.Message):
    __slots__ = ("set", "ids")
    SET_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    set: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, set: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class PredictStreamRequest(_message.Message):
    __slots__ = ("settings", "items", "chunk")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    settings: PredictSettings
    items: _encoders_pb2.Items
    chunk: bytes
    def __init__(self, settings: _Optional[_Union[PredictSettings, _Mapping]] = ..., items: _Optional[_Union[_encoders_pb2.Items, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class FoundSpan(_message.Message):
    __slots__ = ("start", "end", "label", "probability", "part")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    label: str
    probability: float
    part: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., label: _Optional[str] = ..., probability: _Optional[float] = ..., part: _Optional[int] = ...) -> None: ...

class FoundSpans(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[FoundSpan]
    def __init__(self, spans: _Optional[_Iterable[_Union[FoundSpan, _Mapping]]] = ...) -> None: ...

class DetectedBox(_message.Message):
    __slots__ = ("x0", "y0", "x1", "y1", "label", "score")
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    score: float
    def __init__(self, x0: _Optional[float] = ..., y0: _Optional[float] = ..., x1: _Optional[float] = ..., y1: _Optional[float] = ..., label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class DetectedBoxes(_message.Message):
    __slots__ = ("boxes",)
    BOXES_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedCompositeFieldContainer[DetectedBox]
    def __init__(self, boxes: _Optional[_Iterable[_Union[DetectedBox, _Mapping]]] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("head", "task", "names", "probabilities", "best", "values", "interval", "spans", "masks", "confidences", "boxes", "fingerprint", "version", "candidates", "typicality", "abstained", "threshold", "detections")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TYPICALITY_FIELD_NUMBER: _ClassVar[int]
    ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    head: str
    task: Task
    names: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _types_pb2.Tensor
    best: _types_pb2.Tensor
    values: _types_pb2.Tensor
    interval: float
    spans: _containers.RepeatedCompositeFieldContainer[FoundSpans]
    masks: _types_pb2.Tensor
    confidences: _types_pb2.Tensor
    boxes: _types_pb2.Tensor
    fingerprint: str
    version: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidates]
    typicality: _types_pb2.Tensor
    abstained: _containers.RepeatedScalarFieldContainer[Abstention]
    threshold: float
    detections: _containers.RepeatedCompositeFieldContainer[DetectedBoxes]
    def __init__(self, head: _Optional[str] = ..., task: _Optional[_Union[Task, str]] = ..., names: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., best: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., values: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., interval: _Optional[float] = ..., spans: _Optional[_Iterable[_Union[FoundSpans, _Mapping]]] = ..., masks: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., confidences: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., boxes: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., fingerprint: _Optional[str] = ..., version: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidates, _Mapping]]] = ..., typicality: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., abstained: _Optional[_Iterable[_Union[Abstention, str]]] = ..., threshold: _Optional[float] = ..., detections: _Optional[_Iterable[_Union[DetectedBoxes, _Mapping]]] = ...) -> None: ...

class Candidates(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, names: _Optional[_Iterable[int]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("predictions", "features", "notes", "failures", "timings")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[Predictions]
    features: _containers.RepeatedCompositeFieldContainer[_types_pb2.TapFeatures]
    notes: _containers.RepeatedCompositeFieldContainer[_encoders_pb2.Note]
    failures: _containers.RepeatedCompositeFieldContainer[_encoders_pb2.Failure]
    timings: _encoders_pb2.Timings
    def __init__(self, predictions: _Optional[_Iterable[_Union[Predictions, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[_types_pb2.TapFeatures, _Mapping]]] = ..., notes: _Optional[_Iterable[_Union[_encoders_pb2.Note, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[_encoders_pb2.Failure, _Mapping]]] = ..., timings: _Optional[_Union[_encoders_pb2.Timings, _Mapping]] = ...) -> None: ...

class ExportHeadRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ExportHeadResponse(_message.Message):
    __slots__ = ("chunk", "total", "description")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    total: int
    description: str
    def __init__(self, chunk: _Optional[bytes] = ..., total: _Optional[int] = ..., description: _Optional[str] = ...) -> None: ...
