"""The types of verbs whose result depends on how they are called, for editors and type checkers; both clients share them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, Required, TypeAlias, TypedDict, TypeVar, Unpack, overload

from topwork._codec.items import ItemLike, Items, PilImage, SupportsArray
from topwork._ops.progress_bar import Progress
from topwork.features import Features
from topwork.jobs import JobProgress

One = TypeVar("One", covariant=True)
Many = TypeVar("Many", covariant=True)

#: One item by its type alone; an array is one item or several by its axes.
LoneItem: TypeAlias = str | bytes | bytearray | memoryview | os.PathLike[str] | PilImage
#: Ids of several items.
SeveralIds: TypeAlias = Iterable[str | int]
#: Rows of vectors by their type alone.
SeveralVectors: TypeAlias = Features | Sequence[Sequence[float]] | Sequence[SupportsArray]


class SearchSettings(TypedDict, total=False):
    """The settings of `search` that do not decide what comes back."""

    k: int
    index: str
    encoder: str
    fingerprint: str | None
    within: float | None
    where: str
    every_row: bool
    columns: Sequence[str] | None
    with_vectors: bool
    exact: bool
    effort: int
    offset: int
    metric: str
    timeout: float | None


class Search(Protocol[One, Many]):
    """The type of `search`: `One` for a lone query, `Many` for several."""

    @overload
    def __call__(self, set: str, query: LoneItem, **settings: Unpack[SearchSettings]) -> One: ...
    @overload
    def __call__(self, set: str, query: SupportsArray, **settings: Unpack[SearchSettings]) -> One | Many: ...
    @overload
    def __call__(
        self, set: str, query: Iterable[ItemLike] | AsyncIterable[ItemLike], **settings: Unpack[SearchSettings]
    ) -> Many: ...
    @overload
    def __call__(self, set: str, *, stored: str | int, **settings: Unpack[SearchSettings]) -> One: ...
    @overload
    def __call__(self, set: str, *, stored: SeveralIds, **settings: Unpack[SearchSettings]) -> Many: ...
    @overload
    def __call__(self, set: str, *, vectors: Sequence[float], **settings: Unpack[SearchSettings]) -> One: ...
    @overload
    def __call__(self, set: str, *, vectors: SeveralVectors, **settings: Unpack[SearchSettings]) -> Many: ...
    @overload
    def __call__(self, set: str, *, vectors: SupportsArray, **settings: Unpack[SearchSettings]) -> One | Many: ...


class PredictSettings(TypedDict, total=False):
    """The settings of `predict` that do not decide what comes back."""

    vectors: Any
    fingerprint: str
    set: str
    ids: str | int | SeveralIds | None
    top: int
    coverage: float
    abstain: float | None
    unlike: float | None
    min_score: float | None
    max_overlap: float | None
    max_boxes: int
    features: bool
    options: Mapping[str, Any] | None
    skip_bad_items: bool
    priority: str
    progress: Progress
    timeout: float | None


class Predict(Protocol[One, Many]):
    """The type of `predict`: `One` for a head, `Many` for a list of heads."""

    @overload
    def __call__(self, heads: str, items: Items | None = None, **settings: Unpack[PredictSettings]) -> One: ...
    @overload
    def __call__(self, heads: Sequence[str], items: Items | None = None, **settings: Unpack[PredictSettings]) -> Many: ...


class ProbeSettings(TypedDict, total=False):
    """The settings of `probe` that do not decide what comes back."""

    taps: Sequence[str]
    poolings: Sequence[str]
    task: str
    kind: str
    options: Mapping[str, Any] | None
    where: str
    group: str
    weight: str
    folds: int
    seed: int
    progress: JobProgress
    timeout: float | None


class Probe(Protocol[One, Many]):
    """The type of `probe`: `One` where it waits for the end, `Many` where it does not."""

    @overload
    def __call__(
        self, sets: str | Sequence[str], *, target: str, wait: Literal[True] = True, **settings: Unpack[ProbeSettings]
    ) -> One: ...
    @overload
    def __call__(
        self, sets: str | Sequence[str], *, target: str, wait: Literal[False], **settings: Unpack[ProbeSettings]
    ) -> Many: ...
    @overload
    def __call__(
        self, sets: str | Sequence[str], *, target: str, wait: bool, **settings: Unpack[ProbeSettings]
    ) -> One | Many: ...


class PretrainSettings(TypedDict, total=False):
    """The settings of `pretrain` that do not decide what comes back."""

    name: Required[str]
    encoder: str
    set: str
    where: str
    version: int | str
    column: str
    separator: str
    encoding: str
    options: Mapping[str, Any] | None
    seed: int
    source: str
    progress: JobProgress
    timeout: float | None


#: Texts to learn from: a file of this machine, or what iterates over str.
TextSource: TypeAlias = os.PathLike[str] | Iterable[str] | AsyncIterable[str]


class Pretrain(Protocol[One, Many]):
    """The type of `pretrain`: `One` where it waits for the end, `Many` where it does not."""

    @overload
    def __call__(
        self, kind: str, texts: TextSource | None = None, *, wait: Literal[True] = True, **settings: Unpack[PretrainSettings]
    ) -> One: ...
    @overload
    def __call__(
        self, kind: str, texts: TextSource | None = None, *, wait: Literal[False], **settings: Unpack[PretrainSettings]
    ) -> Many: ...
    @overload
    def __call__(
        self, kind: str, texts: TextSource | None = None, *, wait: bool, **settings: Unpack[PretrainSettings]
    ) -> One | Many: ...
