"""Frames to windows, step by step, so that a long video needs the memory of one window and no more.

The steps are generators, each fed by the one before: `resample`, `spaced`, `mapped`, and at the end `windows`, the only one
that holds more than one frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from topwork_server import Array, InvalidInput, check_caller

#: The most frames that one item may show its encoder: 46 hours of 25 a second.
LONGEST = 2**22
#: Seconds that make no difference between two times: the rounding of floats, many hours into a video.
FUZZ = 1e-6


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture (an array, or a decoder's frame), and the seconds from `start` to `end` for which it is shown.

    `rounded` are the seconds by which its file may have rounded `start`.
    """

    start: float
    end: float
    picture: Any
    rounded: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive frames, the seconds that they cover, and how many at the end repeat the last that there was."""

    frames: list[Array]
    start: float
    end: float
    repeated: int


def resample(frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
    """Yield one frame every 1 / fps seconds: the one on screen at that time, as FFmpeg's filter fps=N:round=up gives it.

    A frame that begins so little later that its file's rounding may be why is on screen already, so at a file's own rate none is
    lost and none is doubled.
    """
    tick, shown = 0, None
    for frame in frames:
        while shown is not None and tick / fps < frame.start - max(frame.rounded, FUZZ):
            yield Frame(tick / fps, (tick + 1) / fps, shown.picture)
            tick += 1
        shown = frame
    while shown is not None and (tick == 0 or tick / fps < shown.end - max(shown.rounded, FUZZ)):
        yield Frame(tick / fps, (tick + 1) / fps, shown.picture)
        tick += 1


def bounded(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames as they are; InvalidInput after LONGEST of them, so that no small file keeps a server busy for days.

    Ends at the next frame where the caller has left: between two windows there may be a million frames.
    """
    most = LONGEST
    for count, frame in enumerate(frames):
        check_caller()
        if count == most:
            raise InvalidInput(f"the video has more than {most:,} frames", remedy="send it in parts, or ask for a lower fps")
        yield frame


def spaced(frames: Iterable[Frame], count: int, stride: int) -> Iterator[Frame]:
    """Leave out pictures that no window of `count` frames every `stride` frames shows."""
    return (frame for i, frame in enumerate(frames) if i % stride < count)


def mapped(frames: Iterable[Frame], function: Callable[[Any], Array]) -> Iterator[Frame]:
    """Apply `function` to each picture; one that is shown again is not computed again."""
    picture: Any = None
    result: Any = None
    for frame in frames:
        if frame.picture is not picture:
            picture, result = frame.picture, function(frame.picture)
        yield replace(frame, picture=result)


def windows(frames: Iterable[Frame], count: int, stride: int, *, drop_last: bool = False) -> Iterator[Window]:
    """Windows of `count` frames that begin every `stride` of `frames` (after `spaced`: at most `count`).

    Windows go on until every frame was in one: the last repeats its last frame to be full, or with `drop_last` is left
    out, unless it is the only one. InvalidInput where there are no frames. Holds `count` frames.
    """
    held: deque[Frame] = deque(maxlen=count)
    missing, complete = count, 0
    for frame in frames:
        held.append(frame)
        missing -= 1
        if not missing:
            yield _window(list(held), count)
            missing, complete = stride, complete + 1
    if not held:
        raise InvalidInput("the video has no frames", remedy="send at least one frame")
    unseen = missing < stride
    if not complete or (unseen and not drop_last):
        yield _window(list(held)[len(held) - (count - missing) :], count)


def _window(held: list[Frame], count: int) -> Window:
    pictures = [frame.picture for frame in held]
    repeated = count - len(held)
    return Window(pictures + pictures[-1:] * repeated, held[0].start, held[-1].end, repeated)
