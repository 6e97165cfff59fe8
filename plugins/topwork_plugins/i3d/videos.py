"""Encoded videos and clip arrays to frames with their times, one after another: what is refused, and which way is up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from topwork_server import Array, InvalidInput, Item, VideoItem, item_kind

from topwork_plugins.i3d.frame_times import USUAL_RATE, FileTimes, timed
from topwork_plugins.i3d.windows import LONGEST, Frame
from topwork_plugins.images.decode import MAX_PIXELS
from topwork_plugins.media_files import MediaKind

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

KINDS = "send an encoded video (mp4, webm, avi ...) or an array (T, H, W, 3) uint8 of RGB"
#: No single pictures.
FILES = MediaKind("video", ("video",), "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,ivf,flv,ogg,asf,gif", KINDS)
#: The most frames of an array: of one message full of them, a frame has 30 x 30 pixels. Longer clips are sent as files.
MOST_ARRAY_FRAMES = 2**16


def frames_of(item: Item, rate: float = 0.0) -> Iterator[Frame]:
    """The frames of an encoded video, or of an array (T, H, W, 3) uint8 shown at `rate` frames a second (0: 25)."""
    if isinstance(item, VideoItem):
        return decode(item.data)
    if isinstance(item, np.ndarray):
        check_clip(item, 3, np.uint8)
        return from_array(item, rate)
    raise InvalidInput(f"a video encoder reads clips, not {item_kind(item)}", remedy=KINDS)


def check_clip(clip: Array, channels: int, dtype: Any) -> None:
    """Raise InvalidInput unless the array is (T, H, W, channels) of `dtype` and has frames with pixels."""
    if clip.ndim != 4 or clip.shape[3] != channels or clip.dtype != dtype:
        raise InvalidInput(
            f"an array {clip.shape} of {clip.dtype} is not a clip",
            remedy=f"send an array (T, H, W, {channels}) of {np.dtype(dtype)}",
        )
    if not clip.size:
        raise InvalidInput(f"the clip {clip.shape} has no frames or no pixels", remedy="send at least one frame")
    if len(clip) > MOST_ARRAY_FRAMES:
        raise InvalidInput(
            f"the clip has {len(clip):,} frames, more than {MOST_ARRAY_FRAMES:,}", remedy="send it in parts, or as a video file"
        )
    _check_size(clip.shape[2], clip.shape[1])


def from_array(clip: Array, rate: float = 0.0) -> Iterator[Frame]:
    """Frame t of (T, H, W, channels) is shown from t / rate seconds; `rate` 0 means 25."""
    rate = rate or USUAL_RATE
    for t, picture in enumerate(clip):
        yield Frame(t / rate, (t + 1) / rate, picture)


def pixels(picture: Any) -> Array:
    """Return (H, W, 3) uint8 RGB, upright: the file's display matrix is applied. Arrays are what they are."""
    if isinstance(picture, np.ndarray):
        return picture
    with FILES.damage_named():
        rgb: Array = picture.to_ndarray(format="rgb24")
    return upright(rgb, picture)


def decode(data: bytes | Path) -> Iterator[Frame]:
    """The frames of a video file in the order that they are shown, from second 0, decoded as they are asked for.

    Each lasts until the next begins, as the file's timestamps say, so variable frame rates need no care. InvalidInput
    where the file is empty, not a video, has no picture track, or is damaged or cut short (known only when reached).
    """
    with FILES.opened(data) as container:
        track = _picture_track(container)
        decoded = _undamaged(container, track)
        first = list(islice(decoded, 1))
        shown = 0.0
        for frame in timed(chain(first, decoded), track):
            shown = frame.end
            yield frame
        FILES.check_whole(track, first[0][0] or 0.0 if first else 0.0, shown)


def _picture_track(container: InputContainer) -> VideoStream:
    """Find the first video track that is no cover picture; one decoding thread, for the server has one for each core."""
    from av.stream import Disposition

    tracks = [t for t in container.streams.video if not t.disposition & Disposition.attached_pic]
    if not tracks:
        raise InvalidInput("the file has no video track (only sound?)", remedy=KINDS)
    context = tracks[0].codec_context
    if context is None:
        raise InvalidInput("the video's codec is not known here", remedy="re-encode it, as H.264 in mp4 for instance")
    _check_size(context.width, context.height)
    _check_length(tracks[0])
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return tracks[0]


def _undamaged(container: InputContainer, track: VideoStream) -> Iterator[tuple[float | None, VideoFrame]]:
    """Frames as they are shown, each with its time in the file."""
    times = FileTimes(container, track)
    for packet in container.demux(track):
        if packet.is_corrupt:
            raise FILES.damaged("a packet is not whole")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise FILES.damaged("a frame is not whole")
            _check_size(frame.width, frame.height)
            yield times.of(frame), frame


def _check_length(track: VideoStream) -> None:
    """Refuse at once what its header says is too long; `bounded` refuses it where the header says nothing or less."""
    if track.frames > LONGEST:
        raise InvalidInput(f"the video has {track.frames:,} frames, more than {LONGEST:,}", remedy="send it in parts")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"the frames have {width} x {height} pixels, more than {MAX_PIXELS:,}", remedy="make them smaller before sending"
        )


if TYPE_CHECKING:
    from av import VideoFrame


def upright(pixels: Array, frame: VideoFrame) -> Array:
    """Return (H, W, 3) as it is shown: turned by quarters, mirrored, or both. Other angles count as the nearest quarter turn."""
    matrix = _matrix(frame)
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _mirrored(pixels.transpose(1, 0, 2), c, b)
    return _mirrored(pixels, a, d)


def _matrix(frame: VideoFrame) -> list[list[int]] | None:
    """[[a, b], [c, d]] of x' = a x + c y, y' = b x + d y (ISO 14496-12, 8.3.2), None where the file has none."""
    from av.sidedata.sidedata import Type

    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return None
    values = np.frombuffer(bytes(found), np.int32)[:9].reshape(3, 3)
    return [[int(value) for value in row[:2]] for row in values[:2]]


def _mirrored(pixels: Array, x: int, y: int) -> Array:
    """Left to right where `x` is negative, upside down where `y` is."""
    pixels = pixels[:, ::-1] if x < 0 else pixels
    return pixels[::-1] if y < 0 else pixels
