"""Which frame is shown when, over containers, codecs, starts, rates and display matrices: as written, and as FFmpeg has it."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from sample_videos import OUT_OF_ORDER, displayed, numbers, shades, write
from topwork_plugins.i3d.videos import decode, pixels
from topwork_plugins.i3d.windows import Frame, resample
from topwork_server import InvalidInput

COUNT = 40
X264 = {"codec": "libx264", "coding": OUT_OF_ORDER}
#: Container, how it is written, and how far its clock may be off, in seconds.
TABLE = [
    *[
        (suffix, X264, off)
        for suffix, off in (("mp4", 1e-4), ("mov", 1e-4), ("mkv", 1e-3), ("flv", 1e-3), ("ts", 1e-4), ("avi", 1e-6))
    ],
    *[(suffix, {"codec": "libx264", "coding": {"bf": "0"}}, 1e-3) for suffix in ("mp4", "avi")],
    *[(suffix, {"codec": "mpeg4", "coding": {"bf": "2"}}, 1e-3) for suffix in ("mp4", "avi")],
    *[(suffix, {"codec": "mjpeg"}, 1e-3) for suffix in ("mov", "avi")],
    ("mp4", {"codec": "libx265", "coding": {"x265-params": "log-level=none:bframes=3"}}, 1e-4),
    ("webm", {"codec": "libvpx-vp9"}, 1e-3),
    ("gif", {}, 5e-3),
]
RATES = [Fraction(25), Fraction(24000, 1001), Fraction(1), Fraction(120)]


def shown(frames: Any) -> list[int]:
    return numbers(pixels(frame.picture) for frame in frames)


def on_screen(starts: Any, end: float, fps: float) -> list[int]:
    """By the definition: at every tick before the end, the last frame that has begun."""
    return [int(np.searchsorted(starts, tick / fps + 1e-6, "right")) - 1 for tick in range(int(np.ceil(end * fps - 1e-6)))]


@pytest.mark.parametrize(("suffix", "how", "off"), TABLE, ids=lambda value: value if isinstance(value, str) else None)
def test_frames_come_in_the_order_of_presentation_with_their_times(
    suffix: str, how: dict[str, Any], off: float, tmp_path: Path
) -> None:
    for rate in RATES if suffix != "gif" else [Fraction(25), Fraction(30), Fraction(1)]:
        path = write(tmp_path / f"{rate.numerator}.{suffix}", shades(COUNT), rate=rate, **how)
        frames = list(decode(path))
        assert shown(frames) == list(range(COUNT)), rate
        np.testing.assert_allclose([frame.start for frame in frames], [i / float(rate) for i in range(COUNT)], atol=off)
        assert all(frame.end > frame.start for frame in frames)
        assert shown(resample(frames, float(rate))) == list(range(COUNT)), rate  # none is lost and none is doubled


@pytest.mark.parametrize("fps", [1, 5, 10, 50])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_fps_takes_the_frame_that_is_on_screen_as_ffmpeg_s_filter_does(suffix: str, fps: int, tmp_path: Path) -> None:
    path = write(tmp_path / f"even.{suffix}", shades(COUNT), **X264)
    found = shown(resample(decode(path), fps))
    assert found == on_screen(np.arange(COUNT) / 25, COUNT / 25, fps)
    if suffix == "mp4":
        assert found == filtered(path, f"setpts=PTS-STARTPTS,fps={fps}:round=up")


def filtered(path: Path, filters: str) -> list[int]:
    """Frames after FFmpeg's own filters."""
    graph = Graph()
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        chain = [graph.add_buffer(template=track), *(graph.add(*one.split("=", 1)) for one in filters.split(","))]
        graph.link_nodes(*chain, graph.add("buffersink")).configure()
        for frame in container.decode(track):
            graph.push(frame)
        graph.push(None)
    found = []
    while True:
        try:
            found.append(graph.pull())
        except (av.EOFError, av.BlockingIOError):
            return numbers(frame.to_ndarray(format="rgb24") for frame in found)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_picture_is_on_screen_until_the_next_begins(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"slides.{suffix}", shades(4), ticks=[0, 10_000, 12_300, 20_000])
    found = shown(resample(decode(path), 1))
    assert found[:21] == [0] * 10 + [1] * 3 + [2] * 7 + [3]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "mov"])
def test_seconds_begin_at_the_first_frame_wherever_the_file_begins(suffix: str, tmp_path: Path) -> None:
    ticks = [2000 + 40 * i for i in range(COUNT)]
    frames = list(decode(write(tmp_path / f"late.{suffix}", shades(COUNT), ticks=ticks, **X264)))
    assert shown(frames) == list(range(COUNT))
    np.testing.assert_allclose([frame.start for frame in frames], np.arange(COUNT) / 25, atol=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "ts", "flv", "mov"])
