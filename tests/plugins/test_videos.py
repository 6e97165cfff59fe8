"""Decoding, resampling and windows, on small videos of every container, whole and damaged."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from sample_videos import CODECS, numbers, shades, turned, write, write_sound
from topwork_plugins.i3d.videos import check_clip, decode, frames_of, from_array, pixels
from topwork_plugins.i3d.windows import Frame, Window, mapped, resample, spaced, windows
from topwork_server import ImageItem, InvalidInput, TextItem


def at(*starts: float, end: float) -> list[Frame]:
    """Frames that tell their number, each shown until the next."""
    return [Frame(a, b, i) for i, (a, b) in enumerate(zip(starts, [*starts[1:], end], strict=True))]


def cut(count: int, size: int, stride: int, **options: Any) -> list[Window]:
    frames = spaced(at(*range(count), end=count), size, stride)
    return list(windows(frames, size, min(stride, size), **options))


@pytest.mark.parametrize("suffix", ["mp4", "webm", "avi", "mkv", "ts"])
@pytest.mark.parametrize("as_path", [True, False], ids=["path", "bytes"])
def test_every_container_gives_its_frames_in_order_with_their_times(tmp_path: Path, suffix: str, as_path: bool) -> None:
    path = write(tmp_path / f"shades.{suffix}", shades(30))
    frames = list(decode(path if as_path else path.read_bytes()))
    assert numbers(pixels(frame.picture) for frame in frames) == list(range(30))
    assert pixels(frames[0].picture).shape == (48, 64, 3)
    np.testing.assert_allclose([frame.start for frame in frames], np.arange(30) / 25, atol=1e-3)
    np.testing.assert_allclose([frame.end for frame in frames], np.arange(1, 31) / 25, atol=2e-3)


def test_colors_survive_in_their_order(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[:, :, 0] = 200
    first = next(decode(write(tmp_path / "red.mp4", [red] * 4)))
    assert np.abs(pixels(first.picture).mean((0, 1)) - [200, 0, 0]).max() < 6


def test_a_variable_frame_rate_is_read_from_the_timestamps(tmp_path: Path) -> None:
    ticks = [0, 40, 80, 400, 440, 1000]
    frames = list(decode(write(tmp_path / "uneven.mkv", shades(6), ticks=ticks)))
    np.testing.assert_allclose([f.start for f in frames], np.array(ticks) / 1000, atol=1e-3)
    np.testing.assert_allclose([f.end for f in frames[:-1]], np.array(ticks[1:]) / 1000, atol=1e-3)
    sampled = list(resample(frames, 10))
    assert numbers(pixels(f.picture) for f in sampled)[:10] == [0, 2, 2, 2, 3, 4, 4, 4, 4, 4]


def test_a_phone_s_display_matrix_turns_the_picture(tmp_path: Path) -> None:
    lying = np.full((48, 64, 3), 30, np.uint8)
    lying[:, :32] = 220  # bright on the left: after a quarter turn clockwise, above
    mp4 = write(tmp_path / "lying.mp4", [lying] * 3).read_bytes()
    upright = pixels(next(decode(turned(mp4))).picture)
    assert upright.shape == (64, 48, 3)
    assert upright[:28].mean() > 200
    assert upright[36:].mean() < 50


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"certainly not a video" * 99, "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n#EXT-X-ENDLIST\n", "not a video"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "not a video"),
        (Path("/nowhere/at/all.mp4"), "cannot be read: No such file"),
        (Path("/"), "cannot be read: Is a directory"),
    ],
    ids=["empty", "text", "playlist", "script", "missing", "folder"],
)
def test_what_is_no_video_is_refused(data: bytes | Path, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        list(decode(data))
    assert caught.value.remedy


def test_a_picture_is_no_video() -> None:
    from topwork_server.plugin_api import example_inputs

    photograph = (example_inputs.FOLDER / "coffee.jpg").read_bytes()
    with pytest.raises(InvalidInput, match="not a video"):
        list(decode(photograph))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no video track"):
        list(decode(write_sound(tmp_path / "sound.mp4")))


def moving(count: int) -> Iterator[Any]:
    """Frames that do not compress to nothing, so that a file cut in two loses frames."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    return (np.roll(noise, 3 * t, axis=1) for t in range(count))


