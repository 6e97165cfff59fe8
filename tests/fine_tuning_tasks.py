"""Small datasets for tuners: tiny random trunks, items that a net can tell apart, and the way of a request to their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiny_berts
import tiny_pictures
import torch
from safetensors.torch import load_file
from small_nets import as_on_the_hub, random_net, spec_of
from topwork_plugins.bert.plugin import BertEncoder
from topwork_plugins.fine_tune.plugin import Contrastive, FineTune, FineTuneOptions, TrunkOptions
from topwork_plugins.i3d import plugin as i3d
from topwork_plugins.i3d.plugin import WindowOptions
from topwork_plugins.vision.plugin import VisionEncoder
from topwork_server import (
    Encoder,
    EncoderSpec,
    FineTuneDataset,
    FineTuneResult,
    InvalidInput,
    Modality,
    NoOptions,
    SourceUri,
    Target,
    TextItem,
    Trunk,
)
from topwork_server.features import TapRows, rows_of, spans_of
from topwork_server.heads import pooling
from topwork_server.heads.head_types import Pooling, Task
from topwork_server.runtime import tuned_weights
from topwork_server.types import Array, FingerprintedTap, Tap

#: Whole tokens of the tiny tokenizers; the numbers that they get there differ from run to run.
WORDS = (("alice", "book", "sister", "bank"), ("five", "pictures", "season", "states"))
COUNT = 36


@dataclass
class TunableEncoder:
    """An encoder in a folder; each `trunk()` is a fresh one with the same weights."""

    spec: EncoderSpec
    assets: Path
    folder: Path

    @cached_property
    def taps(self) -> dict[str, Tap]:
        return {tap.name: tap for tap in self.trunk().taps}

    def trunk(self) -> Trunk:
        self.folder.mkdir(exist_ok=True)
        return self.spec.encoder.export(self.spec, self.assets, self.folder)

    def encoder(self) -> Encoder:
        return self.spec.encoder(self.spec, self.folder)

    def tune(
        self, dataset: FineTuneDataset, out: Path, seed: int = 0, report: Any = lambda fraction, message: None, **options: Any
    ) -> FineTuneResult:
        out.mkdir(exist_ok=True)
        chosen = FineTuneOptions(**{"epochs": 3, "learning_rate": 1e-3, "head_learning_rate": 0.02, "batch": 6} | options)
        return FineTune.tune(self.trunk(), self.encoder(), dataset, chosen, seed, 1, out, report)

    def contrast(self, dataset: FineTuneDataset, out: Path, seed: int = 0, **options: Any) -> FineTuneResult:
        out.mkdir(exist_ok=True)
        chosen = TrunkOptions(**{"epochs": 8, "learning_rate": 1e-3, "batch": 8} | options)
        return Contrastive.tune(self.trunk(), self.encoder(), dataset, chosen, seed, 1, out, lambda *_: None)

    def served(self, tuned: FineTuneResult, dataset: FineTuneDataset, task: Task, positions: Sequence[int]) -> Array:
        """Scores of items by the server's own pooling, over a fresh trunk with the tuned state, an item at a time."""
        trunk, encoder = self.trunk(), self.encoder()
        assert trunk.module is not None
        if tuned.adapter is None:
            trunk.module.load_state_dict(load_file(tuned.weights))
        else:
            tuned_weights.merge(trunk.module, tuned.weights, tuned.adapter)
        trunk.module.eval()
        place = [tap.name for tap in trunk.taps].index(dataset.tap.name)
        scores = []
        for position in positions:
            samples = list(encoder.preprocess(dataset.items[position], dataset.options))
            with torch.no_grad():
                inputs = [encoder.collate([s]) for s in samples]
                outputs = [trunk.module(*(torch.from_numpy(i[name]) for name in trunk.inputs))[place][0].numpy() for i in inputs]
            rows = np.concatenate([rows_of(dataset.tap, o, s) for o, s in zip(outputs, samples, strict=True)])
            one = TapRows(FingerprintedTap(dataset.tap, ""), rows, np.array([len(rows)]), spans_of(dataset.tap, samples))
            scores.append(tuned.head.scores(pooling.pool_rows(task, Pooling(dataset.pooling), one)[0]))
        return np.concatenate(scores)


