from google.protobuf import struct_pb2 as _struct_pb2
from topwork.v1 import encoders_pb2 as _encoders_pb2
from topwork.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ColumnType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_TYPE_UNSPECIFIED: _ClassVar[ColumnType]
    COLUMN_TYPE_BOOL: _ClassVar[ColumnType]
    COLUMN_TYPE_INT: _ClassVar[ColumnType]
    COLUMN_TYPE_FLOAT: _ClassVar[ColumnType]
    COLUMN_TYPE_STRING: _ClassVar[ColumnType]
    COLUMN_TYPE_TIME: _ClassVar[ColumnType]
    COLUMN_TYPE_STRINGS: _ClassVar[ColumnType]
COLUMN_TYPE_UNSPECIFIED: ColumnType
COLUMN_TYPE_BOOL: ColumnType
COLUMN_TYPE_INT: ColumnType
COLUMN_TYPE_FLOAT: ColumnType
COLUMN_TYPE_STRING: ColumnType
COLUMN_TYPE_TIME: ColumnType
COLUMN_TYPE_STRINGS: ColumnType

class Strings(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "type", "bools", "ints", "floats", "strings", "lists", "nulls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    BOOLS_FIELD_NUMBER: _ClassVar[int]
    INTS_FIELD_NUMBER: _ClassVar[int]
    FLOATS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ColumnType
    bools: _containers.RepeatedScalarFieldContainer[bool]
    ints: _containers.RepeatedScalarFieldContainer[int]
    floats: _containers.RepeatedScalarFieldContainer[float]
    strings: _containers.RepeatedScalarFieldContainer[str]
    lists: _containers.RepeatedCompositeFieldContainer[Strings]
    nulls: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ColumnType, str]] = ..., bools: _Optional[_Iterable[bool]] = ..., ints: _Optional[_Iterable[int]] = ..., floats: _Optional[_Iterable[float]] = ..., strings: _Optional[_Iterable[str]] = ..., lists: _Optional[_Iterable[_Union[Strings, _Mapping]]] = ..., nulls: _Optional[_Iterable[int]] = ...) -> None: ...

class SetTap(_message.Message):
    __slots__ = ("tap", "column")
    TAP_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    tap: _types_pb2.Tap
    column: str
    def __init__(self, tap: _Optional[_Union[_types_pb2.Tap, _Mapping]] = ..., column: _Optional[str] = ...) -> None: ...

class ColumnInfo(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ColumnType
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ColumnType, str]] = ...) -> None: ...

class FeatureSet(_message.Message):
    __slots__ = ("name", "encoder", "options", "modality", "taps", "dtype", "keeps_inputs", "columns", "items", "version", "bytes", "created", "numerics", "path", "indexes", "damage", "modalities")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KEEPS_INPUTS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder: str
    options: _struct_pb2.Struct
    modality: _types_pb2.Modality
    taps: _containers.RepeatedCompositeFieldContainer[SetTap]
    dtype: _types_pb2.DType
    keeps_inputs: bool
    columns: _containers.RepeatedCompositeFieldContainer[ColumnInfo]
    items: int
    version: int
    bytes: int
    created: float
    numerics: _containers.RepeatedCompositeFieldContainer[_types_pb2.Numerics]
    path: str
    indexes: _containers.RepeatedScalarFieldContainer[str]
    damage: str
    modalities: _containers.RepeatedScalarFieldContainer[_types_pb2.Modality]
    def __init__(self, name: _Optional[str] = ..., encoder: _Optional[str] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., modality: _Optional[_Union[_types_pb2.Modality, str]] = ..., taps: _Optional[_Iterable[_Union[SetTap, _Mapping]]] = ..., dtype: _Optional[_Union[_types_pb2.DType, str]] = ..., keeps_inputs: _Optional[bool] = ..., columns: _Optional[_Iterable[_Union[ColumnInfo, _Mapping]]] = ..., items: _Optional[int] = ..., version: _Optional[int] = ..., bytes: _Optional[int] = ..., created: _Optional[float] = ..., numerics: _Optional[_Iterable[_Union[_types_pb2.Numerics, _Mapping]]] = ..., path: _Optional[str] = ..., indexes: _Optional[_Iterable[str]] = ..., damage: _Optional[str] = ..., modalities: _Optional[_Iterable[_Union[_types_pb2.Modality, str]]] = ...) -> None: ...

class ListSetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSetsResponse(_message.Message):
    __slots__ = ("sets",)
    SETS_FIELD_NUMBER: _ClassVar[int]
    sets: _containers.RepeatedCompositeFieldContainer[FeatureSet]
    def __init__(self, sets: _Optional[_Iterable[_Union[FeatureSet, _Mapping]]] = ...) -> None: ...

class GetSetRequest(_message.Message):
    __slots__ = ("set",)
    SET_FIELD_NUMBER: _ClassVar[int]
    set: str
    def __init__(self, set: _Optional[str] = ...) -> None: ...

class DropSetRequest(_message.Message):
    __slots__ = ("set",)
    SET_FIELD_NUMBER: _ClassVar[int]
    set: str
    def __init__(self, set: _Optional[str] = ...) -> None: ...

class DropSetResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WriteSettings(_message.Message):
    __slots__ = ("set", "encoder", "taps", "options", "dtype", "keep_inputs", "skip_bad_items", "priority")
    SET_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KEEP_INPUTS_FIELD_NUMBER: _ClassVar[int]
    SKIP_BAD_ITEMS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    set: str
    encoder: str
    taps: _containers.RepeatedScalarFieldContainer[str]
    options: _struct_pb2.Struct
    dtype: _types_pb2.DType
    keep_inputs: bool
    skip_bad_items: bool
    priority: _encoders_pb2.Priority
    def __init__(self, set: _Optional[str] = ..., encoder: _Optional[str] = ..., taps: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., dtype: _Optional[_Union[_types_pb2.DType, str]] = ..., keep_inputs: _Optional[bool] = ..., skip_bad_items: _Optional[bool] = ..., priority: _Optional[_Union[_encoders_pb2.Priority, str]] = ...) -> None: ...

