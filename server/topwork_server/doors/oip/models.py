"""What the protocol calls a model: an encoder, whose outputs are its taps, or a head on one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topwork_server.doors.oip.head_outputs import TensorSpec, output_specs
from topwork_server.doors.oip.tensors import BYTES, datatype_of
from topwork_server.errors import NotReady
from topwork_server.heads.head_types import Head, Pooling, Task
from topwork_server.heads.pooling import TOWERS
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.services.convert import head_messages
from topwork_server.types import FingerprintedTap, Granularity, Modality


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The tensors of a model, and what else there is to tell of it."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    properties: Mapping[str, str]


def encoder_model(entry: CatalogEntry) -> ModelDescription:
    """Describe an encoder: its usual tap is the first output. NotReady where it is not exported."""
    if entry.manifest is None:
        raise _not_ready(entry)
    taps = sorted(entry.taps, key=lambda info: info.tap.name != entry.spec.default_tap)
    fingerprints = {f"fingerprint.{info.tap.name}": info.fingerprint for info in taps}
    return ModelDescription(
        [_input(modality, entry) for modality in entry.spec.modalities],
        [TensorSpec(info.tap.name, "FP32", _shape(info)) for info in taps],
        {"license": entry.spec.license, **fingerprints},
    )


def head_model(head: Head, entry: CatalogEntry, reads: Sequence[Modality]) -> ModelDescription:
    """Describe a head on an encoder; `reads` is what all of its encoders read. `labels` names its classes in the order of
    their numbers, in a list of JSON."""
    names = {"labels": json.dumps(head.names, ensure_ascii=False)} if head.names else {}
    return ModelDescription(
        [_input(modality, entry, paired=_reads_pairs(head)) for modality in reads],
        output_specs(head),
        {
            "task": head.task,
            "encoder": " ".join(head.encoders),
            "fingerprint": head.tap.fingerprint,
            "trained": head_messages.version(head),
            **names,
        },
    )


def _reads_pairs(head: Head) -> bool:
    return head.task is Task.QUESTION_ANSWERING or head.pooling is Pooling.PAIR or head.pooling in TOWERS


def _not_ready(entry: CatalogEntry) -> NotReady:
    return NotReady(f"the model {entry.spec.name} is not ready", remedy=entry.detail or "load it: that exports it")


def _array(entry: CatalogEntry) -> TensorSpec:
    """The input of an encoder of tensors."""
    if entry.folder is None:
        raise _not_ready(entry)
    dtype, shape = entry.spec.encoder(entry.spec, entry.folder).array or ("float32", (-1,))
    return TensorSpec(Modality.TENSOR.upper(), datatype_of(np.dtype(dtype)), (-1, *shape))


def _input(modality: Modality, entry: CatalogEntry, *, paired: bool = False) -> TensorSpec:
    if modality is Modality.TENSOR:
        return _array(entry)
    return TensorSpec(modality.upper(), BYTES, (-1, 2) if paired and modality is Modality.TEXT else (-1,))


def _shape(info: FingerprintedTap) -> Sequence[int]:
    return (-1, info.tap.dim) if info.tap.granularity is Granularity.ITEM else (-1, -1, info.tap.dim)