@pytest.mark.parametrize("suffix", ["mp4", "webm", "avi", "mkv"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8])
def test_a_video_cut_short_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    data = write(tmp_path / f"cut.{suffix}", moving(48)).read_bytes()
    assert len(list(decode(data))) == 48
    with pytest.raises(InvalidInput, match="cut short"):
        list(decode(data[: int(len(data) * kept)]))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_mp4_whose_header_comes_first_is_refused_where_the_damage_is_reached(tmp_path: Path, codec: str) -> None:
    data = write(tmp_path / "streamed.mp4", moving(48), codec=codec, movflags="faststart").read_bytes()
    found: list[Frame] = []
    with pytest.raises(InvalidInput, match="cut short"):
        found.extend(decode(data[: int(len(data) * 0.6)]))
    assert 0 < len(found) < 48  # what came before the damage was given


def test_garbled_pictures_are_refused(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "garbled.mp4", moving(48), codec="mpeg4").read_bytes())
    middle = data.index(b"mdat") + 5000
    data[middle : middle + 3000] = bytes(value ^ 0x5A for value in data[middle : middle + 3000])
    with pytest.raises(InvalidInput, match="damaged"):
        list(decode(bytes(data)))


@pytest.mark.parametrize(("suffix", "says"), [("avi", "no frames"), ("webm", "cut short"), ("mp4", "no video track")])
def test_a_video_of_no_frames_is_refused(tmp_path: Path, suffix: str, says: str) -> None:
    path = tmp_path / f"bare.{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(CODECS[suffix], rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(InvalidInput, match=says):
        list(windows(decode(path), 4, 4))


