"""Decodes recordings to samples of one channel at one rate, a block after another, and refuses what is damaged or absurd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from topwork_server import Array, AudioItem, InvalidInput, Item, check_caller, item_kind

from topwork_plugins.media_files import MediaKind

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

KINDS = "send a sound file (wav, flac, mp3, ogg, m4a ...), a video with sound, or samples with their rate"
#: Formats whose length is a guess from their bytes where they do not say: it proves nothing.
GUESSED_LENGTHS = frozenset({"mp3", "aac", "amr", "mpeg", "mpegts", "flv"})
#: What writers of WAV files into a pipe put as their size: 0xFFFFFFFF, 0x80000024, 0x7FFFF024 ... or 0.
UNKNOWN_SIZE = 0x7FFF0000
#: Samples a second: of a telephone and more, and of the best recorders.
RATES = range(1000, 768_001)
MOST_CHANNELS = 64
#: The longest recording, 36 hours, so that no small file keeps a server busy for days.
MOST_SECONDS = 2**17
#: The largest sample, where full scale is 1: files of floats may go a little over it, integers that were taken for floats far.
LOUDEST = 64.0


def _check_rate(rate: int) -> None:
    if rate not in RATES:
        raise InvalidInput(
            f"the recording has {rate} samples a second", remedy=f"send one with {RATES.start} to {RATES.stop - 1}"
        )


def _check_head(head: bytes) -> None:
    """Raise InvalidInput for the rate in the header of a WAV file: FFmpeg refuses 0 as if it were no recording at all."""
    _, found, form = head.partition(b"fmt ")
    if head[:4] == b"RIFF" and found and len(form) >= 12:
        _check_rate(int.from_bytes(form[8:12], "little"))


FILES = MediaKind(
    "recording",
    ("sound", "video"),
    "wav,w64,aiff,flac,mp3,ogg,aac,mov,matroska,webm,asf,caf,au,amr,avi,mpegts,mpeg,flv",
    KINDS,
    _check_head,
)


def samples_of(item: Item, rate: int) -> Iterator[Array]:
    """The samples of a recording, (n,) float32 blocks of one channel at `rate` a second, decoded as they are asked for. Channels
    are averaged.

    InvalidInput where it is no recording, has no sound, is damaged or cut short, or has numbers that are no sound: known only
    when reached.
    """
    if not isinstance(item, AudioItem):
        raise InvalidInput(f"an audio encoder reads recordings, not {item_kind(item)}", remedy=KINDS)
    return _checked(_decoded(item.data, rate), rate)


def _decoded(data: bytes | Path, rate: int) -> Iterator[Array]:
    from av import AudioResampler

    with FILES.opened(data) as container:
        track = _sound_track(container)
        resampler, length, form = AudioResampler(format="flt", rate=rate), 0, None
        for frame in _undamaged(container, track, whole=not _was_piped(data)):
            form = form or _form(frame)
            if _form(frame) != form:
                raise FILES.damaged("its rate or its channels change on the way")
            length += frame.samples
            for block in resampler.resample(frame):
                yield _one_channel(block)
        for block in resampler.resample(None) if form else ():
            yield _one_channel(block)
        if container.format.name not in GUESSED_LENGTHS:
            begin = float((track.start_time or 0) * (track.time_base or 0))
            FILES.check_whole(track, begin, length / track.codec_context.sample_rate)


def _sound_track(container: InputContainer) -> AudioStream:
    """Find the first track of sound; one decoding thread, for the server has one for each core."""
    tracks = container.streams.audio
    if not tracks:
        raise InvalidInput("the file has no sound (a picture, or a silent video?)", remedy=KINDS)
    context = tracks[0].codec_context
    if context is None:
        raise InvalidInput("the recording's codec is not known here", remedy="re-encode it, as FLAC for instance")
    context.thread_count = 1
    return tracks[0]


def _was_piped(data: bytes | Path) -> bool:
    """Tell whether it is a WAV file whose writer did not know its length: FFmpeg then takes it to end within a packet."""
    if isinstance(data, bytes):
        head = data[:8]
    else:
        with data.open("rb") as file:
            head = file.read(8)
    size = int.from_bytes(head[4:], "little")
    return head[:4] == b"RIFF" and not 0 < size < UNKNOWN_SIZE


def _undamaged(container: InputContainer, track: AudioStream, *, whole: bool) -> Iterator[AudioFrame]:
    for packet in container.demux(track):
        if packet.is_corrupt and whole:
            raise FILES.damaged("a packet is not whole")
        for frame in packet.decode():
            if frame.is_corrupt and whole:
                raise FILES.damaged("a part of it is not whole")
            _check_form(frame)
            yield frame


def _form(frame: AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _check_form(frame: AudioFrame) -> None:
    _check_rate(frame.sample_rate)
    if not 1 <= frame.layout.nb_channels <= MOST_CHANNELS:
        raise InvalidInput(f"the recording has {frame.layout.nb_channels} channels", remedy="send its mean, or one of them")


def _one_channel(block: AudioFrame) -> Array:
    """Return the mean of a packed frame's channels. PyAV reads past the end of FFmpeg's list of planes where it has 8 or more, so
    a planar frame of 8 channels ends the process. A copy by channel is 6 times as fast as a mean over each sample's own few."""
    channels = block.to_ndarray().reshape(-1, block.layout.nb_channels).T
    return np.asarray(np.ascontiguousarray(channels).mean(axis=0, dtype=np.float32))


def _checked(blocks: Iterator[Array], rate: int) -> Iterator[Array]:
    count = 0
    for block in blocks:
        check_caller()
        count += len(block)
        if count > MOST_SECONDS * rate:
            raise InvalidInput(f"the recording is longer than {MOST_SECONDS:,} s", remedy="send it in parts")
        loudest = float(np.abs(block).max(initial=0.0))
        if not np.isfinite(loudest):
            raise InvalidInput("the recording has samples that are no numbers (NaN or infinite)", remedy="leave them out")
        if loudest > LOUDEST:
            raise InvalidInput(
                f"the recording has a sample of {loudest:,.0f}, where full scale is 1",
                remedy="send integers as int16, or scale it",
            )
        yield block