def bert(folder: Path, **changes: Any) -> TunableEncoder:
    source = tiny_berts.write(folder / "model", **changes)
    return TunableEncoder(EncoderSpec("tiny", BertEncoder, f"file:{source}", Modality.TEXT), source, folder / "out")


def pictures(folder: Path) -> TunableEncoder:
    source = as_on_the_hub(random_net("test_resnet"), folder / "net", size=32)
    return TunableEncoder(spec_of(source), source, folder / "out")


def videos(folder: Path) -> TunableEncoder:
    source = as_on_the_hub(random_net("test_resnet"), folder / "net", size=32)
    spec = i3d.resolve_source("inflated", SourceUri.parse(f"file:{source}", "i3d"))
    assert spec is not None
    return TunableEncoder(spec, source, folder / "out")


def texts(*, pairs: bool = False) -> tuple[list[Any], Array]:
    """Of the words of two classes in turn; of pairs, both texts are."""
    random, classes = np.random.default_rng(0), np.arange(COUNT) % 2

    def text(which: int) -> str:
        return " ".join(random.choice(WORDS[which], random.integers(2, 6)))

    return [TextItem(text(c), text(c) if pairs else None) for c in classes], classes


def dataset(
    tunable: TunableEncoder, items: Sequence[Any], values: Array, tap: str, how: str, target: Target, **changes: Any
) -> FineTuneDataset:
    """One value an item, unless `counts` is among the changes. Two thirds train; the rest validates and tests."""
    count = len(items)
    made = FineTuneDataset(
        items=items,
        options=tunable.spec.encoder.options(),
        tap=tunable.taps[tap],
        pooling=how,
        target=target,
        names=("a", "b"),
        values=values,
        counts=np.ones(count, np.int64),
        train=np.arange(2 * count // 3),
        validation=np.arange(2 * count // 3, 5 * count // 6),
        test=np.arange(5 * count // 6, count),
    )
    return replace(made, **changes)


def of_texts(tunable: TunableEncoder, tap: str = "pooled", how: str = "row", **changes: Any) -> FineTuneDataset:
    items, classes = texts(pairs=how == "pair")
    return dataset(tunable, items, classes, tap, how, Target.CLASSES, **changes)


def of_many_labels(tunable: TunableEncoder) -> FineTuneDataset:
    items, classes = texts()
    second = np.arange(COUNT) // 2 % 2 == 0
    items = [TextItem(f"{item.text} conversations") if more else item for item, more in zip(items, second, strict=True)]
    return dataset(tunable, items, np.stack([classes, second], 1).astype(np.float32), "mean", "row", Target.LABELS)


def of_numbers(tunable: TunableEncoder) -> FineTuneDataset:
    items, classes = texts()
    values = (1000 + 50 * classes + np.arange(COUNT) % 3).astype(np.float32)[:, None]
    return dataset(tunable, items, values, "tokens", "mean", Target.NUMBERS, names=())


def of_tokens(tunable: TunableEncoder) -> FineTuneDataset:
    """Each token has the class of its word: texts mix both."""
    random, encoder = np.random.default_rng(0), tunable.encoder()
    items, values, counts = [], [], []
    for _ in range(COUNT):
        words = [WORDS[c][random.integers(4)] for c in random.integers(0, 2, 5)]
        item = TextItem(" ".join(words))
        [sample] = encoder.preprocess(item, BertEncoder.options())
        assert sample.tokens is not None
        starts = sample.tokens.chars[:, 0]
        own = [words[item.text[:start].count(" ")] for start in starts.tolist()]
        items.append(item)
        values += [int(word in WORDS[1]) for word in own]
        counts.append(len(own))
    return dataset(tunable, items, np.array(values), "hidden.1", "rows", Target.CLASSES, counts=np.array(counts))


def of_answers(tunable: TunableEncoder) -> FineTuneDataset:
    """The answer to any question is the word "season" of the context."""
    random, encoder = np.random.default_rng(0), tunable.encoder()
    items, values, counts = [], [], []
    for _ in range(COUNT):
        words = [str(word) for word in random.choice(WORDS[0], 6)]
        words[random.integers(6)] = "season"
        item = TextItem("where", " ".join(words))
        [sample] = encoder.preprocess(item, BertEncoder.options())
        assert sample.tokens is not None
        assert item.pair is not None
        chars = sample.tokens.chars[sample.tokens.parts == 1]
        start = item.pair.index("season")
        inside = (chars[:, 0] >= start) & (chars[:, 1] <= start + len("season"))
        own = np.zeros((len(chars), 2), np.float32)
        own[np.flatnonzero(inside)[0], 0] = own[np.flatnonzero(inside)[-1], 1] = 1
        items.append(item)
        values.append(own)
        counts.append(len(own))
    return dataset(tunable, items, np.concatenate(values), "tokens", "rows", Target.SPAN, counts=np.array(counts), names=())


def squares(count: int = COUNT) -> tuple[list[Array], Array]:
    """Pictures: dark ones, and those with a bright upper left quarter."""
    random, classes = np.random.default_rng(0), np.arange(count) % 2
    found = random.integers(0, 60, (count, 32, 32, 3), dtype=np.uint8)
    found[classes == 1, :16, :16] += 180
    return list(found), classes


def of_pictures(tunable: TunableEncoder, tap: str = "pooled", how: str = "row") -> FineTuneDataset:
    items, classes = squares()
    return dataset(tunable, items, classes, tap, how, Target.CLASSES, options=NoOptions())


def of_cells(tunable: TunableEncoder) -> FineTuneDataset:
    """Each cell of a grid of 4 x 4 is bright or not; a row of cells is not to be learned."""
    items, classes = squares()
    grid = np.zeros((COUNT, 4, 4), np.int64)
    grid[classes == 1, :2, :2] = 1
    grid[:, 3] = -1
    counts = np.full(COUNT, 16)
    return dataset(tunable, items, grid.reshape(-1), "layer2", "rows", Target.CLASSES, counts=counts, options=NoOptions())


def of_videos(tunable: TunableEncoder, how: str = "mean") -> FineTuneDataset:
    """Clips of one to three windows."""
    stills, classes = squares(12)
    items = [np.repeat(still[None], 4 + 4 * (i % 3), axis=0) for i, still in enumerate(stills)]
    return dataset(tunable, items, classes, "pooled", how, Target.CLASSES, options=WindowOptions(frames=4))


def transformer(folder: Path, library: Literal["timm", "transformers"]) -> TunableEncoder:
    """A tiny vision transformer for pictures of 32 x 32 pixels."""
    if library == "timm":
        arguments = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
        net = random_net("vit_tiny_patch16_224", **arguments)
        source = as_on_the_hub(net, folder / "net", size=32, arguments=arguments)
        return TunableEncoder(spec_of(source), source, folder / "out")
    model = tiny_pictures.random_model("vit", image_size=32, patch_size=8)
    source = tiny_pictures.write(model, folder / "net", size={"height": 32, "width": 32})
    return TunableEncoder(EncoderSpec("tiny", VisionEncoder, f"file:{source}", Modality.IMAGE), source, folder / "out")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.remedy
    return str(caught.value)


def check_served(tunable: TunableEncoder, dataset: FineTuneDataset, task: Task, tuned: FineTuneResult) -> None:
    """What is served of it predicts what torch predicted."""
    for positions, scores in ((dataset.validation, tuned.validation_scores), (dataset.test, tuned.test_scores)):
        assert scores.dtype == np.float32
        if not len(positions):
            continue
        served = tunable.served(tuned, dataset, task, positions.tolist())
        np.testing.assert_allclose(scores, served, rtol=1e-3, atol=1e-3 * float(np.abs(served).max()))
