"""What a report shows of the items that a head got wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tiny_sounds as tiny
from topwork_server.heads.head_types import Task
from topwork_server.heads.training.dataset import TrainingDataset
from topwork_server.heads.training.labels import LabelColumn
from topwork_server.heads.training.previews import SpanPreviews, preview
from topwork_server.plugin_api.trainer import Examples
from topwork_server.types import AudioItem, Item, TextItem

TEXT = "Ada wrote."


class Kept(TrainingDataset):
    """Of a set that keeps its texts."""

    def inputs(self, ids: Sequence[str]) -> dict[str, Item]:
        return {id: TextItem(TEXT if id == "a" else "x" * 999, "Who wrote?") for id in ids}


def data(kind: type[TrainingDataset], task: Task) -> TrainingDataset:
    values = np.zeros(3, np.int64)
    examples = Examples((), task.target, (), values, values, values)
    chars = {"a": np.array([[0, 3], [4, 9], [9, 10]], np.float32), "long": np.array([[0, 999]], np.float32)}
    return kind(LabelColumn(task, (), [[]], np.ones(1, bool)), examples, ("a", "long"), covers=chars)


@pytest.mark.parametrize(
    ("kind", "task", "preview"),
    [(Kept, Task.TAGGING, "'Ada wrote'"), (Kept, Task.QUESTION_ANSWERING, "'Who wrote'"), (TrainingDataset, Task.TAGGING, "0:9")],
)
def test_a_span_is_named_by_its_words_or_by_its_characters(kind: type[TrainingDataset], task: Task, preview: str) -> None:
    assert SpanPreviews(data(kind, task))("a", 0, 2) == preview


def test_a_long_span_is_cut() -> None:
    assert SpanPreviews(data(Kept, Task.TAGGING))("long", 0, 1) == f"'{'x' * 57}...'"


def test_what_none_covers_is_named_by_its_characters() -> None:
    elsewhere = replace(data(Kept, Task.TAGGING), covers={"a": np.array([[40, 50]], np.float32)})
    assert SpanPreviews(elsewhere)("a", 0, 1) == "40:50"


@pytest.mark.parametrize("shape", [(20, 30, 3), (900, 700, 3), (5, 20, 30, 3)])
def test_a_picture_that_was_sent_as_an_array_is_shown_and_of_a_clip_its_middle(shape: tuple[int, ...]) -> None:
    from PIL import Image

    pixels = np.zeros(shape, np.uint8)
    if len(shape) == 4:
        pixels[2, ..., 0] = 200
    else:
        pixels[..., 0] = 200
    found = preview(pixels)
    assert found.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))) as picture:
        red, green, _ = np.asarray(picture).reshape(-1, 3).mean(axis=0)
    assert (red > 190, green < 10) == (True, True)


@pytest.mark.parametrize("array", [np.zeros((3, 4), np.float32), np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)])
def test_of_other_arrays_nothing_is_shown(array: np.ndarray) -> None:
    assert preview(array) == ""


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, 44_100), (6.0, 8_000)])
def test_of_a_recording_the_beginning_is_played(seconds: float, rate: int) -> None:
    import av

    found = preview(AudioItem(tiny.wav(tiny.sound(seconds, rate=rate), rate)))
    kind, _, data = found.partition(",")
    with av.open(io.BytesIO(base64.b64decode(data))) as mp3:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in mp3.decode(audio=0)])
    assert kind == "data:audio/mpeg;base64"
    assert len(samples) / 16_000 == pytest.approx(min(seconds, 4), abs=0.15)
    assert np.abs(np.fft.rfft(samples[:8000])).argmax() == 100, "the tone of 200 Hz"


@pytest.mark.parametrize("file", [b"", b"#EXTM3U\n/etc/passwd\n", tiny.wav(np.zeros(0)), tiny.wav(tiny.sound(1))[:40]])
def test_of_what_is_no_recording_nothing_is_played(file: bytes) -> None:
    assert preview(AudioItem(file)) == ""
