"""Previews of recordings in a report: the beginning, small enough for a page that brings it along."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from topwork.report import MP3

#: What is kept of a recording: 4 seconds of one channel, 12 KB.
SECONDS, RATE, BITS = 4, 16_000, 24_000
#: The usual files of sound. No playlists: those name other files.
FORMATS = "wav,flac,mp3,ogg,mov,matroska,aiff"


def sound_preview(data: bytes | Path) -> str:
    """Return the first SECONDS of a recording as an MP3 in a data: URI; "" where it cannot be shown."""
    import av

    source, file = io.BytesIO(data) if isinstance(data, bytes) else data, io.BytesIO()
    try:
        with (
            av.open(source, container_options={"format_whitelist": FORMATS}) as sound,
            av.open(file, "w", format="mp3") as mp3,
        ):
            written = _write_beginning(sound, mp3)
    except (av.error.FFmpegError, ValueError, LookupError, OSError):
        return ""
    return MP3 + base64.b64encode(file.getvalue()).decode() if written else ""


def _write_beginning(sound: Any, mp3: Any) -> int:
    """Return the number of samples that were written."""
    from av import AudioResampler

    stream = mp3.add_stream("mp3", rate=RATE, layout="mono")
    stream.bit_rate = BITS
    resampler = AudioResampler(stream.format, "mono", RATE, frame_size=stream.codec_context.frame_size)
    written = 0
    for frame in sound.decode(sound.streams.audio[0]):
        frame.pts = None
        for piece in resampler.resample(frame):
            mp3.mux(stream.encode(piece))
            written += piece.samples
        if written >= SECONDS * RATE:
            break
    for piece in resampler.resample(None) if written else ():
        mp3.mux(stream.encode(piece))
    mp3.mux(stream.encode(None))
    return written
