from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_FLOAT16: _ClassVar[DType]
    DTYPE_INT8: _ClassVar[DType]
    DTYPE_BINARY: _ClassVar[DType]
    DTYPE_UINT8: _ClassVar[DType]
    DTYPE_INT32: _ClassVar[DType]
    DTYPE_INT64: _ClassVar[DType]
    DTYPE_FLOAT64: _ClassVar[DType]

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_VIDEO: _ClassVar[Modality]
    MODALITY_TENSOR: _ClassVar[Modality]
    MODALITY_AUDIO: _ClassVar[Modality]

class Granularity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANULARITY_UNSPECIFIED: _ClassVar[Granularity]
    GRANULARITY_ITEM: _ClassVar[Granularity]
    GRANULARITY_TOKEN: _ClassVar[Granularity]
    GRANULARITY_WINDOW: _ClassVar[Granularity]
    GRANULARITY_CELL: _ClassVar[Granularity]
    GRANULARITY_CHUNK: _ClassVar[Granularity]

class SpanKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPAN_KIND_UNSPECIFIED: _ClassVar[SpanKind]
    SPAN_KIND_CHARACTERS: _ClassVar[SpanKind]
    SPAN_KIND_SECONDS: _ClassVar[SpanKind]
    SPAN_KIND_BOX: _ClassVar[SpanKind]
DTYPE_UNSPECIFIED: DType
DTYPE_FLOAT32: DType
DTYPE_FLOAT16: DType
DTYPE_INT8: DType
DTYPE_BINARY: DType
DTYPE_UINT8: DType
DTYPE_INT32: DType
DTYPE_INT64: DType
DTYPE_FLOAT64: DType
MODALITY_UNSPECIFIED: Modality
MODALITY_TEXT: Modality
MODALITY_IMAGE: Modality
MODALITY_VIDEO: Modality
MODALITY_TENSOR: Modality
MODALITY_AUDIO: Modality
GRANULARITY_UNSPECIFIED: Granularity
GRANULARITY_ITEM: Granularity
GRANULARITY_TOKEN: Granularity
GRANULARITY_WINDOW: Granularity
GRANULARITY_CELL: Granularity
GRANULARITY_CHUNK: Granularity
SPAN_KIND_UNSPECIFIED: SpanKind
SPAN_KIND_CHARACTERS: SpanKind
SPAN_KIND_SECONDS: SpanKind
SPAN_KIND_BOX: SpanKind

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TextPair(_message.Message):
    __slots__ = ("text", "pair")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    text: str
    pair: str
    def __init__(self, text: _Optional[str] = ..., pair: _Optional[str] = ...) -> None: ...

class CharacterRange(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class DividedText(_message.Message):
    __slots__ = ("text", "chunks")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    text: str
    chunks: _containers.RepeatedCompositeFieldContainer[CharacterRange]
    def __init__(self, text: _Optional[str] = ..., chunks: _Optional[_Iterable[_Union[CharacterRange, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("text", "text_pair", "image", "video", "tensor", "chunked_video", "audio", "chunked_audio", "divided_text")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_PAIR_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    CHUNKED_VIDEO_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    CHUNKED_AUDIO_FIELD_NUMBER: _ClassVar[int]
    DIVIDED_TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    text_pair: TextPair
    image: bytes
    video: bytes
    tensor: Tensor
    chunked_video: bool
    audio: bytes
    chunked_audio: bool
    divided_text: DividedText
    def __init__(self, text: _Optional[str] = ..., text_pair: _Optional[_Union[TextPair, _Mapping]] = ..., image: _Optional[bytes] = ..., video: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., chunked_video: _Optional[bool] = ..., audio: _Optional[bytes] = ..., chunked_audio: _Optional[bool] = ..., divided_text: _Optional[_Union[DividedText, _Mapping]] = ...) -> None: ...

class Spans(_message.Message):
    __slots__ = ("kind", "values", "parts")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    kind: SpanKind
    values: Tensor
    parts: Tensor
    def __init__(self, kind: _Optional[_Union[SpanKind, str]] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ..., parts: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Numerics(_message.Message):
    __slots__ = ("provider", "precision", "parity", "max_abs_error")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    provider: str
    precision: str
    parity: float
    max_abs_error: float
    def __init__(self, provider: _Optional[str] = ..., precision: _Optional[str] = ..., parity: _Optional[float] = ..., max_abs_error: _Optional[float] = ...) -> None: ...

class Tap(_message.Message):
    __slots__ = ("name", "dim", "granularity", "grid", "description", "fingerprint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    dim: int
    granularity: Granularity
    grid: _containers.RepeatedScalarFieldContainer[int]
    description: str
    fingerprint: str
    def __init__(self, name: _Optional[str] = ..., dim: _Optional[int] = ..., granularity: _Optional[_Union[Granularity, str]] = ..., grid: _Optional[_Iterable[int]] = ..., description: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class TapFeatures(_message.Message):
    __slots__ = ("tap", "fingerprint", "granularity", "rows", "scales", "counts", "spans")
    TAP_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    GRANULARITY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    tap: str
    fingerprint: str
    granularity: Granularity
    rows: Tensor
    scales: Tensor
    counts: _containers.RepeatedScalarFieldContainer[int]
    spans: Spans
    def __init__(self, tap: _Optional[str] = ..., fingerprint: _Optional[str] = ..., granularity: _Optional[_Union[Granularity, str]] = ..., rows: _Optional[_Union[Tensor, _Mapping]] = ..., scales: _Optional[_Union[Tensor, _Mapping]] = ..., counts: _Optional[_Iterable[int]] = ..., spans: _Optional[_Union[Spans, _Mapping]] = ...) -> None: ...
