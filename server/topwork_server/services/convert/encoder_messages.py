"""Encoders, their options, taps and devices as messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from topwork.v1 import encoders_pb2, types_pb2

from topwork_server.inference.model_cache import LoadedEncoder
from topwork_server.models import pretrained_heads
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState
from topwork_server.plugin_api import options as declared_options
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.plugin_registry import RegisteredPretrainer
from topwork_server.pretraining.request import PretrainRequest
from topwork_server.runtime import device_selection
from topwork_server.runtime.device_records import DeviceRecord
from topwork_server.runtime.device_selection import PlanSet
from topwork_server.services.convert import item_messages
from topwork_server.services.request_checks import check_encoder_name
from topwork_server.types import Prompt, Tap


def encoder(
    entry: CatalogEntry,
    live: tuple[str, str] | None,
    loaded: LoadedEncoder | None,
    chosen: Sequence[PlanSet | None],
) -> encoders_pb2.Encoder:
    """Convert an encoder. `live` is the state, with a detail, where this process knows more than the disk does; `loaded` is
    what is in memory; `chosen` is what computes each tower here, where that is known."""
    spec, manifest = entry.spec, entry.manifest
    state, detail = live or (entry.state.value, entry.detail)
    if state == EncoderState.READY and not detail and None in chosen:
        detail = "the first use measures what each device here makes of it, once: 3 to 20 seconds"
    if any(plans is not None and not plans.plans for plans in chosen):
        detail = "no device here computes it well enough: its use is refused with the figures"
    towers = [_tower(tower, plans) for tower, plans in zip(entry.towers, map(_usable, chosen), strict=True)]
    worst = min(towers, key=lambda tower: tower.numerics.parity)
    return encoders_pb2.Encoder(
        name=spec.name,
        modality=f"MODALITY_{spec.modality.name}",
        modalities=[f"MODALITY_{modality.name}" for modality in spec.modalities],
        taps=_taps(entry),
        default_tap=spec.default_tap,
        parameters=(manifest.parameters if manifest else 0) or spec.parameters or 0,
        trained_on=spec.trained_on,
        license=spec.license,
        source=spec.source,
        description=spec.description,
        state=f"ENCODER_STATE_{state.upper()}",
        detail=detail,
        numerics=worst.numerics if worst.HasField("numerics") else None,
        options=options(declared_options.declared_by(spec)),
        plugin=entry.owner,
        has_vocabulary=spec.encoder.nearest is not Encoder.nearest,
        artifact_bytes=manifest.bytes if manifest else 0,
        counters=dict(loaded.counters) if loaded else None,
        devices=towers[0].devices if len(towers) == 1 else (),
        unused_weights=manifest.unused if manifest else (),
        heads=pretrained_heads.names_in(entry.folder) if entry.folder else (),
        towers=towers if len(towers) > 1 else (),
        prompts=[_prompt(prompt) for prompt in entry.prompts],
    )


def _usable(plans: PlanSet | None) -> PlanSet | None:
    return plans if plans is not None and plans.plans else None


def _tower(entry: CatalogEntry, chosen: PlanSet | None) -> encoders_pb2.Tower:
    spec, manifest, tap = entry.spec, entry.manifest, [entry.spec.default_tap]
    numerics = (
        chosen.plans[0].numerics_of(tap) if chosen else device_selection.plain_numerics(manifest, tap) if manifest else None
    )
    return encoders_pb2.Tower(
        modality=f"MODALITY_{spec.modality.name}",
        taps=[info.tap.name for info in entry.taps] or [declared.name for declared in spec.taps],
        parameters=(manifest.parameters if manifest else 0) or spec.parameters or 0,
        numerics=item_messages.numerics(numerics) if numerics else None,
        devices=devices(manifest, chosen) if chosen and manifest else (),
    )


def devices(manifest: Manifest, chosen: PlanSet) -> list[encoders_pb2.Device]:
    """Convert what was measured here, the device in use first."""
    taps = {info.tap.name: chosen.device_of(info.tap.name) for info in manifest.taps}
    return [_device(manifest, record, [tap for tap in taps if taps[tap] == record.device]) for record in chosen.records]


def _device(manifest: Manifest, record: DeviceRecord, taps: list[str]) -> encoders_pb2.Device:
    numerics = device_selection.numerics_of(manifest, record, device_selection.passing(record))
    if numerics.precision not in record.device.precision:  # int8, and what the device computes of the rest
        numerics = replace(numerics, precision=f"{numerics.precision}+{record.device.precision}")
    return encoders_pb2.Device(
        numerics=item_messages.numerics(numerics),
        invariance=device_selection.invariance_of(record),
        samples_per_second=record.samples_per_second,
        taps=taps,
        parity={} if record.error else device_selection.parity_of(manifest, record),
        detail=device_selection.why_not(record),
    )


def pretrainer(registered: RegisteredPretrainer) -> encoders_pb2.Pretrainer:
    """Convert a kind of pretraining."""
    spec = registered.spec
    return encoders_pb2.Pretrainer(
        kind=spec.kind,
        description=spec.description,
        needs_encoder=spec.continues,
        options=options(spec.pretrainer.options),
        plugin=registered.owner,
    )


def pretrain_request(settings: encoders_pb2.PretrainSettings) -> PretrainRequest:
    """Convert the settings of a pretraining."""
    return PretrainRequest(
        kind=settings.kind,
        name=settings.name,
        encoder=check_encoder_name(settings.encoder) if settings.encoder else "",
        options=item_messages.options(settings.options),
        seed=settings.seed,
        set=settings.set,
        where=settings.where,
        version=settings.version,
        source=settings.source,
    )


def _prompt(prompt: Prompt) -> encoders_pb2.Prompt:
    role = f"ROLE_{prompt.role.name}" if prompt.role else None
    return encoders_pb2.Prompt(name=prompt.name, text=prompt.text, role=role, default=prompt.default)


def _taps(entry: CatalogEntry) -> list[types_pb2.Tap]:
    if entry.manifest:
        return [tap(info.tap, info.fingerprint) for info in entry.taps]
    towers = entry.spec.towers
    return [tap(declared) for declared in {declared.name: declared for one in towers for declared in one.taps}.values()]


def tap(declared: Tap, fingerprint: str = "") -> types_pb2.Tap:
    """A tap as a message; the fingerprint is empty before the export."""
    return types_pb2.Tap(
        name=declared.name,
        dim=declared.dim,
        granularity=item_messages.granularity(declared.granularity),
        grid=declared.grid,
        description=declared.description,
        fingerprint=fingerprint,
    )


def options(declared: type[Any]) -> list[encoders_pb2.Option]:
    """Convert the options that a request may set, with types, bounds, choices and defaults as JSON; `declared` is the dataclass
    of the options of an encoder, a kind of index or a trainer."""
    return [
        encoders_pb2.Option(
            name=choice.name,
            type=choice.type,
            default=choice.default,
            description=choice.description,
            schema=json.dumps(choice.schema, ensure_ascii=False),
        )
        for choice in declared_options.choices(declared)
    ]
