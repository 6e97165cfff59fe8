"""Features of texts that a training encodes itself: the two sides of pairs, each by itself (two towers), and captions.

u, v, |u - v|, u * v: Conneau et al. 2017, section 3.1; with the cosine, as Reimers and Gurevych 2019, section 3, compare by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from topwork_server.blocking_calls import Report
from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.features import EmbedResult, TapRows, rows_of, starts_of
from topwork_server.heads import pooling
from topwork_server.heads.head_types import HeadDefinition, Pooling
from topwork_server.heads.pooling import TOWERS
from topwork_server.models.artifacts import MODEL
from topwork_server.models.catalog import Catalog
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.plugin_api.options import parse_own
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.runtime.session import Session
from topwork_server.types import Array, FingerprintedTap, Item, Modality, Sample, TextItem

#: Samples of one pass; they are sorted by length.
BATCH = 32


class Encode(Protocol):
    """Encodes texts to one row each, by the name of the tap. Where `failures` is given, a text that the encoder does not take has
    its error there, by position, and a row of zeros."""

    def __call__(
        self, texts: Sequence[str], report: Report, failures: dict[int, InvalidInput] | None = None
    ) -> Mapping[str, Array]: ...


def is_pair(item: Item | None) -> bool:
    return isinstance(item, TextItem) and bool(item.text) and bool(item.pair)


def split_sides(items: Sequence[Item], skip: bool = False) -> list[Item]:
    """List all texts, then the other side of each.

    InvalidInput for an item that is no pair, unless it is skipped: then it is left to the encoder, which rejects empty texts.
    """
    for position, item in enumerate(items):
        if not skip and not is_pair(item):
            raise InvalidInput("it is no pair of texts", remedy="send a text and its pair, neither empty", item=position)
    texts = [item if isinstance(item, TextItem) else TextItem("") for item in items]
    return [*(TextItem(one.text if one.pair else "") for one in texts), *(TextItem(one.pair or "") for one in texts)]


def pair_sides(features: EmbedResult, count: int) -> EmbedResult:
    """Join the features of `split_sides`: two rows per item, none for an item of which one side failed."""
    failures: dict[int, TopworkError] = {}
    notes: dict[int, Mapping[str, int]] = {}
    for position, error in features.failures.items():
        failures.setdefault(position % count, error.at(position % count))
    for position, note in features.notes.items():
        notes[position % count] = {**notes.get(position % count, {}), **note}
    taps = tuple(paired_rows(rows, count) for rows in features.taps)
    return replace(features, taps=taps, notes=notes, failures=failures)


def paired_rows(rows: TapRows, count: int) -> TapRows:
    """Join the rows of 2 * count items, the first sides before the second ones."""
    there = rows.counts > 0
    both = there[:count] & there[count:]
    means = np.zeros((2 * count, rows.rows.shape[1]), np.float32)
    if there.any():
        starts = starts_of(rows.counts)[there]
        means[there] = np.add.reduceat(rows.rows, starts, axis=0, dtype=np.float64) / rows.counts[there][:, None]
    pairs = np.stack([means[:count][both], means[count:][both]], axis=1)
    return TapRows(rows.tap, pairs.reshape(-1, means.shape[1]), np.where(both, 2, 0))


@dataclass(frozen=True)
class TextEncoder:
    """Runs an encoder of texts in the process of a training. `than` and `remedy` are for the error where one of its `taps` has
    another fingerprint by now."""

    home: Path
    plugins: PluginRegistry
    name: str
    options: Mapping[str, Any]
    taps: tuple[FingerprintedTap, ...]
    threads: int
    than: str
    remedy: str

    @classmethod
    def of(cls, definition: HeadDefinition, home: Path, plugins: PluginRegistry, threads: int) -> TextEncoder:
        """The one that a training reads: of captions, or the set's own for the sides of pairs."""
        if texts := definition.texts:
            than, again = "when the training was asked for", "the encoder has changed since: train again"
            return cls(home, plugins, texts.encoder, {}, (texts.tap,), threads, than, again)
        taps = tuple({info.tap.name: info for info, how in definition.views if how in TOWERS}.values())
        than, again = f"the set {definition.set}", "the encoder has changed since: write the set again"
        return cls(home, plugins, definition.encoder, definition.encoder_options, taps, threads, than, again)

    def __call__(self, texts: Sequence[str], report: Report, failures: dict[int, InvalidInput] | None = None) -> dict[str, Array]:
        """Encode texts to (n, dim) for each tap; rows of tokens are averaged. NotReady where the encoder has changed."""
        encoder, session = self._open()
        options = parse_own(encoder.options, self.options)
        found = {info.tap.name: np.zeros((len(texts), info.tap.dim), np.float32) for info in self.taps}
        samples = {at: sample for at, text in enumerate(texts) if (sample := _sample(encoder, text, options, at, failures))}
        order = sorted(samples, key=lambda at: encoder.cost(samples[at]))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            batch = [samples[place] for place in places]
            outputs = session.run(list(found), encoder.collate(batch))
            for info, output in zip(self.taps, outputs, strict=True):
                means = [rows_of(info.tap, one, sample).mean(axis=0) for one, sample in zip(output, batch, strict=True)]
                found[info.tap.name][places] = means
            report((start + len(places)) / len(order), f"encoded {start + len(places):,} of {len(order):,} texts")
        return found

    def _open(self) -> tuple[Encoder, Session]:
        entry = Catalog(self.plugins, self.home).entry(self.name)
        entry.check_taps(self.taps, self.than, self.remedy)
        tower = next((tower for tower in entry.towers if tower.spec.modality is Modality.TEXT), entry)
        assert tower.folder is not None, "all towers are ready"
        return tower.spec.encoder(tower.spec, tower.folder), Session(tower.folder / MODEL, self.threads)


def _sample(encoder: Encoder, text: str, options: Any, position: int, failures: dict[int, InvalidInput] | None) -> Sample | None:
    try:
        [sample] = encoder.preprocess(TextItem(text), options)
    except InvalidInput as error:
        if failures is None:
            raise error.at(position) from None
        failures[position] = error
        return None
    return sample


def pool_sides(how: Pooling, tap: FingerprintedTap, u: Array, v: Array) -> Array:
    """Pool (n, dim) rows of both sides to what a head reads."""
    rows = TapRows(tap, np.stack([u, v], axis=1).reshape(-1, u.shape[1]), np.full(len(u), 2))
    return pooling.reduce_rows(how, rows)