def test_an_uneven_rate_keeps_its_times(suffix: str, tmp_path: Path) -> None:
    ticks = [40 * i for i in range(2 * COUNT) if i % 7 < 3][:COUNT]
    how = X264 if suffix != "webm" else {}
    frames = list(decode(write(tmp_path / f"uneven.{suffix}", shades(len(ticks)), ticks=ticks, **how)))
    np.testing.assert_allclose([frame.start for frame in frames], np.array(ticks) / 1000, atol=1e-3)
    assert shown(resample(frames, 5)) == on_screen(np.array(ticks) / 1000, frames[-1].end, 5)


def test_frames_before_an_edit_list_begins_are_not_shown(tmp_path: Path) -> None:
    """A file that was cut without encoding it again begins at a key frame, and its edit list says how much of it to skip."""
    path, out = write(tmp_path / "whole.mp4", shades(COUNT), **X264), tmp_path / "cut.mp4"
    with av.open(str(path)) as source, av.open(str(out), "w", options={"avoid_negative_ts": "disabled"}) as target:
        track, copy = source.streams.video[0], target.add_stream_from_template(source.streams.video[0])
        skipped = int(10 / 25 / track.time_base)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - skipped, packet.dts - skipped, copy
                target.mux(packet)
    frames = list(decode(out))
    assert shown(frames) == list(range(10, COUNT))
    np.testing.assert_allclose([frame.start for frame in frames], np.arange(COUNT - 10) / 25, atol=1e-3)


@pytest.mark.parametrize(("turned", "x", "y"), list(product([False, True], [1, -1], [1, -1])))
def test_the_whole_display_matrix_is_applied(turned: bool, x: int, y: int, tmp_path: Path) -> None:
    """All quarter turns and mirrorings. Each pixel is looked up where the matrix puts it."""
    corners = np.zeros((48, 64, 3), np.uint8)
    corners[:24, :32], corners[:24, 32:], corners[24:, :32] = 60, 120, 240
    mp4 = write(tmp_path / "corners.mp4", [corners] * 3).read_bytes()
    (a, b), (c, d) = matrix = ((0, y), (x, 0)) if turned else ((x, 0), (0, y))
    rows, columns = np.indices((48, 64))
    across, down = a * columns + c * rows, b * columns + d * rows
    expected = np.zeros((64, 48) if turned else (48, 64), np.int64)
    expected[down - down.min(), across - across.min()] = corners[..., 0]
    found = pixels(next(decode(displayed(mp4, matrix))).picture)
    assert found.shape[:2] == expected.shape
    assert np.abs(found[..., 0].astype(int) - expected).mean() < 12


def test_a_video_of_too_many_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from topwork_plugins.i3d.plugin import INCEPTION_RECIPE
    from topwork_plugins.i3d.readers import RgbReader
    from topwork_server import VideoItem

    reader = RgbReader(INCEPTION_RECIPE)
    monkeypatch.setattr("topwork_plugins.i3d.windows.LONGEST", 30)
    few, many = (write(tmp_path / f"{count}.mkv", shades(count)) for count in (30, 31))
    assert len(list(reader.frames(VideoItem(few), 0))) == 30
    for clip, fps in ((VideoItem(many), 0.0), (VideoItem(few), 240.0)):
        with pytest.raises(InvalidInput, match="more than 30 frames") as caught:
            list(reader.frames(clip, fps))
        assert "parts" in caught.value.remedy


def test_an_array_of_millions_of_tiny_frames_is_refused_at_once() -> None:
    from topwork_plugins.i3d.videos import frames_of

    with pytest.raises(InvalidInput, match="20,000,000 frames"):
        frames_of(np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (20_000_000, 1, 1, 3)))


def test_decoding_ends_where_the_caller_has_left(tmp_path: Path) -> None:
    from topwork_plugins.i3d.plugin import INCEPTION_RECIPE
    from topwork_plugins.i3d.readers import RgbReader
    from topwork_server import TopworkError, VideoItem
    from topwork_server.blocking_calls import working_for

    taken: list[Frame] = []
    frames = RgbReader(INCEPTION_RECIPE).frames(VideoItem(write(tmp_path / "long.mkv", shades(COUNT))), 0)
    with working_for(lambda: len(taken) == 5), pytest.raises(TopworkError, match="left"):
        taken.extend(frames)
    assert len(taken) == 5
