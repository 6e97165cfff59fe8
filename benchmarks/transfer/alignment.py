"""Pictures and captions: stamps of Tux Paint, and the first line of the text beside each, through a server as users have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from topwork import Client, HeadInfo

from benchmarks.transfer import datasets
from benchmarks.transfer.frozen_features import Line, line_of

TEXTS = "all-minilm-l6-v2"
#: Encoders and taps of theirs.
Trunks = Sequence[tuple[str, tuple[str, ...]]]
TRUNKS: Trunks = (
    ("efficientnet-lite0", ("pooled", "layer4.pooled")),
    ("resnet50-thin", ("pooled", "layer4.pooled")),
)
#: Of a trunk with random weights: its line is near chance, and one seed tells that.
RANDOM_SEEDS = 1
NAME, TARGET = "transfer-captions", "caption"
#: Letters, digits and signs, of which nothing is said but which they are.
LEFT_OUT = "symbols"
#: Pixels of a picture's longer side: the trunks read 224 of 256.
SIDE = 320


def lines(client: Client, trunks: Trunks, seeds: Sequence[int], say: Callable[[str], None]) -> Iterator[Line]:
    """Measure recall at 5, 1 and 10 of each trunk's first tap, and of its taps side by side; or of the usual one."""
    pictures, captions = pairs()
    for left in client.sets():  # of a run that was ended
        if left.name == NAME:
            client.drop_set(NAME)
    for encoder, taps in trunks:
        say(f"captions: writing {encoder}")
        client.write(NAME, pictures, [f"{i:04d}" for i in range(len(pictures))], {TARGET: captions}, encoder=encoder, taps=taps)
        try:
            for read in [taps[:1], taps] if taps else [()]:
                what = f"{encoder}, {' and '.join(read) or 'usual tap'}"
                say(f"captions: {what}")
                heads = [_train(client, read, seed) for seed in seeds]
                for metric in range(3):
                    yield line_of("captions", TARGET, f"{heads[0].labeled}, folds", what, heads, metric)
        finally:
            client.drop_set(NAME)


def pairs() -> tuple[list[bytes], list[str]]:
    """Read 538 stamps that are not mirrored, and their captions in English."""
    paths = [path for path in sorted(datasets.STAMPS.rglob("*.png")) if "mirror" not in path.stem and "flip" not in path.stem]
    paths = [path for path in paths if path.relative_to(datasets.STAMPS).parts[0] != LEFT_OUT]
    return [_picture(path) for path in paths], [_caption(path) for path in paths]


def _picture(path: Path) -> bytes:
    picture = datasets.on_white(path)
    picture.thumbnail((SIDE, SIDE))
    return datasets.png_of(picture)


def _caption(path: Path) -> str:
    return path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0].strip()


def _train(client: Client, taps: Sequence[str], seed: int) -> HeadInfo:
    head = client.train(
        NAME,
        target=TARGET,
        kind="align",
        taps=taps,
        combine=len(taps) > 1,
        options={"text_encoder": TEXTS},
        seed=seed,
        replace=True,
    )
    client.drop_head(head.name)
    return head
