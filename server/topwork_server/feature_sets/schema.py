"""The Arrow schema of a set: the columns of its dataset, and its description as JSON under `topwork` in the metadata."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.set_names import is_reserved
from topwork_server.feature_sets.set_types import ColumnType, SetDefinition
from topwork_server.names import check_name
from topwork_server.types import FingerprintedTap, Granularity, Modality, Numerics, Tap

METADATA_KEY = b"topwork"
FORMAT = 1
DTYPES = ("float32", "float16")
SPAN_KINDS = {
    Granularity.TOKEN: ("chars", 2),
    Granularity.CHUNK: ("chars", 2),
    Granularity.WINDOW: ("seconds", 2),
    Granularity.CELL: ("box", 4),
}


@dataclass(frozen=True, slots=True)
class SetMetadata:
    """The definition and history of a set. `columns` names the dataset's column of each tap."""

    definition: SetDefinition
    columns: Mapping[str, str]
    created: float
    numerics: tuple[Numerics, ...] = ()


def new_set_metadata(definition: SetDefinition) -> SetMetadata:
    """Describe a new set. Refuses what cannot be stored."""
    check_name(definition.name, "a feature set")
    if definition.dtype not in DTYPES:
        raise InvalidInput(f"features are not stored as {definition.dtype!r}", remedy=f"choose one of {', '.join(DTYPES)}")
    if not definition.taps:
        raise InvalidInput(f"the set {definition.name!r} has no tap", remedy="name at least one")
    names = [info.tap.name for info in definition.taps]
    for info in definition.taps:
        if names.count(info.tap.name) > 1 or info.tap.dim < 1:
            raise InvalidInput(
                f"tap {info.tap.name!r} stands twice, or has {info.tap.dim} dimensions", remedy="name each tap once, with its dim"
            )
    return SetMetadata(definition, _tap_columns(names), time.time())


def _tap_columns(names: list[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name in names:
        column = base = "features_" + re.sub(r"[^A-Za-z0-9]", "_", name).lower()
        number = 2
        while column in columns.values():
            column, number = f"{base}_{number}", number + 1
        columns[name] = column
    return columns


def companion(tap_column: str, start: str) -> str:
    """The column of a tap's `spans` or `parts`."""
    return tap_column.replace("features", start, 1)


def to_json(set_metadata: SetMetadata) -> str:
    definition = set_metadata.definition
    taps = [{**asdict(t.tap), "fingerprint": t.fingerprint, "column": set_metadata.columns[t.tap.name]} for t in definition.taps]
    plain = {
        "name": definition.name,
        "encoder": definition.encoder,
        "options": dict(definition.options),
        "modality": next(iter(definition.modalities), None),
        "modalities": list(definition.modalities),
    }
    stored = {"dtype": definition.dtype, "keep_inputs": definition.keep_inputs, "created": set_metadata.created}
    return json.dumps({"format": FORMAT, **plain, **stored, "taps": taps, "numerics": [asdict(n) for n in set_metadata.numerics]})


def from_schema(schema: Any, name: str) -> SetMetadata:
    """Read the metadata of an opened dataset; the folder's name is the set's. NotReady where it is not one of ours."""
    try:
        record = json.loads((schema.metadata or {})[METADATA_KEY])
        if record["format"] != FORMAT:
            raise NotReady(f"it is of format {record['format']}, and this server reads {FORMAT}", remedy="update the server")
        taps = tuple(_tap(tap) for tap in record["taps"])
        modalities = tuple(map(Modality, record.get("modalities", filter(None, [record["modality"]]))))
        definition = SetDefinition(
            name, taps, record["encoder"], record["options"], modalities, record["dtype"], record["keep_inputs"]
        )
        numerics = tuple(Numerics(**one) for one in record["numerics"])
        return SetMetadata(definition, {tap["name"]: tap["column"] for tap in record["taps"]}, record["created"], numerics)
    except (KeyError, ValueError, TypeError) as error:
        raise NotReady(f"its schema does not say what set it is ({error!r})", remedy="it was not made by Topwork") from error


def _tap(record: Mapping[str, Any]) -> FingerprintedTap:
    grid = tuple(record["grid"]) if record["grid"] else None
    tap = Tap(record["name"], record["dim"], Granularity(record["granularity"]), grid, record["description"])
    return FingerprintedTap(tap, record["fingerprint"])


def with_numerics(set_metadata: SetMetadata, numerics: tuple[Numerics, ...]) -> SetMetadata:
    """Add every new pair of provider and precision; a known pair stays as it was first added."""
    known = {(n.provider, n.precision): n for n in set_metadata.numerics}
    for one in numerics:
        known.setdefault((one.provider, one.precision), one)
    return replace(set_metadata, numerics=tuple(known.values()))


def arrow_schema(set_metadata: SetMetadata) -> Any:
    """The schema of an empty set: no metadata columns yet."""
    import pyarrow as pa

    fields = [pa.field("id", pa.string(), False), pa.field("key", pa.int64(), False), pa.field("content", pa.string())]
    for info in set_metadata.definition.taps:
        fields += tap_fields(info.tap, set_metadata.columns[info.tap.name], set_metadata.definition.dtype)
    if set_metadata.definition.keep_inputs:
        fields += input_fields()
    return pa.schema(fields, metadata={METADATA_KEY: to_json(set_metadata)})


def tap_fields(tap: Tap, column: str, dtype: str) -> list[Any]:
    """Return one fixed-size list an ITEM, a list of them for what has many rows; with spans, and which text of a pair they are
    of."""
    import pyarrow as pa

    row = pa.list_(pa.float16() if dtype == "float16" else pa.float32(), tap.dim)
    if tap.granularity is Granularity.ITEM:
        return [pa.field(column, row)]
    width = SPAN_KINDS[tap.granularity][1]
    fields = [pa.field(column, pa.list_(row)), pa.field(companion(column, "spans"), pa.list_(pa.list_(pa.float32(), width)))]
    if tap.granularity is Granularity.TOKEN:
        fields.append(pa.field(companion(column, "parts"), pa.list_(pa.int32())))
    return fields


def input_fields() -> list[Any]:
    import pyarrow as pa

    kinds = [pa.field("input_kind", pa.string()), pa.field("input_text", pa.string()), pa.field("input_pair", pa.string())]
    return [*kinds, pa.field("input_data", pa.large_binary())]


def arrow_type(type: ColumnType) -> Any:
    import pyarrow as pa

    match type:
        case ColumnType.BOOL:
            return pa.bool_()
        case ColumnType.INT:
            return pa.int64()
        case ColumnType.FLOAT:
            return pa.float64()
        case ColumnType.STRING:
            return pa.string()
        case ColumnType.TIME:
            return pa.timestamp("us", "UTC")
        case ColumnType.STRINGS:
            return pa.list_(pa.string())


def metadata_columns(schema: Any) -> dict[str, ColumnType]:
    """The columns of metadata of a dataset, in their order; without those of types that are not ours, made by other hands."""
    types = {str(arrow_type(type)): type for type in ColumnType}
    return {f.name: types[str(f.type)] for f in schema if not is_reserved(f.name) and str(f.type) in types}
