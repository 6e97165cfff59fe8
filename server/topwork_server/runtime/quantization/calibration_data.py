"""The folder of images (or videos) on which a network is calibrated and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from topwork_server.errors import InvalidInput, TopworkError
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.runtime.parity import SAMPLES_PER_ITEM, ParityBatch
from topwork_server.types import ImageItem, Item, Modality, VideoItem

SUFFIXES = {
    Modality.IMAGE: frozenset(".jpg .jpeg .png .webp .gif .bmp .tif .tiff".split()),
    Modality.VIDEO: frozenset(".mp4 .m4v .webm .mkv .avi .mov .mpg .mpeg".split()),
}
#: Fewer say too little of the values that a network meets; of videos each brings several frames.
FEWEST = {Modality.IMAGE: 32, Modality.VIDEO: 4}
#: One in so many readable files is held out for the evaluation.
HELD_OUT = 4
#: How many of what could not be read are named.
NAMED = 3


@dataclass(frozen=True)
class CalibrationData:
    """Batches of one sample each, for calibration and for evaluation. `refused` holds the reasons by file."""

    calibration: list[ParityBatch]
    evaluation: list[ParityBatch]
    refused: dict[Path, str] = field(default_factory=dict)


def read_calibration_data(folder: Path, encoder: Encoder, most: int) -> CalibrationData:
    """Read files of a folder and its subfolders, spread evenly over the sorted paths. InvalidInput where too few can be read."""
    modality = encoder.spec.modality
    if most < FEWEST[modality]:
        raise InvalidInput(f"{most} {modality.plural} are too few", remedy=f"take at least {FEWEST[modality]} with --most")
    paths = _paths(folder, modality)
    batches: list[list[ParityBatch]] = []
    refused: dict[Path, str] = {}
    for path in _spread(paths, most):
        try:
            batches.append(_batches(path, encoder))
        except TopworkError as error:
            refused[path] = error.message  # its remedy is for callers that send items
        except OSError as error:
            refused[path] = str(error)
    if len(batches) < FEWEST[modality]:
        raise InvalidInput(
            f"{folder} has {len(batches)} {modality.plural} that can be read, and {FEWEST[modality]} are the fewest"
            + (f"; refused were {_named(refused)}" if refused else ""),
            remedy=f"give a folder of {modality.plural} such as the encoder will meet; 100 to 300 are good",
        )
    held_out = [batch for group in batches[HELD_OUT - 1 :: HELD_OUT] for batch in group]
    learned = [batch for i, group in enumerate(batches) if i % HELD_OUT != HELD_OUT - 1 for batch in group]
    return CalibrationData(learned, held_out, refused)


def _paths(folder: Path, modality: Modality) -> list[Path]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder", remedy=f"--calibrate takes a folder of {modality.plural}")
    suffixes = SUFFIXES[modality]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise InvalidInput(
            f"{folder} has no {modality.plural}",
            remedy=f"--calibrate takes a folder of files named {', '.join(sorted(suffixes))}",
        )
    return paths


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def _batches(path: Path, encoder: Encoder) -> list[ParityBatch]:
    item: Item = VideoItem(path) if encoder.spec.modality is Modality.VIDEO else ImageItem(path.read_bytes())
    samples = list(islice(encoder.preprocess(item, encoder.options()), SAMPLES_PER_ITEM))
    return [ParityBatch([sample], encoder.collate([sample])) for sample in samples]


def _named(refused: dict[Path, str]) -> str:
    reasons = [f"{path.name} ({why})" for path, why in list(refused.items())[:NAMED]]
    return ", ".join(reasons) + (f" and {len(refused) - NAMED} more" if len(refused) > NAMED else "")
