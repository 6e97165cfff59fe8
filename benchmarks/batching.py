"""Batches as a server would make them that sees all samples at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from topwork_server.plugin_api.encoder import Encoder, batch_key
from topwork_server.types import Sample


def by_length(encoder: Encoder, samples: Sequence[Sample], budget: float) -> list[list[Sample]]:
    """Of nearest length, cut where the next would pass the budget."""
    return [batch for group in _groups(encoder, samples) for batch in _cut(encoder, group, budget)]


def _groups(encoder: Encoder, samples: Sequence[Sample]) -> Iterable[Sequence[Sample]]:
    if encoder.pads:  # at a million words a second a key for each would count
        return [samples]
    groups: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(batch_key(encoder, sample), []).append(sample)
    return groups.values()


def _cut(encoder: Encoder, samples: Sequence[Sample], budget: float) -> list[list[Sample]]:
    batches: list[list[Sample]] = [[]]
    for sample in sorted(samples, key=encoder.cost):
        if batches[-1] and (len(batches[-1]) + 1) * encoder.cost(sample) > budget:
            batches.append([])
        batches[-1].append(sample)
    return batches
