"""Measures whether learning without labels helps a head: a linear head on an encoder, and on that encoder trained further on
texts of the domain. The texts that judge the head are never learned from, not without labels either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork import Client, HeadInfo
from topwork_server import prepare_torchvision
from topwork_server.models.catalog import Catalog

from benchmarks.transfer import word_similarity
from benchmarks.transfer.datasets import Dataset

PREFIX = "transfer-pretraining"
#: One item in so many judges.
PART = 5
TEST = "split = 'test'"
#: The vocabulary and the longest text of a small BERT.
WORDS, POSITIONS = 4000, 96
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class DomainRun:
    """A head on an encoder. `steps` and `held_out` (loss before and after) are of the pretraining, 0 and None without one;
    `labels` is how many the head learned from; `low` to `high` is the 95% interval over test items."""

    data: str
    target: str
    encoder: str
    tap: str
    seed: int
    labels: int
    measure: str
    value: float
    low: float
    high: float
    steps: int = 0
    held_out: tuple[float, float] | None = None


def domain_runs(
    client: Client,
    data: Dataset,
    seeds: Sequence[int],
    options: Mapping[str, Any],
    sizes: Sequence[int],
    say: Callable[[str], None],
    taps: Sequence[str] = ("pooled", "mean"),
) -> Iterator[DomainRun]:
    """Yield a head of each target, tap and number of labels on the encoder as it is, and as each seed trained it further.

    `options` are those of `topwork pretrain mlm`. Sets are dropped in the end; `forget` deletes the encoders.
    """
    yield from _heads(client, data, data.encoder, 0, sizes, taps, say)
    texts = unjudged(data)
    for seed in seeds:
        name = f"{data.encoder}-{data.name}-{seed}"
        name = name if name.startswith(PREFIX) else f"{PREFIX}-{name}"
        say(f"{data.name}: training {data.encoder} further on {len(texts):,} texts, seed {seed}")
        report = client.pretrain("mlm", texts, encoder=data.encoder, name=name, options=options, seed=seed, source=data.name)
        loss = report.measures[0]
        say(str(report))
        steps = int(report.history[-1]["step"]) if report.history else 0
        yield from _heads(client, data, name, seed, sizes, taps, say, steps=steps, held_out=(loss.before or 0.0, loss.after))


def random_bert(folder: Path, texts: Sequence[str], seed: int) -> Path:
    """Write a small BERT with random weights, and a tokenizer of these texts: an encoder that has all to learn."""
    prepare_torchvision()
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, BertTokenizer

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=WORDS, special_tokens=list(SPECIAL), show_progress=False)
    pieces.train_from_iterator(texts, trainer)
    BertTokenizer(vocab=pieces.get_vocab(), model_max_length=POSITIONS).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    BertModel(BertConfig(vocab_size=WORDS, max_position_embeddings=POSITIONS, **sizes)).save_pretrained(folder)
    return folder


def forget(catalog: Catalog) -> None:
    """Delete the encoders that benchmarks of pretraining made. No server may run."""
    for name in catalog.added():
        if name.startswith((f"{PREFIX}-", f"{word_similarity.PREFIX}-")):
            catalog.delete(name)


def _heads(
    client: Client,
    data: Dataset,
    encoder: str,
    seed: int,
    sizes: Sequence[int],
    taps: Sequence[str],
    say: Callable[[str], None],
    **made: Any,
) -> Iterator[DomainRun]:
    name = f"{PREFIX}-{data.name}"
    if any(found.name == name for found in client.sets()):  # of a run that was ended
        client.drop_set(name)
    say(f"{data.name}: writing {encoder}")
    client.write(name, list(data.items), ids=range(len(data.items)), metadata=_metadata(data), encoder=encoder, taps=list(taps))
    try:
        for target in data.targets:
            for tap in taps:
                for size in sizes:
                    head = _trained(client, name, target, tap, size)
                    metric = head.metrics[0]
                    figure = (head.labeled, metric.name, metric.value, metric.low, metric.high)
                    yield DomainRun(data.name, target, encoder, tap, seed, *figure, **made)
    finally:
        client.drop_set(name)


def unjudged(data: Dataset) -> list[str]:
    """The texts that judge no head."""
    return [text for position, text in enumerate(data.items) if position % PART]


def _metadata(data: Dataset) -> list[dict[str, Any]]:
    """The labels, which fifth judges, and the place of the others, by which few are chosen: their order plays no part."""
    return [
        {**entry, "split": "train" if position % PART else "test", "place": position * 7919 % len(data.items)}
        for position, entry in enumerate(data.metadata)
    ]


def _trained(client: Client, name: str, target: str, tap: str, size: int) -> HeadInfo:
    where = f"{TEST} OR place < {size}" if size else ""
    head = client.train(name, target=target, name=f"{PREFIX}-head", taps=[tap], where=where, test_where=TEST, replace=True)
    client.drop_head(head.name)
    return head
