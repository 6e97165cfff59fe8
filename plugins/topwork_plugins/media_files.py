"""Opens files of videos and recordings with PyAV, and refuses those that are empty, damaged, cut short or something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from topwork.file_kinds import ENOUGH, file_kind
from topwork_server import InvalidInput

if TYPE_CHECKING:
    from av.container import InputContainer

#: A track may end so much earlier than its header says (a muxer's rounding) before it counts as cut short.
SHORTFALL = 0.1


@dataclass(frozen=True)
class MediaKind:
    """The files that are read: `noun` and `wanted` for messages, words of `file_kind` for them (`kinds`), and the `formats`
    that the demuxer may try: never playlists or scripts, for these name other files and addresses. `check_head` raises
    InvalidInput where the first bytes of a file that the demuxer refuses say why."""

    noun: str
    kinds: tuple[str, ...]
    formats: str
    wanted: str
    check_head: Callable[[bytes], None] = lambda head: None

    @contextmanager
    def opened(self, data: bytes | Path) -> Iterator[InputContainer]:
        """Open a file. InvalidInput where it is empty or of no such format, and for what PyAV raises while it is read."""
        with self._file(data) as file, self._container(file) as container, self.damage_named():
            yield container

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """InvalidInput instead of PyAV's own errors."""
        import av

        try:
            yield
        except av.error.FFmpegError as error:
            raise self.damaged(error.strerror or str(error)) from error

    def damaged(self, how: str) -> InvalidInput:
        """The error for a file that is not whole."""
        return InvalidInput(f"the {self.noun} is damaged or cut short: {how}", remedy="send the whole file, or re-encode it")

    def check_whole(self, track: Any, first: float, shown: float) -> None:
        """InvalidInput where the track ends long before its header says. A container may simply end; then only its header tells
        that there was more. `first` is where the track begins in its file, `shown` how long it is, in seconds."""
        begin, declared = _declared(track)
        if first - begin + shown < declared * (1 - SHORTFALL):
            raise self.damaged(f"it ends at {shown:.2f} s of {declared - first + begin:.2f} s")

    def _file(self, data: bytes | Path) -> BinaryIO:
        if isinstance(data, bytes):
            if not data:
                raise InvalidInput(f"the {self.noun} is empty (0 bytes)", remedy=self.wanted)
            return BytesIO(data)
        try:
            return data.open("rb")  # the decoder gets a file and never its name, which could name a protocol
        except OSError as error:
            raise InvalidInput(f"{data} cannot be read: {error.strerror}", remedy="check the path on the server") from error

    def _container(self, file: BinaryIO) -> InputContainer:
        import av

        try:
            container: InputContainer = av.open(
                file, container_options={"format_whitelist": self.formats}, metadata_errors="replace"
            )
        except av.error.FFmpegError as error:
            file.seek(0)
            head = file.read(ENOUGH)
            self.check_head(head)
            kind = file_kind(head)
            other = kind and not any(word in kind for word in self.kinds)
            why = f"it seems to be {kind}" if other else f"or one that is cut short: {error.strerror}"
            raise InvalidInput(f"not a {self.noun}, {why}", remedy=self.wanted) from error
        return container


def _declared(track: Any) -> tuple[float, float]:
    """The start of the track in its file and its length, in seconds; (0, 0) where the file does not say."""
    if track.duration and track.time_base:
        return float((track.start_time or 0) * track.time_base), float(track.duration * track.time_base)
    # Matroska and WebM write where the track ends, counted from the beginning of the file: 00:00:01.920000000
    hours, _, rest = track.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 0.0, int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0, 0.0
