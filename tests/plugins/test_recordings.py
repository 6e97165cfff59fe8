"""Recordings as audio encoders read them: formats, rates, channels and windows, and what is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import sample_videos
import tiny_sounds as tiny
from topwork._codec import wav
from topwork_plugins.audio import recordings
from topwork_plugins.audio.plugin import AudioEncoder, SoundOptions
from topwork_plugins.audio.recipes import SampleRecipe
from topwork_server import AudioItem, EncoderSpec, InvalidInput, Item, Modality, Sample, TextItem
from topwork_server.plugin_api import example_inputs

RATE = tiny.RATE
SOUND = tiny.sound(1.03)
WAV = tiny.wav(SOUND)


@pytest.fixture
def encoder(tmp_path: Path) -> AudioEncoder:
    SampleRecipe(RATE, normalize=False, shortest=400).write(tmp_path)
    return AudioEncoder(EncoderSpec("sounds", AudioEncoder, "none:", Modality.AUDIO), tmp_path)


def prepared(encoder: AudioEncoder, item: Item | bytes, **options: Any) -> list[Sample]:
    item = AudioItem(item) if isinstance(item, bytes) else item
    return list(encoder.preprocess(item, SoundOptions(**options)))


def read(encoder: AudioEncoder, item: Item | bytes) -> Any:
    [sample] = prepared(encoder, item)
    return sample.inputs["samples"]


def encoded(form: str, codec: str, rate: int) -> bytes:
    """`SOUND`, as another rate gives it, in a container of FFmpeg's."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tiny.sound(1.03, rate=rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.codec_context.frame_size or None)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("aiff", "pcm_s16be", RATE),
        ("au", "pcm_s16be", RATE),
        ("flac", "flac", RATE),
        ("flac", "flac", 48_000),
        ("ipod", "aac", 44_100),
        ("matroska", "flac", RATE),
        ("mp3", "mp3", 44_100),
        ("ogg", "libopus", 48_000),
        ("wav", "pcm_s24le", 8_000),
        ("webm", "libopus", 48_000),
    ],
)
def test_formats_and_rates(encoder: AudioEncoder, form: str, codec: str, rate: int) -> None:
    found = read(encoder, encoded(form, codec, rate))
    assert abs(len(found) - len(SOUND)) <= 1200
    both = np.abs(np.fft.rfft([one[:16_000] for one in (found, SOUND)]))
    assert (both.argmax(axis=1) == 200).all(), "the tone is where it was"
    assert both.max(axis=1)[0] == pytest.approx(both.max(axis=1)[1], rel=0.1)


def test_samples_at_the_rate_of_the_model_are_what_they_were(encoder: AudioEncoder, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(WAV)
    loud = (SOUND * 32768).astype(np.int16)
    for item in (WAV, AudioItem(tmp_path / "a.wav"), wav.encode(SOUND, RATE), wav.encode(loud, RATE)):
        np.testing.assert_array_equal(read(encoder, item), SOUND)


def test_channels_are_averaged(encoder: AudioEncoder) -> None:
    both, one = np.stack([SOUND, SOUND], axis=1), np.stack([SOUND, -SOUND, SOUND], axis=1)
    np.testing.assert_array_equal(read(encoder, tiny.wav(both, channels=2)), SOUND)
    np.testing.assert_allclose(read(encoder, tiny.wav(one, channels=3)), SOUND / 3, atol=1e-6)


def of_channels(count: int) -> Any:
    """(n, count) float32, each channel another sound."""
    return np.stack([tiny.sound(0.5, seed) for seed in range(count)], axis=1)


@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 9, 16, 64])
def test_each_number_of_channels_is_averaged(encoder: AudioEncoder, count: int) -> None:
    """From 8 on, PyAV ends the process at a planar frame."""
    np.testing.assert_allclose(
        read(encoder, tiny.wav(of_channels(count), channels=count)), of_channels(count).mean(axis=1), atol=1e-6
    )


@pytest.mark.parametrize("form", ["flac", "matroska"])
def test_a_codec_of_eight_planes(encoder: AudioEncoder, form: str) -> None:
    channels, file = of_channels(8), io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream("flac", rate=RATE, layout="7.1")
        frame = av.AudioFrame.from_ndarray(channels.reshape(1, -1), format="flt", layout="7.1")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(stream.format, "7.1", RATE, frame_size=stream.codec_context.frame_size or None)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(read(encoder, file.getvalue()), channels.mean(axis=1), atol=1e-4)


