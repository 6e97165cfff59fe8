"""Times of decoded frames, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from topwork_plugins.i3d.windows import Frame

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: Frames a second of an array, and of a file that does not say (Carreira & Zisserman 2017, section 3: 25).
USUAL_RATE = 25.0
#: Seconds by which a timestamp may be off at most because its file rounds it: Matroska and FLV to 1 ms, GIF to 10 ms.
MOST_ROUNDED = 0.005


class FileTimes:
    """Times of frames in their file: when each is shown, or where that goes back and forth, when the decoder gave it.

    AVI, and files of broken writers, know one time for a packet, in decoding order. Where frames are stored in another order than
    they are shown (B-frames), FFmpeg gives a frame the time of its own packet, and as `dts` that of the packet with which it came
    out, which is in order. The choice is the one of FFmpeg's best_effort_timestamp; AVI is known beforehand.
    """

    def __init__(self, container: InputContainer, track: VideoStream) -> None:
        in_decoding_order = container.format.name == "avi" and track.codec_context.has_b_frames
        self._shown, self._decoded = _Faults(int(in_decoding_order)), _Faults()

    def of(self, frame: VideoFrame) -> float | None:
        """Seconds, None where the file has no time for the frame."""
        shown, decoded = self._shown.add(frame.pts), self._decoded.add(frame.dts)
        trusted = self._decoded.last is None or self._shown.count <= self._decoded.count
        time = shown if trusted and shown is not None else decoded
        return None if time is None or frame.time_base is None else float(time * frame.time_base)


@dataclass(slots=True)
class _Faults:
    """Counts how often a time was not later than the one before it."""

    count: int = 0
    last: int | None = None

    def add(self, time: int | None) -> int | None:
        if time is not None:
            self.count += self.last is not None and time <= self.last
            self.last = time
        return time


def timed(decoded: Iterator[tuple[float | None, VideoFrame]], track: VideoStream) -> Iterator[Frame]:
    """Holds one frame back: its end is the start of the next; the last frame has its own duration, or the usual one."""
    usual = float(1 / track.average_rate) if track.average_rate else 1 / USUAL_RATE
    tick = float(track.time_base or 0)
    rounded = _rounded(tick, usual)
    waiting: Frame | None = None
    for start, frame in _from_zero(decoded, usual):
        if waiting is not None:
            yield replace(waiting, end=start)
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        lasts = usual if abs(lasts - usual) < tick else lasts  # a duration in whole ticks is a rounded one
        waiting = Frame(start, start + lasts, frame, rounded)
    if waiting is not None:
        yield waiting


def _rounded(tick: float, frame: float) -> float:
    """Seconds by which times in whole ticks may be rounded. A clock that ticks once a frame, or nearly so (AVI), is exact."""
    return min(tick, MOST_ROUNDED) if tick <= frame / 3 else 0.0


def _from_zero(decoded: Iterator[tuple[float | None, VideoFrame]], usual: float) -> Iterator[tuple[float, VideoFrame]]:
    """Seconds since the first frame; never backwards, and guessed where the file gives no timestamp."""
    zero, last = 0.0, -usual
    for index, (time, frame) in enumerate(decoded):
        if index == 0:
            zero = time or 0.0
        last = last + usual if time is None else max(last, time - zero, 0.0)
        yield last, frame
