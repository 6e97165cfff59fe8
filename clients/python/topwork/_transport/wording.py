"""Names of the server's methods in what it says -> calls of this package, for a person to read."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: The methods of the protos, and the verb of a client for each.
CALLS: Mapping[str, str] = {
    "ListEncoders": "encoders",
    "GetEncoder": "encoder",
    "Embed": "embed",
    "EmbedStream": "embed_stream",
    "NearestWords": "nearest_words",
    "Fill": "fill",
    "ListPretrainers": "pretrainers",
    "Pretrain": "pretrain",
    "ListSets": "sets",
    "GetSet": "set",
    "DropSet": "drop_set",
    "Write": "write",
    "Read": "read",
    "DeleteRows": "delete",
    "CountRows": "count",
    "UpdateRows": "update",
    "ListVersions": "versions",
    "PinVersion": "pin",
    "UnpinVersion": "unpin",
    "PruneVersions": "prune",
    "ListKinds": "index_kinds",
    "CreateIndex": "create_index",
    "ListIndexes": "indexes",
    "GetIndex": "index",
    "RebuildIndex": "rebuild_index",
    "DropIndex": "drop_index",
    "Search": "search",
    "ListTrainers": "trainers",
    "Train": "train",
    "ListHeads": "heads",
    "GetHead": "head",
    "DropHead": "drop_head",
    "GetReport": "report",
    "Probe": "probe",
    "Predict": "predict",
    "PredictStream": "predict",
    "ExportHead": "export_head",
    "ListJobs": "jobs",
    "GetJob": "job",
    "WatchJob": "watch_job",
    "CancelJob": "cancel_job",
}
_METHOD = re.compile(r"`([A-Z]\w+)(?:\(([^()`]*)\))?`")


def in_calls(text: str) -> str:
    """Write `GetSet(birds)` of a text as `set('birds')`; words in capitals stand for what the reader knows."""
    return _METHOD.sub(_call, text) if "`" in text else text


def _call(found: re.Match[str]) -> str:
    if found[1] not in CALLS:
        return found[0]
    arguments = [argument for argument in (found[2] or "").split(", ") if argument]
    return f"`{CALLS[found[1]]}({', '.join(map(_argument, arguments))})`"


def _argument(text: str) -> str:
    name, equals, value = text.rpartition("=")
    return f"{name}{equals}{value if value.isupper() or value == 'True' else repr(value)}"
