"""Encoded videos and clip arrays to frames with their times, one after another: what is refused, and which way is up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from topwork_server import Clip, InvalidInput, Item
from topwork_server.types import Array

from topwork_plugins.i3d.windows import Frame
from topwork_plugins.pictures import MAX_PIXELS

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

KINDS = "send an encoded video (mp4, webm, avi ...) or an array (T, H, W, 3) uint8 of RGB"
#: What the demuxer may try: never playlists or scripts, which name other files and addresses, and no single pictures.
FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,ivf,flv,ogg,asf,gif"
#: Frames a second of an array, and of a file that does not say (Carreira & Zisserman 2017, section 3: 25).
USUAL_RATE = 25.0
#: A video may end so much earlier than its header says (a muxer's rounding) before it counts as cut short.
SHORTFALL = 0.1


def frames_of(item: Item, rate: float = 0.0) -> Iterator[Frame]:
    """The frames of an encoded video, or of an array (T, H, W, 3) uint8 shown at `rate` frames a second (0: 25)."""
    if isinstance(item, Clip):
        return decode(item.data)
    if isinstance(item, np.ndarray):
        check_clip(item, 3, np.uint8)
        return from_array(item, rate)
    raise InvalidInput(f"a video encoder reads clips, not a {type(item).__name__.lower()}", remedy=KINDS)


def check_clip(clip: Array, channels: int, dtype: Any) -> None:
    """InvalidInput unless the array is (T, H, W, channels) of `dtype` and has frames with pixels."""
    if clip.ndim != 4 or clip.shape[3] != channels or clip.dtype != dtype:
        raise InvalidInput(
            f"an array {clip.shape} of {clip.dtype} is not a clip",
            remedy=f"send an array (T, H, W, {channels}) of {np.dtype(dtype)}",
        )
    if not clip.size:
        raise InvalidInput(f"the clip {clip.shape} has no frames or no pixels", remedy="send at least one frame")
    _check_size(clip.shape[2], clip.shape[1])


def from_array(clip: Array, rate: float = 0.0) -> Iterator[Frame]:
    """Frame t of (T, H, W, channels) is shown from t / rate seconds; `rate` 0 means 25."""
    rate = rate or USUAL_RATE
    for t, picture in enumerate(clip):
        yield Frame(t / rate, (t + 1) / rate, picture)


def pixels(picture: Any) -> Array:
    """(H, W, 3) uint8 RGB, upright: a phone's display matrix is applied. Arrays are what they are."""
    if isinstance(picture, np.ndarray):
        return picture
    with _damage_named():
        rgb: Array = picture.to_ndarray(format="rgb24")
    return np.rot90(rgb, round(picture.rotation / 90) % 4)


def decode(data: bytes | Path) -> Iterator[Frame]:
    """The frames of a video file in the order that they are shown, from second 0, decoded as they are asked for.

    Each lasts until the next begins, as the file's timestamps say, so variable frame rates need no care. InvalidInput
    where the file is empty, not a video, has no picture track, or is damaged or cut short (known only when reached).
    """
    with _opened(data) as file, _container(file) as container, _damage_named():
        track = _picture_track(container)
        shown = 0.0
        for frame in _timed(_undamaged(container, track), track):
            shown = frame.end
            yield frame
        _check_whole(track, shown)


def _opened(data: bytes | Path) -> BinaryIO:
    if isinstance(data, bytes):
        if not data:
            raise InvalidInput("the video is empty (0 bytes)", remedy=KINDS)
        return BytesIO(data)
    try:
        return data.open("rb")  # the decoder gets a file and never its name, which could name a protocol
    except OSError as error:
        raise InvalidInput(f"{data} cannot be read: {error.strerror}", remedy="check the path on the server") from error


def _container(file: BinaryIO) -> InputContainer:
    import av

    try:
        container: InputContainer = av.open(file, container_options={"format_whitelist": FORMATS}, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InvalidInput(f"not a video, or one that is cut short: {error.strerror}", remedy=KINDS) from error
    return container


def _picture_track(container: InputContainer) -> VideoStream:
    """The first video track that is no cover picture; one decoding thread, for the server has one for each core."""
    from av.stream import Disposition

    tracks = [t for t in container.streams.video if not t.disposition & Disposition.attached_pic]
    if not tracks:
        raise InvalidInput("the file has no video track (only sound?)", remedy=KINDS)
    context = tracks[0].codec_context
    if context is None:
        raise InvalidInput("the video's codec is not known here", remedy="re-encode it, as H.264 in mp4 for instance")
    _check_size(context.width, context.height)
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return tracks[0]


def _undamaged(container: InputContainer, track: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(track):
        if packet.is_corrupt:
            raise _damaged("a packet is not whole")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise _damaged("a frame is not whole")
            _check_size(frame.width, frame.height)
            yield frame


def _timed(decoded: Iterator[VideoFrame], track: VideoStream) -> Iterator[Frame]:
    """Holds one frame back: when it ends is known from the next, and of the last from its own or the usual duration."""
    usual = float(1 / track.average_rate) if track.average_rate else 1 / USUAL_RATE
    waiting: Frame | None = None
    for start, frame in _stamped(decoded, usual):
        if waiting is not None:
            yield replace(waiting, end=start)
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        waiting = Frame(start, start + lasts, frame)
    if waiting is not None:
        yield waiting


def _stamped(decoded: Iterator[VideoFrame], usual: float) -> Iterator[tuple[float, VideoFrame]]:
    """Seconds since the first frame; never backwards, and guessed where the file gives no timestamp."""
    zero, last = 0.0, -usual
    for index, frame in enumerate(decoded):
        if index == 0:
            zero = frame.time or 0.0
        last = last + usual if frame.time is None else max(last, frame.time - zero, 0.0)
        yield last, frame


def _check_whole(track: VideoStream, shown: float) -> None:
    """A container may simply end; then only its header tells that there was more."""
    declared = _declared_seconds(track)
    if shown < declared * (1 - SHORTFALL):
        raise _damaged(f"it ends at {shown:.2f} s of {declared:.2f} s")


def _declared_seconds(track: VideoStream) -> float:
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    hours, _, rest = track.metadata.get("DURATION", "").partition(":")  # Matroska and WebM: 00:00:01.920000000
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


@contextmanager
def _damage_named() -> Iterator[None]:
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise _damaged(error.strerror or str(error)) from error


def _damaged(how: str) -> InvalidInput:
    return InvalidInput(f"the video is damaged or cut short: {how}", remedy="send the whole file, or re-encode it")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"the frames have {width} x {height} pixels, more than {MAX_PIXELS:,}", remedy="make them smaller before sending"
        )
