"""Feature sets of the fake server: dictionaries, every version kept, replies of BLOCK items."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from fake_server import DIM, MODALITIES, TAPS, FakeServer, Refusal, bad_text, row_of
from topwork.v1 import encoders_pb2, sets_pb2, sets_pb2_grpc, types_pb2

#: Items in one reply of Read.
BLOCK = 3
LISTS = {1: "bools", 2: "ints", 3: "floats", 4: "strings", 5: "ints", 6: "lists"}


def invalid(message: str, item: int = -1) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput", message, "send another", item)


@dataclass
class Stored:
    """One item: its features by tap as they came, its metadata by column, its input."""

    features: dict[str, types_pb2.TapFeatures]
    metadata: dict[str, Any]
    item: types_pb2.Item

    def rows(self, tap: str) -> np.ndarray[Any, Any]:
        tensor = self.features[tap].rows
        return np.frombuffer(tensor.data, "<f2" if tensor.dtype == 2 else "<f4").reshape(tensor.shape).astype(np.float32)


@dataclass
class FakeSet:
    settings: sets_pb2.WriteSettings
    taps: dict[str, types_pb2.Tap]
    columns: dict[str, int] = field(default_factory=dict)
    versions: dict[int, dict[str, Stored]] = field(default_factory=lambda: {1: {}})
    pins: dict[str, int] = field(default_factory=dict)
    indexes: dict[str, Any] = field(default_factory=dict)
    numerics: list[types_pb2.Numerics] = field(default_factory=list)

    @property
    def version(self) -> int:
        return max(self.versions)

    @property
    def items(self) -> dict[str, Stored]:
        return self.versions[self.version]

    def commit(self, items: dict[str, Stored]) -> int:
        self.versions[self.version + 1] = items
        return self.version

    def described(self) -> sets_pb2.FeatureSet:
        return sets_pb2.FeatureSet(
            name=self.settings.set,
            encoder=self.settings.encoder,
            options=self.settings.options,
            modality=MODALITIES.get(self.settings.encoder, types_pb2.MODALITY_UNSPECIFIED),
            taps=[sets_pb2.SetTap(tap=tap, column=f"features_{name}") for name, tap in self.taps.items()],
            dtype=self.settings.dtype,
            keeps_inputs=self.settings.keep_inputs,
            columns=[sets_pb2.ColumnInfo(name=name, type=number) for name, number in self.columns.items()],  # type: ignore[arg-type]
            items=len(self.items),
            version=self.version,
            bytes=1000,
            created=1.5,
            numerics=self.numerics,
            path=f"/sets/{self.settings.set}",
            indexes=list(self.indexes),
        )

    def selected(self, where: str, ids: list[str], version: int = 0) -> dict[str, Stored]:
        """Filters are of one comparison, such as year > 2020 or label = 'owl'."""
        items = self.versions[version or self.version]
        found = {id: stored for id, stored in items.items() if not ids or id in ids}
        if not where:
            return found
        match = re.fullmatch(r"(\w+) (=|>|<) (?:'(.*)'|(\S+))", where)
        if match is None or match[1] not in {"id", *self.columns}:
            raise invalid(f"no column of that name in {where!r}")
        name, sign, text, number = match.groups()
        value = float(number) if text is None else text
        compare = {"=": lambda x: x == value, ">": lambda x: x > value, "<": lambda x: x < value}[sign]
        known = {id: id if name == "id" else stored.metadata.get(name) for id, stored in found.items()}
        return {id: found[id] for id, x in known.items() if x is not None and compare(x)}


def unpacked(column: sets_pb2.Column) -> list[Any]:
    values: list[Any] = list(getattr(column, LISTS[column.type]))
    return [None if i in column.nulls else value for i, value in enumerate(values)]


def packed(name: str, number: int, values: list[Any]) -> sets_pb2.Column:
    filler: Any = {1: False, 4: "", 6: sets_pb2.Strings()}.get(number, 0)
    filled = {LISTS[number]: [filler if value is None else value for value in values]}
    missing = [i for i, value in enumerate(values) if value is None]
    return sets_pb2.Column(name=name, type=number, nulls=missing, **filled)  # type: ignore[arg-type]


def gathered(stored: list[Stored], tap: str) -> types_pb2.TapFeatures:
    """The features of several items as one message."""
    parts = [one.features[tap] for one in stored]
    whole = types_pb2.TapFeatures(tap=tap, fingerprint=parts[0].fingerprint, granularity=parts[0].granularity)
    rows = np.concatenate([one.rows(tap) for one in stored])
    whole.rows.CopyFrom(types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=rows.shape, data=rows.tobytes()))
    whole.counts.extend(part.counts[0] for part in parts)
    if parts[0].HasField("spans"):
        spans = b"".join(part.spans.values.data for part in parts)
        width = parts[0].spans.values.shape[1]
        values = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=(len(rows), width), data=spans)
        whole.spans.CopyFrom(types_pb2.Spans(kind=parts[0].spans.kind, values=values))
    return whole


def cut(features: types_pb2.TapFeatures) -> list[types_pb2.TapFeatures]:
    """One message an item."""
    width = 2 if features.rows.dtype == types_pb2.DTYPE_FLOAT16 else 4
    dim, at = features.rows.shape[1], 0
    pieces = []
    for count in features.counts:
        piece = types_pb2.TapFeatures(tap=features.tap, fingerprint=features.fingerprint, granularity=features.granularity)
        data = features.rows.data[at * dim * width : (at + count) * dim * width]
        piece.rows.CopyFrom(types_pb2.Tensor(dtype=features.rows.dtype, shape=(count, dim), data=data))
        piece.counts.append(count)
        if features.HasField("spans"):
            axes = features.spans.values.shape[1]
            data = features.spans.values.data[at * axes * 4 : (at + count) * axes * 4]
            values = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=(count, axes), data=data)
            piece.spans.CopyFrom(types_pb2.Spans(kind=features.spans.kind, values=values))
        pieces.append(piece)
        at += count
    return pieces


class FakeSets(sets_pb2_grpc.FeatureSetsServicer):
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.sets: dict[str, FakeSet] = {}

    def find(self, name: str, context: Any) -> FakeSet:
        if name not in self.sets:
            Refusal(grpc.StatusCode.NOT_FOUND, "NotFound", f"no set {name!r}", "see `topwork sets`").abort(context)
        return self.sets[name]

    def ListSets(self, request: Any, context: Any) -> sets_pb2.ListSetsResponse:  # noqa: N802
        self.server._enter("ListSets", request, context)
        return sets_pb2.ListSetsResponse(sets=[found.described() for _, found in sorted(self.sets.items())])

    def GetSet(self, request: Any, context: Any) -> sets_pb2.FeatureSet:  # noqa: N802
        self.server._enter("GetSet", request, context)
        return self.find(request.set, context).described()

    def DropSet(self, request: Any, context: Any) -> sets_pb2.DropSetResponse:  # noqa: N802
        self.server._enter("DropSet", request, context)
        self.find(request.set, context)
        del self.sets[request.set]
        return sets_pb2.DropSetResponse()

    def Write(self, requests: Iterator[Any], context: Any) -> Iterator[sets_pb2.WriteResponse]:  # noqa: N802
        context.add_callback(self.server.cancelled.set)
        settings = next(requests).settings
        attempt = self.server._enter("Write", settings, context)
        upload, answers, watermark = b"", 0, 0
        for message in requests:
            self.server.requests.append(message)
            if message.WhichOneof("message") == "chunk":
                upload += message.chunk
                continue
            self.server.gate.wait()
            self.server._check("Write", attempt, answers, context)
            watermark += len(message.rows.ids)
            try:
                yield self._write(settings, message.rows, upload, watermark)
            except Refusal as refusal:
                refusal.abort(context)
            self.server._check("Written", attempt, answers, context)
            upload, answers = b"", answers + 1

    def _write(
        self, settings: sets_pb2.WriteSettings, rows: sets_pb2.WriteRows, upload: bytes, watermark: int
    ) -> sets_pb2.WriteResponse:
        if settings.set not in self.sets:
            self.sets[settings.set] = self._made(settings, rows)
        found = self.sets[settings.set]
        bad = [i for i, item in enumerate(rows.items) if item.text == "bad" or not item.WhichOneof("content")]
        if bad and not settings.skip_bad_items:
            raise bad_text(bad[0])
        for column in rows.metadata:
            known = found.columns.setdefault(column.name, column.type)
            if (known, column.type) == (sets_pb2.COLUMN_TYPE_INT, sets_pb2.COLUMN_TYPE_FLOAT):
                found.columns[column.name] = column.type
            elif known != column.type:
                raise invalid(f"column {column.name!r} has another type")
        if rows.HasField("numerics"):
            found.numerics.append(rows.numerics)
        good = [i for i in range(len(rows.ids)) if i not in bad]
        features = {tap: self._features(found, tap, rows, upload) for tap in found.taps}
        columns = {column.name: unpacked(column) for column in rows.metadata}
        items = dict(found.items)
        for i in good:
            metadata = {name: values[i] for name, values in columns.items()}
            item = rows.items[i] if rows.items else types_pb2.Item()
            items[rows.ids[i]] = Stored({tap: features[tap][i] for tap in found.taps}, metadata, item)
        known = sum(rows.ids[i] in found.items for i in good)
        return sets_pb2.WriteResponse(
            watermark=watermark,
            version=found.commit(items),
            inserted=len(good) - known,
            updated=known,
            encoded=len(good) if rows.items else 0,
            failures=[encoders_pb2.Failure(item=i, code=3, message="a bad text", remedy="send a good one") for i in bad],
        )

    def _made(self, settings: sets_pb2.WriteSettings, rows: sets_pb2.WriteRows) -> FakeSet:
        if rows.items:
            return FakeSet(settings, {tap: TAPS[tap] for tap in settings.taps or ["pooled"]})
        taps = [
            types_pb2.Tap(name=f.tap or "vectors", dim=f.rows.shape[1], granularity=f.granularity, fingerprint=f.fingerprint)
            for f in rows.features
        ]
        return FakeSet(settings, {tap.name: tap for tap in taps})

    def _features(self, found: FakeSet, tap: str, rows: sets_pb2.WriteRows, upload: bytes) -> list[types_pb2.TapFeatures]:
        if rows.features:
            [mine] = [f for f in rows.features if (f.tap or "vectors") == tap]
            return cut(mine)
        embedded = [row_of(item, upload) if item.WhichOneof("content") else np.zeros((0, DIM), "<f4") for item in rows.items]
        values = np.concatenate(embedded)
        tensor = types_pb2.Tensor(dtype=types_pb2.DTYPE_FLOAT32, shape=values.shape, data=values.tobytes())
        made = found.taps[tap]
        return cut(
            types_pb2.TapFeatures(
                tap=tap,
                fingerprint=made.fingerprint,
                granularity=made.granularity,
                rows=tensor,
                counts=[len(row) for row in embedded],
            )
        )

    def Read(self, request: Any, context: Any) -> Iterator[sets_pb2.ReadResponse]:  # noqa: N802
        context.add_callback(self.server.cancelled.set)
        attempt = self.server._enter("Read", request, context)
        found = self.find(request.set, context)
        try:
            selected = list(found.selected(request.where, list(request.ids), request.version).items())
        except Refusal as refusal:
            refusal.abort(context)
        wanted = selected[request.offset :][: request.limit or None]
        version = request.version or found.version
        for answers, start in enumerate(range(0, len(wanted), BLOCK)):
            self.server.gate.wait()
            self.server._check("Read", attempt, answers, context)
            part = wanted[start : start + BLOCK]
            taps = found.taps if request.all_taps else request.taps
            columns = found.columns if request.all_columns else request.columns
            yield sets_pb2.ReadResponse(
                ids=[id for id, _ in part],
                features=[gathered([stored for _, stored in part], tap) for tap in taps],
                metadata=[packed(c, found.columns[c], [stored.metadata.get(c) for _, stored in part]) for c in columns],
                inputs=[stored.item for _, stored in part] if request.inputs and found.settings.keep_inputs else [],
                version=version,
                total=len(selected),
            )
        self.server._check("Read", attempt, -1, context)

    def DeleteRows(self, request: Any, context: Any) -> sets_pb2.DeleteRowsResponse:  # noqa: N802
        self.server._enter("DeleteRows", request, context)
        found = self.find(request.set, context)
        try:
            doomed = found.selected(request.where, list(request.ids))
        except Refusal as refusal:
            refusal.abort(context)
        version = found.commit({id: stored for id, stored in found.items.items() if id not in doomed})
        return sets_pb2.DeleteRowsResponse(deleted=len(doomed), version=version)

    def CountRows(self, request: Any, context: Any) -> sets_pb2.CountRowsResponse:  # noqa: N802
        self.server._enter("CountRows", request, context)
        found = self.find(request.set, context)
        return sets_pb2.CountRowsResponse(count=len(found.items), version=found.version)

    def UpdateRows(self, request: Any, context: Any) -> sets_pb2.UpdateRowsResponse:  # noqa: N802
        self.server._enter("UpdateRows", request, context)
        found = self.find(request.set, context)
        missing = [id for id in request.ids if id not in found.items]
        return sets_pb2.UpdateRowsResponse(updated=len(request.ids) - len(missing), missing=missing, version=found.version)

    def ChangeColumn(self, request: Any, context: Any) -> sets_pb2.FeatureSet:  # noqa: N802
        self.server._enter("ChangeColumn", request, context)
        self.find(request.set, context)
        return self.GetSet(sets_pb2.GetSetRequest(set=request.set), context)

    def ListVersions(self, request: Any, context: Any) -> sets_pb2.ListVersionsResponse:  # noqa: N802
        self.server._enter("ListVersions", request, context)
        found = self.find(request.set, context)
        return sets_pb2.ListVersionsResponse(versions=[self._version(found, version) for version in sorted(found.versions)])

    def PinVersion(self, request: Any, context: Any) -> sets_pb2.Version:  # noqa: N802
        self.server._enter("PinVersion", request, context)
        found = self.find(request.set, context)
        found.pins[request.pin] = request.version or found.version
        return self._version(found, found.pins[request.pin])

    def UnpinVersion(self, request: Any, context: Any) -> sets_pb2.UnpinVersionResponse:  # noqa: N802
        self.server._enter("UnpinVersion", request, context)
        del self.find(request.set, context).pins[request.pin]
        return sets_pb2.UnpinVersionResponse()

    def PruneVersions(self, request: Any, context: Any) -> sets_pb2.PruneVersionsResponse:  # noqa: N802
        self.server._enter("PruneVersions", request, context)
        found = self.find(request.set, context)
        kept = {found.version, *found.pins.values()}
        removed = [version for version in found.versions if version not in kept]
        for version in removed:
            del found.versions[version]
        return sets_pb2.PruneVersionsResponse(removed=len(removed), bytes=10 * len(removed))

    def _version(self, found: FakeSet, version: int) -> sets_pb2.Version:
        pins = [pin for pin, pinned in found.pins.items() if pinned == version]
        return sets_pb2.Version(version=version, created=float(version), pins=pins)