def test_frames_of_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("topwork_plugins.i3d.videos.MAX_PIXELS", 1000)
    with pytest.raises(InvalidInput, match="64 x 48 pixels"):
        next(decode(write(tmp_path / "large.mp4", shades(2))))
    with pytest.raises(InvalidInput, match="64 x 48 pixels"):
        check_clip(np.zeros((1, 48, 64, 3), np.uint8), 3, np.uint8)


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (np.array(3.0), r"\(\) of float64"),
        (np.zeros((48, 64, 3), np.uint8), r"\(48, 64, 3\)"),
        (np.zeros((4, 48, 64, 4), np.uint8), r"\(4, 48, 64, 4\)"),
        (np.zeros((4, 3, 48, 64), np.uint8), r"\(4, 3, 48, 64\)"),
        (np.zeros((4, 48, 64, 3), np.float32), "float32"),
        (np.zeros((0, 48, 64, 3), np.uint8), "no frames"),
        (np.zeros((4, 0, 64, 3), np.uint8), "no pixels"),
        (TextItem("a film"), "not a text"),
        (ImageItem(b"a still"), "not an image"),
    ],
)
def test_what_is_no_clip_is_refused(clip: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        list(frames_of(clip))
    assert "send" in caught.value.remedy


def test_an_array_is_shown_at_its_rate() -> None:
    clip = np.stack(shades(5))
    assert [(f.start, f.end) for f in from_array(clip, 10)] == [(0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5)]
    assert [f.start for f in from_array(clip)] == [0, 0.04, 0.08, 0.12, 0.16]
    assert numbers(f.picture for f in frames_of(clip)) == list(range(5))


def chosen(frames: list[Frame], fps: float) -> list[int]:
    return [frame.picture for frame in resample(frames, fps)]


def test_resampling_takes_the_frame_on_screen() -> None:
    even = at(*np.arange(25) / 25, end=1.0)
    assert chosen(even, 25) == list(range(25))
    assert chosen(even, 5) == [0, 5, 10, 15, 20]
    assert chosen(even, 50)[::2] == list(range(25))
    assert len(chosen(even, 50)) == 50
    assert chosen(even, 75) == [i // 3 for i in range(75)]


def test_resampling_at_the_own_rate_survives_timestamps_rounded_to_milliseconds() -> None:
    exact = at(*[round(1000 * i / 30) / 1000 for i in range(300)], end=10.0)
    rounded = [replace(frame, rounded=0.001) for frame in exact]
    assert chosen(rounded, 30) == list(range(300))


def test_resampling_gives_even_spans_from_a_single_frame() -> None:
    assert [(f.start, f.end) for f in resample(at(0.0, end=0.3), 10)] == [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]
    assert len(list(resample(at(0.0, end=0.001), 10))) == 1
    assert list(resample([], 10)) == []


def summary(found: list[Window]) -> list[tuple[list[int], int]]:
    return [(list(window.frames), window.repeated) for window in found]


def test_windows_side_by_side() -> None:
    assert summary(cut(8, 4, 4)) == [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0)]


def test_windows_that_overlap() -> None:
    assert summary(cut(8, 4, 2)) == [([0, 1, 2, 3], 0), ([2, 3, 4, 5], 0), ([4, 5, 6, 7], 0)]


def test_windows_with_gaps() -> None:
    assert summary(cut(12, 2, 5)) == [([0, 1], 0), ([5, 6], 0), ([10, 11], 0)]


def test_the_last_window_repeats_its_last_frame() -> None:
    assert summary(cut(6, 4, 4)) == [([0, 1, 2, 3], 0), ([4, 5, 5, 5], 2)]
    assert summary(cut(7, 4, 2)) == [([0, 1, 2, 3], 0), ([2, 3, 4, 5], 0), ([4, 5, 6, 6], 1)]
    assert summary(cut(6, 2, 5)) == [([0, 1], 0), ([5, 5], 1)]


def test_the_last_window_may_be_left_out() -> None:
    assert summary(cut(6, 4, 4, drop_last=True)) == [([0, 1, 2, 3], 0)]
    assert summary(cut(3, 4, 4, drop_last=True)) == [([0, 1, 2, 2], 1)]  # the only one


def test_a_window_spans_the_seconds_of_its_own_frames() -> None:
    spans = [(window.start, window.end) for window in cut(6, 4, 3)]
    assert spans == [(0, 4), (3, 6)]


def test_a_picture_that_is_shown_again_is_computed_once() -> None:
    clip = np.stack(shades(3))
    calls = []

    def prepare(picture: Any) -> Any:
        calls.append(picture)
        return picture.mean()

    slow = list(mapped(resample(from_array(clip, 5), 20), prepare))
    assert len(slow) == 12
    assert len(calls) == 3


@pytest.mark.parametrize(("size", "stride", "fps"), [(16, 16, 0), (16, 4, 0), (8, 40, 0), (16, 16, 5)])
def test_a_long_video_holds_one_window_of_frames(tmp_path: Path, size: int, stride: int, fps: float) -> None:
    """Counts the prepared frames that are alive, at every window, while a video of 600 frames streams through."""
    path = write(tmp_path / "long.mp4", (shade for _ in range(15) for shade in shades(40)))
    alive: set[int] = set()
    most = made = 0

    def prepare(picture: Any) -> Any:
        nonlocal most, made
        prepared = np.array(pixels(picture))
        made += 1
        alive.add(made)
        weakref.finalize(prepared, alive.discard, made)
        most = max(most, len(alive))
        return prepared

    frames = decode(path)
    frames = resample(frames, fps) if fps else frames
    stream = windows(mapped(spaced(frames, size, stride), prepare), size, min(stride, size))
    count = sum(1 for _ in stream)
    assert count == {0: -(-600 // stride) - (size // stride - 1 if stride < size else 0), 5: 8}[fps]
    assert made == (120 if fps else 600 * min(size, stride) // stride)
    assert most <= size + min(size, stride) + 1  # the window that was handed out, and what came since
    del stream
    gc.collect()
    assert not alive


def test_decoding_stops_with_its_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "left.mp4", shades(30))
    frames = decode(path)
    next(frames)
    frames.close()
    path.unlink()  # nothing holds it; an open file would be a ResourceWarning, and so a failure