def test_more_channels_than_may_be(encoder: AudioEncoder) -> None:
    with pytest.raises(InvalidInput, match="65 channels") as caught:
        read(encoder, tiny.wav(np.zeros((800, 65), np.float32), channels=65))
    assert "mean" in caught.value.remedy


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x80000000, 0x7FFFF024])
def test_a_wav_file_out_of_a_pipe_is_read_to_its_end(encoder: AudioEncoder, size: int) -> None:
    unknown = struct.pack("<I", size)
    np.testing.assert_array_equal(read(encoder, WAV[:4] + unknown + WAV[8:40] + unknown + WAV[44:]), SOUND)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 1.03)]),
        ({"seconds": 0.5}, [(0, 0.5), (0.5, 1.0), (1.0, 1.03)]),
        ({"seconds": 0.5, "drop_last": True}, [(0, 0.5), (0.5, 1.0)]),
        ({"seconds": 0.5, "stride": 0.3}, [(0, 0.5), (0.3, 0.8), (0.6, 1.03)]),
        ({"seconds": 0.5, "stride": 0.25}, [(0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.75, 1.03)]),
        ({"seconds": 0.1, "stride": 0.5}, [(0, 0.1), (0.5, 0.6), (1.0, 1.03)]),
        ({"seconds": 0.51}, [(0, 0.51), (0.51, 1.02)]),
        ({"seconds": 1.03}, [(0, 1.03)]),
        ({"seconds": 2, "drop_last": True}, [(0, 1.03)]),
    ],
)
def test_windows(encoder: AudioEncoder, options: Any, expected: list[tuple[float, float]]) -> None:
    samples = prepared(encoder, WAV, **options)
    np.testing.assert_allclose([sample.window for sample in samples], expected)
    for sample, (start, end) in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(sample.inputs["samples"], SOUND[round(start * RATE) : round(end * RATE)])


def test_a_whole_recording_has_a_bound_and_windows_have_none(encoder: AudioEncoder) -> None:
    long = tiny.wav(np.zeros(61 * RATE, np.float32))
    with pytest.raises(InvalidInput, match="longer than 60 s") as caught:
        prepared(encoder, long)
    assert "seconds" in caught.value.remedy
    assert len(prepared(encoder, long, seconds=10)) == 7


def test_the_longest_recording(encoder: AudioEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MOST_SECONDS", 1)
    with pytest.raises(InvalidInput, match="longer than 1 s"):
        prepared(encoder, WAV, seconds=0.5)


def patched(at: int, form: str, value: int) -> bytes:
    """`WAV` with another number in its header."""
    return WAV[:at] + struct.pack(form, value) + WAV[at + struct.calcsize(form) :]


def replaced(value: float) -> bytes:
    samples = SOUND.copy()
    samples[5000] = value
    return wav.encode(samples, RATE)


BAD: dict[str, tuple[Item | bytes, str]] = {
    "a text": (TextItem("hello"), "not a text"),
    "an array": (SOUND, "not an array"),
    "empty": (b"", "empty"),
    "words": (b"no sound at all " * 99, "not a recording"),
    "a playlist": (b"#EXTM3U\n/etc/passwd\n", "not a recording"),
    "a picture": (example_inputs.pictures()[0].data, "not a recording"),
    "no samples": (wav.encode(SOUND[:0], RATE), "0 samples"),
    "a click": (wav.encode(SOUND[:399], RATE), "399 samples"),
    "cut in half": (WAV[: len(WAV) // 2], "cut short"),
    "cut at its end": (WAV[:-10], "cut short"),
    "cut FLAC": (encoded("flac", "flac", RATE)[:-99], "cut short"),
    "cut WebM": (encoded("webm", "libopus", 48_000)[:-3000], "cut short"),
    "0 Hz": (patched(24, "<I", 0), "has 0 samples a second"),
    "1 Hz": (patched(24, "<I", 1), "1 samples a second"),
    "no channels": (patched(22, "<H", 0), "damaged"),
    "an unknown codec": (patched(20, "<H", 0x1234), "codec"),
    "NaN": (replaced(np.nan), "no numbers"),
    "infinite": (replaced(-np.inf), "no numbers"),
    "not scaled": (replaced(-20_000), "20,000"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_recording_is_refused(encoder: AudioEncoder, what: str) -> None:
    item, word = BAD[what]
    with pytest.raises(InvalidInput, match=word) as caught:
        prepared(encoder, item)
    assert caught.value.remedy


def test_a_silent_video_is_refused_and_one_with_sound_is_read(encoder: AudioEncoder, tmp_path: Path) -> None:
    film = sample_videos.write(tmp_path / "film.mp4", sample_videos.shades(5))
    with pytest.raises(InvalidInput, match="no sound"):
        prepared(encoder, AudioItem(film))
    assert len(read(encoder, AudioItem(sample_videos.write_sound(tmp_path / "sound.mp4")))) == pytest.approx(RATE, abs=3000)
    with pytest.raises(InvalidInput, match="nowhere"):
        prepared(encoder, AudioItem(tmp_path / "nowhere.wav"))


def test_windows_that_are_too_short_for_the_model(encoder: AudioEncoder) -> None:
    with pytest.raises(InvalidInput, match="windows of"):
        prepared(encoder, WAV, seconds=0.01)
