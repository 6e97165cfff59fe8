from google.protobuf import struct_pb2 as _struct_pb2
from topwork.v1 import jobs_pb2 as _jobs_pb2
from topwork.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncoderState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODER_STATE_UNSPECIFIED: _ClassVar[EncoderState]
    ENCODER_STATE_ABSENT: _ClassVar[EncoderState]
    ENCODER_STATE_FETCHED: _ClassVar[EncoderState]
    ENCODER_STATE_EXPORTING: _ClassVar[EncoderState]
    ENCODER_STATE_READY: _ClassVar[EncoderState]
    ENCODER_STATE_LOADED: _ClassVar[EncoderState]
    ENCODER_STATE_FAILED: _ClassVar[EncoderState]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_QUERY: _ClassVar[Role]
    ROLE_DOCUMENT: _ClassVar[Role]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
ENCODER_STATE_UNSPECIFIED: EncoderState
ENCODER_STATE_ABSENT: EncoderState
ENCODER_STATE_FETCHED: EncoderState
ENCODER_STATE_EXPORTING: EncoderState
ENCODER_STATE_READY: EncoderState
ENCODER_STATE_LOADED: EncoderState
ENCODER_STATE_FAILED: EncoderState
ROLE_UNSPECIFIED: Role
ROLE_QUERY: Role
ROLE_DOCUMENT: Role
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority

class Option(_message.Message):
    __slots__ = ("name", "type", "default", "description", "schema")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    default: str
    description: str
    schema: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., default: _Optional[str] = ..., description: _Optional[str] = ..., schema: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("name", "text", "role", "default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    role: Role
    default: bool
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., default: _Optional[bool] = ...) -> None: ...

