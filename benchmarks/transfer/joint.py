"""One trunk tuned on two targets at once, beside one for each alone: the side of film reviews and their rating, on the same
test items, through a server as a user has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from topwork import Client, HeadInfo

from benchmarks.transfer.datasets import Dataset
from benchmarks.transfer.frozen_features import PREFIX, Line, line_of

SET, NAME = f"{PREFIX}-joint", f"{PREFIX}-joint"
TARGETS = ("side", "rating")
#: Items of a seed: that many teach and validate, and that many test. A third of the ratings is missing from the former.
LEARNED, TESTED = 300, 400
USUAL: Mapping[str, Any] = {"epochs": 6, "patience": 0}


def lines(client: Client, data: Dataset, seeds: Sequence[int], say: Callable[[str], None]) -> Iterator[Line]:
    """Train each target alone and both at once, with other items for each seed."""
    heads: dict[tuple[str, str], list[HeadInfo]] = {}
    for seed in seeds:
        _write(client, data, seed)
        try:
            for target in TARGETS:
                say(f"seed {seed}: {target} alone")
                heads.setdefault((target, "alone"), []).append(_train(client, target, seed))
                client.drop_head(NAME)
            say(f"seed {seed}: both at once")
            both = _train(client, TARGETS[0], seed, also={TARGETS[1]: 1.0})
            others = [client.head(f"{NAME}-{target}") for target in TARGETS[1:]]
            for target, head in zip(TARGETS, [both, *others], strict=True):
                heads.setdefault((target, "both at once"), []).append(head)
            for head in [*others, both]:  # the encoder goes with the last
                client.drop_head(head.name)
        finally:
            client.drop_set(SET)
    for (target, way), found in sorted(heads.items()):
        yield line_of(data.name, target, f"{found[0].labeled}", f"{data.encoder}, {way}", found)


def _write(client: Client, data: Dataset, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rated = [i for i, one in enumerate(data.metadata) if one["side"]]
    chosen = rng.permutation(rated)[: LEARNED + TESTED]
    rows = [{**data.metadata[i], "place": place} for place, i in enumerate(chosen)]
    for row in rows[:LEARNED:3]:
        row["rating"] = None
    items, ids = [data.items[i] for i in chosen], [f"{i:06d}" for i in chosen]
    client.write(SET, items, ids, rows, encoder=data.encoder, taps=["pooled"], keep_inputs=True)


def _train(client: Client, target: str, seed: int, also: Mapping[str, float] | None = None) -> HeadInfo:
    where = f"place >= {LEARNED}"
    return client.train(
        SET, target=target, name=NAME, kind="fine-tune", options=USUAL, test_where=where, seed=seed, also=also, replace=True
    )