class WriteRows(_message.Message):
    __slots__ = ("ids", "items", "features", "metadata", "numerics")
    IDS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    items: _containers.RepeatedCompositeFieldContainer[_types_pb2.Item]
    features: _containers.RepeatedCompositeFieldContainer[_types_pb2.TapFeatures]
    metadata: _containers.RepeatedCompositeFieldContainer[Column]
    numerics: _types_pb2.Numerics
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., items: _Optional[_Iterable[_Union[_types_pb2.Item, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[_types_pb2.TapFeatures, _Mapping]]] = ..., metadata: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., numerics: _Optional[_Union[_types_pb2.Numerics, _Mapping]] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("settings", "rows", "chunk")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    settings: WriteSettings
    rows: WriteRows
    chunk: bytes
    def __init__(self, settings: _Optional[_Union[WriteSettings, _Mapping]] = ..., rows: _Optional[_Union[WriteRows, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("watermark", "version", "inserted", "updated", "unchanged", "encoded", "failures")
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    watermark: int
    version: int
    inserted: int
    updated: int
    unchanged: int
    encoded: int
    failures: _containers.RepeatedCompositeFieldContainer[_encoders_pb2.Failure]
    def __init__(self, watermark: _Optional[int] = ..., version: _Optional[int] = ..., inserted: _Optional[int] = ..., updated: _Optional[int] = ..., unchanged: _Optional[int] = ..., encoded: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[_encoders_pb2.Failure, _Mapping]]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("set", "version", "taps", "all_taps", "columns", "all_columns", "inputs", "where", "ids", "offset", "limit")
    SET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TAPS_FIELD_NUMBER: _ClassVar[int]
    ALL_TAPS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ALL_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    set: str
    version: int
    taps: _containers.RepeatedScalarFieldContainer[str]
    all_taps: bool
    columns: _containers.RepeatedScalarFieldContainer[str]
    all_columns: bool
    inputs: bool
    where: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    offset: int
    limit: int
    def __init__(self, set: _Optional[str] = ..., version: _Optional[int] = ..., taps: _Optional[_Iterable[str]] = ..., all_taps: _Optional[bool] = ..., columns: _Optional[_Iterable[str]] = ..., all_columns: _Optional[bool] = ..., inputs: _Optional[bool] = ..., where: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("ids", "features", "metadata", "inputs", "version", "total")
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedCompositeFieldContainer[_types_pb2.TapFeatures]
    metadata: _containers.RepeatedCompositeFieldContainer[Column]
    inputs: _containers.RepeatedCompositeFieldContainer[_types_pb2.Item]
    version: int
    total: int
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[_Union[_types_pb2.TapFeatures, _Mapping]]] = ..., metadata: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., inputs: _Optional[_Iterable[_Union[_types_pb2.Item, _Mapping]]] = ..., version: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class DeleteRowsRequest(_message.Message):
    __slots__ = ("set", "ids", "where")
    SET_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    set: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    where: str
    def __init__(self, set: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., where: _Optional[str] = ...) -> None: ...

class DeleteRowsResponse(_message.Message):
    __slots__ = ("deleted", "version")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    version: int
    def __init__(self, deleted: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class CountRowsRequest(_message.Message):
    __slots__ = ("set", "where", "version")
    SET_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    set: str
    where: str
    version: int
    def __init__(self, set: _Optional[str] = ..., where: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class CountRowsResponse(_message.Message):
    __slots__ = ("count", "version")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    count: int
    version: int
    def __init__(self, count: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class UpdateRowsRequest(_message.Message):
    __slots__ = ("set", "ids", "where", "metadata")
    SET_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    set: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    where: str
    metadata: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, set: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., where: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class UpdateRowsResponse(_message.Message):
    __slots__ = ("updated", "missing", "version")
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    updated: int
    missing: _containers.RepeatedScalarFieldContainer[str]
    version: int
    def __init__(self, updated: _Optional[int] = ..., missing: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ...) -> None: ...

class DropColumn(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChangeColumnRequest(_message.Message):
    __slots__ = ("set", "column", "add", "rename", "cast", "drop")
    SET_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    CAST_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    set: str
    column: str
    add: ColumnType
    rename: str
    cast: ColumnType
    drop: DropColumn
    def __init__(self, set: _Optional[str] = ..., column: _Optional[str] = ..., add: _Optional[_Union[ColumnType, str]] = ..., rename: _Optional[str] = ..., cast: _Optional[_Union[ColumnType, str]] = ..., drop: _Optional[_Union[DropColumn, _Mapping]] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("version", "created", "pins")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    version: int
    created: float
    pins: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., created: _Optional[float] = ..., pins: _Optional[_Iterable[str]] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("set",)
    SET_FIELD_NUMBER: _ClassVar[int]
    set: str
    def __init__(self, set: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions", "damaged_pins")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_PINS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    damaged_pins: _containers.RepeatedCompositeFieldContainer[DamagedPin]
    def __init__(self, versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., damaged_pins: _Optional[_Iterable[_Union[DamagedPin, _Mapping]]] = ...) -> None: ...

class DamagedPin(_message.Message):
    __slots__ = ("pin", "version", "damage", "remedy")
    PIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    pin: str
    version: int
    damage: str
    remedy: str
    def __init__(self, pin: _Optional[str] = ..., version: _Optional[int] = ..., damage: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class PinVersionRequest(_message.Message):
    __slots__ = ("set", "pin", "version")
    SET_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    set: str
    pin: str
    version: int
    def __init__(self, set: _Optional[str] = ..., pin: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class UnpinVersionRequest(_message.Message):
    __slots__ = ("set", "pin")
    SET_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    set: str
    pin: str
    def __init__(self, set: _Optional[str] = ..., pin: _Optional[str] = ...) -> None: ...

class UnpinVersionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PruneVersionsRequest(_message.Message):
    __slots__ = ("set", "older_than")
    SET_FIELD_NUMBER: _ClassVar[int]
    OLDER_THAN_FIELD_NUMBER: _ClassVar[int]
    set: str
    older_than: float
    def __init__(self, set: _Optional[str] = ..., older_than: _Optional[float] = ...) -> None: ...

class PruneVersionsResponse(_message.Message):
    __slots__ = ("removed", "bytes")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    removed: int
    bytes: int
    def __init__(self, removed: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...