class Encoder(_message.Message):
    __slots__ = ("name", "modality", "taps", "default_tap", "parameters", "trained_on", "license", "source", "description", "state", "detail", "numerics", "options", "plugin", "has_vocabulary", "artifact_bytes", "counters", "devices", "unused_weights", "modalities", "towers", "heads", "prompts")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TAP_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_ON_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    HAS_VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    UNUSED_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    TOWERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    modality: _types_pb2.Modality
    taps: _containers.RepeatedCompositeFieldContainer[_types_pb2.Tap]
    default_tap: str
    parameters: int
    trained_on: str
    license: str
    source: str
    description: str
    state: EncoderState
    detail: str
    numerics: _types_pb2.Numerics
    options: _containers.RepeatedCompositeFieldContainer[Option]
    plugin: str
    has_vocabulary: bool
    artifact_bytes: int
    counters: _containers.ScalarMap[str, int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    unused_weights: _containers.RepeatedScalarFieldContainer[str]
    modalities: _containers.RepeatedScalarFieldContainer[_types_pb2.Modality]
    towers: _containers.RepeatedCompositeFieldContainer[Tower]
    heads: _containers.RepeatedScalarFieldContainer[str]
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    def __init__(self, name: _Optional[str] = ..., modality: _Optional[_Union[_types_pb2.Modality, str]] = ..., taps: _Optional[_Iterable[_Union[_types_pb2.Tap, _Mapping]]] = ..., default_tap: _Optional[str] = ..., parameters: _Optional[int] = ..., trained_on: _Optional[str] = ..., license: _Optional[str] = ..., source: _Optional[str] = ..., description: _Optional[str] = ..., state: _Optional[_Union[EncoderState, str]] = ..., detail: _Optional[str] = ..., numerics: _Optional[_Union[_types_pb2.Numerics, _Mapping]] = ..., options: _Optional[_Iterable[_Union[Option, _Mapping]]] = ..., plugin: _Optional[str] = ..., has_vocabulary: _Optional[bool] = ..., artifact_bytes: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., unused_weights: _Optional[_Iterable[str]] = ..., modalities: _Optional[_Iterable[_Union[_types_pb2.Modality, str]]] = ..., towers: _Optional[_Iterable[_Union[Tower, _Mapping]]] = ..., heads: _Optional[_Iterable[str]] = ..., prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ...) -> None: ...

class Tower(_message.Message):
    __slots__ = ("modality", "taps", "parameters", "numerics", "devices")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    modality: _types_pb2.Modality
    taps: _containers.RepeatedScalarFieldContainer[str]
    parameters: int
    numerics: _types_pb2.Numerics
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, modality: _Optional[_Union[_types_pb2.Modality, str]] = ..., taps: _Optional[_Iterable[str]] = ..., parameters: _Optional[int] = ..., numerics: _Optional[_Union[_types_pb2.Numerics, _Mapping]] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("numerics", "invariance", "samples_per_second", "taps", "parity", "detail")
    class ParityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    INVARIANCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    numerics: _types_pb2.Numerics
    invariance: float
    samples_per_second: float
    taps: _containers.RepeatedScalarFieldContainer[str]
    parity: _containers.ScalarMap[str, float]
    detail: str
    def __init__(self, numerics: _Optional[_Union[_types_pb2.Numerics, _Mapping]] = ..., invariance: _Optional[float] = ..., samples_per_second: _Optional[float] = ..., taps: _Optional[_Iterable[str]] = ..., parity: _Optional[_Mapping[str, float]] = ..., detail: _Optional[str] = ...) -> None: ...

class ListEncodersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEncodersResponse(_message.Message):
    __slots__ = ("encoders",)
    ENCODERS_FIELD_NUMBER: _ClassVar[int]
    encoders: _containers.RepeatedCompositeFieldContainer[Encoder]
    def __init__(self, encoders: _Optional[_Iterable[_Union[Encoder, _Mapping]]] = ...) -> None: ...

class GetEncoderRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EmbedSettings(_message.Message):
    __slots__ = ("encoder", "taps", "dtype", "normalize", "dimensions", "options", "fingerprint", "skip_bad_items", "priority", "role")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SKIP_BAD_ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    taps: _containers.RepeatedScalarFieldContainer[str]
    dtype: _types_pb2.DType
    normalize: bool
    dimensions: int
    options: _struct_pb2.Struct
    fingerprint: str
    skip_bad_items: bool
    priority: Priority
    role: Role
    def __init__(self, encoder: _Optional[str] = ..., taps: _Optional[_Iterable[str]] = ..., dtype: _Optional[_Union[_types_pb2.DType, str]] = ..., normalize: _Optional[bool] = ..., dimensions: _Optional[int] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., fingerprint: _Optional[str] = ..., skip_bad_items: _Optional[bool] = ..., priority: _Optional[_Union[Priority, str]] = ..., role: _Optional[_Union[Role, str]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("settings", "items")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    settings: EmbedSettings
    items: _containers.RepeatedCompositeFieldContainer[_types_pb2.Item]
    def __init__(self, settings: _Optional[_Union[EmbedSettings, _Mapping]] = ..., items: _Optional[_Iterable[_Union[_types_pb2.Item, _Mapping]]] = ...) -> None: ...

class Note(_message.Message):
    __slots__ = ("item", "counts")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ITEM_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    item: int
    counts: _containers.ScalarMap[str, int]
    def __init__(self, item: _Optional[int] = ..., counts: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("item", "code", "message", "remedy")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    item: int
    code: int
    message: str
    remedy: str
    def __init__(self, item: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("preprocess", "queue", "compute", "total")
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    preprocess: float
    queue: float
    compute: float
    total: float
    def __init__(self, preprocess: _Optional[float] = ..., queue: _Optional[float] = ..., compute: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("features", "notes", "failures", "numerics", "timings")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[_types_pb2.TapFeatures]
    notes: _containers.RepeatedCompositeFieldContainer[Note]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    numerics: _types_pb2.Numerics
    timings: Timings
    def __init__(self, features: _Optional[_Iterable[_Union[_types_pb2.TapFeatures, _Mapping]]] = ..., notes: _Optional[_Iterable[_Union[Note, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., numerics: _Optional[_Union[_types_pb2.Numerics, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class EmbedStreamRequest(_message.Message):
    __slots__ = ("settings", "items", "chunk")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    settings: EmbedSettings
    items: Items
    chunk: bytes
    def __init__(self, settings: _Optional[_Union[EmbedSettings, _Mapping]] = ..., items: _Optional[_Union[Items, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class Items(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_types_pb2.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[_types_pb2.Item, _Mapping]]] = ...) -> None: ...

class NearestWordsRequest(_message.Message):
    __slots__ = ("encoder", "items", "k", "options")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    items: _containers.RepeatedCompositeFieldContainer[_types_pb2.Item]
    k: int
    options: _struct_pb2.Struct
    def __init__(self, encoder: _Optional[str] = ..., items: _Optional[_Iterable[_Union[_types_pb2.Item, _Mapping]]] = ..., k: _Optional[int] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("word", "score")
    WORD_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    word: str
    score: float
    def __init__(self, word: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Words(_message.Message):
    __slots__ = ("words",)
    WORDS_FIELD_NUMBER: _ClassVar[int]
    words: _containers.RepeatedCompositeFieldContainer[Word]
    def __init__(self, words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ...) -> None: ...

class NearestWordsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Words]
    def __init__(self, results: _Optional[_Iterable[_Union[Words, _Mapping]]] = ...) -> None: ...

class FillRequest(_message.Message):
    __slots__ = ("settings", "items", "k", "targets")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    settings: EmbedSettings
    items: _containers.RepeatedCompositeFieldContainer[_types_pb2.Item]
    k: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, settings: _Optional[_Union[EmbedSettings, _Mapping]] = ..., items: _Optional[_Iterable[_Union[_types_pb2.Item, _Mapping]]] = ..., k: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ...) -> None: ...

class FillWord(_message.Message):
    __slots__ = ("word", "probability", "entry")
    WORD_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    word: str
    probability: float
    entry: int
    def __init__(self, word: _Optional[str] = ..., probability: _Optional[float] = ..., entry: _Optional[int] = ...) -> None: ...

class FilledGap(_message.Message):
    __slots__ = ("start", "end", "part", "words")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    part: int
    words: _containers.RepeatedCompositeFieldContainer[FillWord]
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., part: _Optional[int] = ..., words: _Optional[_Iterable[_Union[FillWord, _Mapping]]] = ...) -> None: ...

class FilledGaps(_message.Message):
    __slots__ = ("gaps",)
    GAPS_FIELD_NUMBER: _ClassVar[int]
    gaps: _containers.RepeatedCompositeFieldContainer[FilledGap]
    def __init__(self, gaps: _Optional[_Iterable[_Union[FilledGap, _Mapping]]] = ...) -> None: ...

class FillResponse(_message.Message):
    __slots__ = ("results", "head", "features", "notes", "failures", "numerics", "timings")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[FilledGaps]
    head: str
    features: _containers.RepeatedCompositeFieldContainer[_types_pb2.TapFeatures]
    notes: _containers.RepeatedCompositeFieldContainer[Note]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    numerics: _types_pb2.Numerics
    timings: Timings
    def __init__(self, results: _Optional[_Iterable[_Union[FilledGaps, _Mapping]]] = ..., head: _Optional[str] = ..., features: _Optional[_Iterable[_Union[_types_pb2.TapFeatures, _Mapping]]] = ..., notes: _Optional[_Iterable[_Union[Note, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., numerics: _Optional[_Union[_types_pb2.Numerics, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ListPretrainersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPretrainersResponse(_message.Message):
    __slots__ = ("pretrainers",)
    PRETRAINERS_FIELD_NUMBER: _ClassVar[int]
    pretrainers: _containers.RepeatedCompositeFieldContainer[Pretrainer]
    def __init__(self, pretrainers: _Optional[_Iterable[_Union[Pretrainer, _Mapping]]] = ...) -> None: ...

class Pretrainer(_message.Message):
    __slots__ = ("kind", "description", "needs_encoder", "options", "plugin")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    NEEDS_ENCODER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    description: str
    needs_encoder: bool
    options: _containers.RepeatedCompositeFieldContainer[Option]
    plugin: str
    def __init__(self, kind: _Optional[str] = ..., description: _Optional[str] = ..., needs_encoder: _Optional[bool] = ..., options: _Optional[_Iterable[_Union[Option, _Mapping]]] = ..., plugin: _Optional[str] = ...) -> None: ...

class PretrainSettings(_message.Message):
    __slots__ = ("kind", "name", "encoder", "options", "seed", "set", "where", "version", "source")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    encoder: str
    options: _struct_pb2.Struct
    seed: int
    set: str
    where: str
    version: int
    source: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., encoder: _Optional[str] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., seed: _Optional[int] = ..., set: _Optional[str] = ..., where: _Optional[str] = ..., version: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class Texts(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class PretrainRequest(_message.Message):
    __slots__ = ("settings", "texts", "count")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    settings: PretrainSettings
    texts: Texts
    count: int
    def __init__(self, settings: _Optional[_Union[PretrainSettings, _Mapping]] = ..., texts: _Optional[_Union[Texts, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...
