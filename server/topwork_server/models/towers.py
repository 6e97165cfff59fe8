"""Several towers as one encoder: the artifacts of an image and a text tower that embed into one space, described together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from topwork_server.errors import ExportFailed
from topwork_server.models.artifacts import Manifest
from topwork_server.models.fingerprint import space_fingerprint
from topwork_server.types import EncoderSpec, FingerprintedTap, Granularity


def join_manifests(spec: EncoderSpec, manifests: Sequence[Manifest]) -> Manifest:
    """Join what the towers' manifests say, in the order of `spec.towers`. The default tap, which lies in the space, has one
    fingerprint over all towers; every other tap is of one tower. ExportFailed where the towers do not fit together."""
    space = _space_tap(spec, manifests)
    others = [info for manifest in manifests for info in manifest.taps if info.tap.name != space.tap.name]
    names = [info.tap.name for info in others]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _misfit(spec, f"several of them have a tap {twice[0]}", "give the taps of one tower alone names of their own")
    return replace(
        manifests[0],
        encoder=spec.name,
        taps=(space, *others),
        parameters=sum(manifest.parameters for manifest in manifests),
        numerics=min((manifest.numerics for manifest in manifests), key=lambda numerics: numerics.parity),
        reference=" and ".join(dict.fromkeys(manifest.reference for manifest in manifests)),
        parity=_join_parity(manifests),
        batches=tuple(batch for manifest in manifests for batch in manifest.batches),
        bytes=sum(manifest.bytes for manifest in manifests),
        unused=tuple(sorted({name for manifest in manifests for name in manifest.unused})),
        remarks=tuple(dict.fromkeys(remark for manifest in manifests for remark in manifest.remarks)),
    )


def join_fingerprints(spec: EncoderSpec, by_tower: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The fingerprint of each tap of the whole encoder, of those of its towers, in the order of `spec.towers`."""
    if len(by_tower) == 1:
        return dict(by_tower[0])
    found = {tap: fingerprint for tower in by_tower for tap, fingerprint in tower.items()}
    towers = zip(spec.modalities, by_tower, strict=True)
    return found | {spec.default_tap: space_fingerprint({str(of): tower[spec.default_tap] for of, tower in towers})}


def _space_tap(spec: EncoderSpec, manifests: Sequence[Manifest]) -> FingerprintedTap:
    """The tap that every tower has."""
    found = [info for manifest in manifests if (info := manifest.tap(spec.default_tap))]
    if len(found) < len(manifests):
        raise _misfit(spec, f"not each of them has the tap {spec.default_tap}", "name the tap of their common space alike in all")
    if len({(info.tap.dim, info.tap.granularity) for info in found}) > 1 or found[0].tap.granularity is not Granularity.ITEM:
        shapes = ", ".join(f"{info.tap.dim} a {info.tap.granularity}" for info in found)
        remedy = "give it one row an item, of one dimension in all towers"
        raise _misfit(spec, f"their tap {spec.default_tap} has {shapes}", remedy)
    fingerprints = [{info.tap.name: info.fingerprint for info in manifest.taps} for manifest in manifests]
    return FingerprintedTap(found[0].tap, join_fingerprints(spec, fingerprints)[spec.default_tap])


def _misfit(spec: EncoderSpec, why: str, remedy: str) -> ExportFailed:
    return ExportFailed(f"the towers of {spec.name} do not fit together: {why}", remedy=remedy)


def _join_parity(manifests: Sequence[Manifest]) -> dict[str, Mapping[str, float]]:
    """Join parities by tap: of the one that all towers have, the worst."""
    joined: dict[str, Mapping[str, float]] = {}
    for manifest in manifests:
        for name, found in manifest.parity.items():
            known = joined.get(name, found)
            joined[name] = {
                "max_abs_error": max(known["max_abs_error"], found["max_abs_error"]),
                "min_cosine": min(known["min_cosine"], found["min_cosine"]),
            }
    return joined
