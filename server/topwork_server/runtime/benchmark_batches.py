"""Batches with which devices are measured: the samples that the export kept, alone and in batches as the encoder makes them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from topwork_server.plugin_api.encoder import Encoder
from topwork_server.runtime.parity import numbered, saved_inputs
from topwork_server.types import Array, Sample

#: Samples of a batch, where the encoder's budget allows for more.
MOST = 32
#: Beside the names of the inputs in a file: no input has an empty name.
MEMBERS = ""


@dataclass(frozen=True)
class BenchmarkBatch:
    """Graph inputs for the samples `members`, by their number; those that are alone in a batch are the samples themselves."""

    members: tuple[int, ...]
    feeds: Mapping[str, Array]


def save_batches(path: Path, batches: Sequence[BenchmarkBatch]) -> None:
    """Write batches for `load_batches`."""
    np.savez(path, **numbered([{**batch.feeds, MEMBERS: np.array(batch.members)} for batch in batches]))


def load_batches(path: Path) -> list[BenchmarkBatch]:
    return [BenchmarkBatch(tuple(named.pop(MEMBERS).tolist()), named) for named in saved_inputs(path)]


def batches_of(encoder: Encoder, inputs: Sequence[Mapping[str, Array]]) -> list[BenchmarkBatch]:
    """The saved samples one by one, then full batches of them, as the encoder's budget has them: of equal shapes, and where it
    pads one of all."""
    alone = [BenchmarkBatch((i,), feeds) for i, feeds in enumerate(inputs)]
    return alone + [BenchmarkBatch(tuple(members), _joined(encoder, members, inputs)) for members in _groups(encoder, inputs)]


def _groups(encoder: Encoder, inputs: Sequence[Mapping[str, Array]]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    padded = encoder.pads and _round_trips(encoder, inputs)
    for i, feeds in enumerate(inputs):
        key = None if padded else tuple((name, array.shape) for name, array in feeds.items())
        groups.setdefault(key, []).append(i)
    return [_filled(encoder, members, inputs) for members in groups.values()]


def _filled(encoder: Encoder, members: Sequence[int], inputs: Sequence[Mapping[str, Array]]) -> list[int]:
    """Repeat the members until the batch is full; at least two, so that each has a batch-mate."""
    longest = max((_cost(encoder, inputs[i]) for i in members), default=1)
    return list(islice(cycle(members), max(2, min(MOST, encoder.budget // max(longest, 1)))))


def _cost(encoder: Encoder, feeds: Mapping[str, Array]) -> int:
    try:
        return encoder.cost(_sample(feeds))
    except Exception:  # the graph's inputs are not the sample's own
        return encoder.budget // 4


def _joined(encoder: Encoder, members: Sequence[int], inputs: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    if len({tuple(array.shape for array in inputs[i].values()) for i in members}) == 1:
        return {name: np.concatenate([inputs[i][name] for i in members]) for name in inputs[members[0]]}
    return encoder.collate([_sample(inputs[i]) for i in members])


def _round_trips(encoder: Encoder, inputs: Sequence[Mapping[str, Array]]) -> bool:
    """True if the saved inputs of the graph are also valid inputs of `collate`."""
    try:
        again = [encoder.collate([_sample(feeds)]) for feeds in inputs]
    except Exception:
        return False
    return all(_equal(one, two) for one, two in zip(again, inputs, strict=True))


def _equal(one: Mapping[str, Array], two: Mapping[str, Array]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def _sample(feeds: Mapping[str, Array]) -> Sample:
    return Sample({name: array[0] for name, array in feeds.items()})
