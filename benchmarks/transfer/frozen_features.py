"""Frozen features and a linear head, through a server as a user has it: sets are written, heads trained, reports read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from topwork import Client, HeadInfo
from topwork_server.models.catalog import Catalog

from benchmarks.transfer.datasets import Dataset
from benchmarks.transfer.random_baseline import random_encoder

PREFIX = "transfer"
SPLIT = "split = 'test'"


@dataclass(frozen=True)
class Line:
    """A line of the table. `low` and `high`: the widest of the heads' own 95% intervals joined with the spread over seeds."""

    data: str
    target: str
    labels: str  # how many were learned from
    reads: str
    measure: str
    value: float
    low: float
    high: float
    baseline: float
    seeds: int


def lines(client: Client, catalog: Catalog, data: Dataset, seeds: Sequence[int], say: Callable[[str], None]) -> Iterator[Line]:
    """Measure every way to read the data, for each target and size. Its sets are dropped in the end."""
    ways = _write(client, catalog, data, say)
    try:
        for target in data.targets:
            for size in data.sizes or (0,):
                for reads, name in ways.items():
                    say(f"{data.name}: {target}, {size or 'all'} labels, {reads}")
                    heads = [_train(client, data, name, target, size, seed) for seed in seeds]
                    labels = f"{size} a class" if size else f"{heads[0].labeled}, folds"
                    yield line_of(data.name, target, labels, reads, heads)
    finally:
        for name in ways.values():
            client.drop_set(name)


def _write(client: Client, catalog: Catalog, data: Dataset, say: Callable[[str], None]) -> dict[str, str]:
    """Write the sets; return by what is read the set that holds it."""
    ids = [f"{i:06d}" for i in range(len(data.items))]
    for left in client.sets():  # of a run that was ended
        if left.name.startswith(f"{PREFIX}-{data.name}-"):
            client.drop_set(left.name)
    written = {}

    def write(reads: str, kind: str, **what: Any) -> None:
        name = f"{PREFIX}-{data.name}-{kind}"
        say(f"{data.name}: writing {reads}")
        client.write(name, ids=ids, metadata=list(data.metadata), **what)
        written[reads] = name

    write(data.plain_name, "plain", vectors=data.plain)
    if data.random is not None:
        write("random vectors", "random", vectors=data.random)
    else:
        random = random_encoder(catalog, data.encoder)
        write(f"{data.encoder}, random weights", "random", encoder=random, items=data.items, taps=list(data.taps))
    write(data.encoder, "features", encoder=data.encoder, items=data.items, taps=list(data.taps), skip_bad_items=True)
    return written


def _train(client: Client, data: Dataset, set_name: str, target: str, size: int, seed: int) -> HeadInfo:
    name = f"{set_name}-{target}"
    where, test = (f"{SPLIT} OR place_{seed} < {size}", SPLIT) if size else ("", "")
    head = client.train(
        set_name, target=target, name=name, seed=seed, where=where, test_where=test, group=data.group, replace=True
    )
    client.drop_head(name)
    return head


def line_of(data: str, target: str, labels: str, reads: str, heads: Sequence[HeadInfo], metric: int = 0) -> Line:
    """Join one metric of the heads of several seeds to a line."""
    found = [head.metrics[metric] for head in heads]
    values = np.array([one.value for one in found])
    spread = [values.min(), values.max()] if len(values) > 1 else []
    return Line(
        data=data,
        target=target,
        labels=labels,
        reads=reads,
        measure=found[0].name,
        value=float(values.mean()),
        low=float(min([one.low for one in found] + spread)),
        high=float(max([one.high for one in found] + spread)),
        baseline=float(np.mean([head.baseline[metric].value for head in heads])),
        seeds=len(heads),
    )


def rounded(line: Line) -> Line:
    return replace(line, **{name: round(getattr(line, name), 4) for name in ("value", "low", "high", "baseline")})
