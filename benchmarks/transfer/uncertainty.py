"""Measures whether what a head says of its doubts is true: the coverage that it promises and the typicality of items, on the half
of the data that it has not learned from and on other data, through a server as a user has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from topwork import Client, Predictions
from topwork_server.types import Array

from benchmarks import inputs
from benchmarks.transfer import datasets

COVERAGE = 0.9
#: Typicality that one in twenty new items should fall below.
RARE = 0.05
#: Items of each of the other data, and of film reviews.
MOST_OTHERS, MOST_REVIEWS = 1000, 2000
#: Of a category, so that each half has some.
FEWEST_STAMPS = 20


@dataclass(frozen=True)
class Case:
    """Items with labels, halved by groups, and other data by name: items, and their labels where the classes are the same."""

    name: str
    encoder: str
    items: Sequence[Any]
    labels: Sequence[str]
    groups: Sequence[str]
    others: Mapping[str, tuple[Sequence[Any], Sequence[str] | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Means over seeds, with the least and the most: accuracy, the share of truths in 90% sets and their size (none without
    labels), the share of items of a typicality below 0.05, and the AUROC of typicality against the held-out half (of others
    alone)."""

    data: str
    on: str
    items: int
    figures: Mapping[str, tuple[float, float, float]]


def cases(folder: Path) -> Iterator[Case]:
    """Yield the cases; `folder` keeps what is downloaded."""
    reviews = datasets.sides(folder, "movieReviewSnippets", MOST_REVIEWS)
    docs = inputs.labeled_sentences(2000)
    texts, packages = zip(*docs, strict=True)
    yield Case("docstrings", "all-minilm-l6-v2", texts, packages, texts, {"film reviews": (reviews[0][:MOST_OTHERS], None)})
    names = {"amazonReviewSnippets": "product reviews", "tweets": "tweets", "nytEditorialSnippets": "editorials"}
    others: dict[str, Any] = {name: datasets.sides(folder, file, MOST_OTHERS) for file, name in names.items()}
    yield Case("film reviews", "all-minilm-l6-v2", *reviews, reviews[0], others)
    stamps, fashion = datasets.stamps(), datasets.fashion([0])
    some = np.random.default_rng(0).permutation(len(fashion.items))[:MOST_OTHERS]
    counts = Counter(one["label"] for one in stamps.metadata)
    kept = [i for i, one in enumerate(stamps.metadata) if counts[one["label"]] >= FEWEST_STAMPS]
    labels, groups = ([stamps.metadata[i][name] for i in kept] for name in ("label", "group"))
    items, clothes = [stamps.items[i] for i in kept], [fashion.items[i] for i in some]
    yield Case("stamps", stamps.encoder, items, labels, groups, {"fashion-mnist": (clothes, None)})


def measured(client: Client, case: Case, seeds: Sequence[int], say: Callable[[str], None]) -> Iterator[Measured]:
    """Measure on the held-out half and on each of the others. The set and its head are dropped in the end."""
    name, ids = f"transfer-{case.name.replace(' ', '-')}-doubts", np.array([f"{i:06d}" for i in range(len(case.items))])
    if name in {one.name for one in client.sets()}:  # of a run that was ended
        client.drop_set(name)
    halves = [_half(case.groups, seed) for seed in seeds]
    metadata = [
        {"label": label, "group": group, **{f"half_{seed}": bool(half[i]) for seed, half in zip(seeds, halves, strict=True)}}
        for i, (label, group) in enumerate(zip(case.labels, case.groups, strict=True))
    ]
    say(f"{case.name}: writing")
    client.write(name, ids=ids.tolist(), metadata=metadata, encoder=case.encoder, items=list(case.items))
    vectors = {other: client.embed(case.encoder, list(items)) for other, (items, _) in case.others.items()}
    found: dict[str, list[dict[str, float]]] = {}
    for seed, half in zip(seeds, halves, strict=True):
        say(f"{case.name}: seed {seed}")
        head = client.train(name, target="label", name=name, where=f"half_{seed}", group="group", seed=seed, replace=True).name
        held = client.predict(head, set=name, ids=ids[~half].tolist(), coverage=COVERAGE, unlike=0)
        truth = [label for label, learned in zip(case.labels, half, strict=True) if not learned]
        found.setdefault("its other half", []).append(_figures(held, truth, None))
        for other, (_, labels) in case.others.items():
            said = client.predict(head, vectors=vectors[other], coverage=COVERAGE, unlike=0)
            found.setdefault(other, []).append(_figures(said, labels, held.typicality))
    client.drop_head(name)
    client.drop_set(name)
    counts = {"its other half": len(ids) - int(halves[0].sum()), **{o: len(items) for o, (items, _) in case.others.items()}}
    for on, runs in found.items():
        yield Measured(case.name, on, counts[on], {figure: _spread([run[figure] for run in runs]) for figure in runs[0]})


def _half(groups: Sequence[str], seed: int) -> Array:
    """Choose half of the groups to learn from, (items,) bool."""
    names, which = np.unique(groups, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(names)) < len(names) // 2
    return np.asarray(chosen[which])


def _figures(found: Predictions, truth: Sequence[str] | None, typical: Array | None) -> dict[str, float]:
    assert found.typicality is not None, "it was asked for"
    figures: dict[str, float] = {}
    if truth is not None:
        held = [one.candidates or () for one in found]
        figures["accuracy"] = float(np.mean([one.label == of for one, of in zip(found, truth, strict=True)]))
        figures["coverage"] = float(np.mean([of in names for names, of in zip(held, truth, strict=True)]))
        figures["size"] = float(np.mean([len(names) for names in held]))
    figures["unlike"] = float((found.typicality < RARE).mean())
    if typical is not None:
        figures["AUROC"] = auroc(typical, found.typicality)
    return figures


def auroc(like: Array, unlike: Array) -> float:
    """Compute how likely an item of `unlike` has a smaller typicality than one of `like`; equal ones count as a half."""
    both = np.sort(like)
    below = np.searchsorted(both, unlike, side="left"), np.searchsorted(both, unlike, side="right")
    return float(1 - np.mean(below[0] + below[1]) / 2 / len(like))


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return float(np.mean(values)), float(np.min(values)), float(np.max(values))


def line(one: Measured) -> str:
    """Format a line of the table: means, and from the least to the most over the seeds."""
    columns = ("accuracy", "coverage", "size", "unlike", "AUROC")
    cells = ["{:.3f} ({:.3f} to {:.3f})".format(*one.figures[name]) if name in one.figures else "" for name in columns]
    return f"| {one.data} | {one.on} | {one.items:,} | {' | '.join(cells)} |"
