"""Reads the frames of a video, with PyAV (FFmpeg). Importing this module raises ImportError without it.

A frame's key is its time in milliseconds from the start of the video.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import av.logging
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from av.video.reformatter import Colorspace
from PIL import Image

from imgclassify.errors import (
    CorruptImageError,
    ImageError,
    ImageNotFoundError,
    TruncatedImageError,
    UnsupportedImageError,
)
from imgclassify.file_kinds import HEAD_BYTES
from imgclassify.images.foreign_formats import find_video
from imgclassify.images.frames import check_pixels
from imgclassify.images.truncation import is_truncated

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from imgclassify.images.frames import FrameSelection

av.logging.set_level(None)  # FFmpeg's own messages would not name the file

_JUMP_MS = 2000
"""To a frame that is farther away than this, the video is searched for the key frame before it."""
_INDEXED = ("mov", "matroska")
"""FFmpeg's names of the formats that say where their key frames are."""
_MOST_REORDERED = 32
"""How many frames may be stored before one that is shown earlier. H.264 and HEVC allow 16."""
_HIGHEST_SD = 576
"""A video of more lines has the colours of ITU-R BT.709 if it does not say, and a smaller one those of BT.601."""
_MOST_STRETCHED = 4
"""The largest ratio of a pixel's sides that is believed."""
_CONVERTED = (8, 16, 18)
"""Transfer characteristics (ITU-T H.273) of linear light, PQ and HLG, which are converted to sRGB."""
_UNSPECIFIED = 2
"""The colours of a video that does not say: AVCOL_SPC_UNSPECIFIED."""
_TRANSPOSITIONS = {
    (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Image.Transpose.ROTATE_180,
    (True, False, False): Image.Transpose.TRANSPOSE,
    (True, True, False): Image.Transpose.ROTATE_270,
    (True, False, True): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}
"""The transposition for a matrix: whether it swaps the axes, and whether x and y of its result run backwards."""


def open_video(stream: BinaryIO, max_pixels: int) -> VideoFrames:
    """Opens the video of a file.

    Args:
        stream: seekable.
        max_pixels: limit on width × height of a frame.

    Raises:
        UnsupportedImageError: the file has sound only.
        Exception: the file is damaged.
    """
    found = find_video(stream.read(HEAD_BYTES))
    return VideoFrames(stream, found.ffmpeg_name if found else None, max_pixels)


class VideoFrames:
    """The frames of a video; see frames.Frames. They are decoded in order, and from key frames after a jump."""

    first = 0

    def __init__(self, file: BinaryIO, format_name: str | None, max_pixels: int) -> None:
        self._file, self._format, self._max_pixels = file, format_name, max_pixels
        self._is_indexed = format_name in _INDEXED
        self._container: Any = None
        self._is_damaged = False
        """Whether frames after the current one could not be decoded."""
        self._reopen()
        self.count: int | None = self._stream.frames or None
        self.missing = self._find_missing()

    def _find_missing(self) -> ImageError | None:
        """Returns an error if the file is cut, and has no list of its frames, as most MP4 files have."""
        position = self._file.tell()
        is_listed = self._format == "mov" and self.count is not None
        is_cut = not is_listed and is_truncated(self._file, "video", "")
        self._file.seek(position)
        return TruncatedImageError("damaged video: it ends too early, and frames are missing") if is_cut else None

    def _reopen(self) -> None:
        """Goes to the start."""
        self._close()
        self._file.seek(0)
        # The format is given, because FFmpeg also knows formats that open other files: playlists.
        with _plain_errors():
            self._container = av.open(self._file, "r", format=self._format, metadata_errors="replace")
        streams = [
            each for each in self._container.streams.video if not each.disposition & Disposition.attached_pic
        ]
        if not streams:
            raise UnsupportedImageError("a video file that has no video, only sound or text")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise UnsupportedImageError("a video in a codec that FFmpeg cannot decode")
        self._stream.thread_type = "AUTO"
        self._start_decoding()
        self._position: int | None = -1
        """The position of the current frame. None after a jump."""

    def _close(self) -> None:
        """Ends the decoder's threads.

        The container and its streams refer to each other. So they would stay until garbage is collected.
        """
        if self._container is not None:
            self._container.close()

    def _start_decoding(self) -> None:
        self._packets = self._container.demux(self._stream)
        self._decoded: deque[VideoFrame] = deque()
        self._current: VideoFrame | None = None
        self._following: VideoFrame | None = None

    def __del__(self) -> None:
        self._close()

    def position(self, key: int) -> int | None:
        return self._position

    def names(self, selection: FrameSelection) -> Iterator[str]:
        next_due = 0.0
        for time in self._times(key_frames=selection.key_frames):
            if selection.fps is not None:
                if time + 0.5 < next_due:
                    continue
                next_due = 1000 * (math.floor((time + 0.5) * selection.fps / 1000) + 1) / selection.fps
            yield f"{time / 1000:.3f}"

    def find(self, name: str) -> int:
        try:
            return round(1000 * float(name))
        except (ValueError, OverflowError):  # not a number, or not finite
            raise ImageNotFoundError(f"no frame at {name!r} seconds: not a time") from None

    def open(self, key: int) -> Image.Image:
        """Returns the frame that is shown at a time.

        Raises:
            ImageNotFoundError: the video ends before, or the time is negative.
            CorruptImageError: the frame cannot be decoded.
            ImageTooLargeError: it has too many pixels.
        """
        check_pixels((self._stream.codec_context.width, self._stream.codec_context.height), self._max_pixels)
        if key < 0:
            raise ImageNotFoundError(f"no frame at {key / 1000:.3f} seconds: a video begins at 0")
        self._approach(key)
        while (following := self._peek()) is not None and (self._current is None or self._time(following) <= key):
            self._take()
        if self._current is None:
            raise CorruptImageError("damaged video: no frame of it can be decoded")
        if following is None and key > self._time(self._current) + _JUMP_MS:
            raise ImageNotFoundError(f"no frame at {key / 1000:.3f} seconds: the video ends before")
        if self._is_damaged and self._time(self._current) != key:
            raise CorruptImageError(f"damaged video: the frame at {key / 1000:.3f} seconds cannot be decoded")
        return _to_image(self._current, self._stream)

    def following(self, key: int) -> int | None:
        following = self._peek()
        return None if following is None else self._time(following)

    def _times(self, *, key_frames: bool) -> Iterator[int]:
        """Yields the times of the frames in the order in which they are shown, without decoding them."""
        waiting: list[int] = []
        start, unit = self._stream.start_time or 0, self._stream.time_base
        packets = self._container.demux(self._stream)
        while True:
            with _plain_errors():
                packet = next(packets, None)
            if packet is None:
                break
            stamp = packet.dts if packet.pts is None else packet.pts
            if (
                packet.size
                and stamp is not None
                and not packet.is_discard
                and (packet.is_keyframe or not key_frames)
            ):
                heapq.heappush(waiting, _milliseconds(stamp - start, unit))
            if len(waiting) > _MOST_REORDERED:
                yield heapq.heappop(waiting)
        while waiting:
            yield heapq.heappop(waiting)

    def _time(self, frame: VideoFrame) -> int:
        stamp = frame.dts if frame.pts is None else frame.pts
        return _milliseconds((stamp or 0) - (self._stream.start_time or 0), frame.time_base)

    def _peek(self) -> VideoFrame | None:
        if self._following is None:
            self._following = self._decode_next()
        return self._following

    def _decode_next(self) -> VideoFrame | None:
        while not self._decoded:
            with _plain_errors():
                packet = next(self._packets, None)
            if packet is None:
                return None
            try:
                self._decoded.extend(packet.decode())
            except FFmpegError:
                self._is_damaged = True
        return self._decoded.popleft()

    def _take(self) -> None:
        self._current, self._following = self._following, None
        self._is_damaged = False
        if self._position is not None:
            self._position += 1

    def _approach(self, key: int) -> None:
        """Goes to a frame at or before a time, if the one that is wanted is behind, or far ahead."""
        reached = 0 if self._current is None else self._time(self._current)
        if reached <= key <= reached + _JUMP_MS or (key > reached and not self._is_indexed):
            return
        if self._is_indexed:
            start = self._stream.start_time or 0
            self._seek(start + math.floor(key / 1000 / (self._stream.time_base or 1)))
            self._position = None
            following = self._peek()
            if following is not None and self._time(following) <= key:
                return
        # The index is wrong, or there is none: FFmpeg would guess the place, and might miss the frame.
        self._reopen()

    def _seek(self, stamp: int) -> None:
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._start_decoding()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns FFmpeg's errors into ValueError. Some of them look like those of a disk."""
    try:
        yield
    except FFmpegError as error:
        raise ValueError(error.strerror) from error


def _milliseconds(stamp: int, unit: object) -> int:
    return round(1000 * stamp * unit)  # type: ignore[operator]


def _to_image(frame: VideoFrame, stream: VideoStream) -> Image.Image:
    """Converts a frame to RGB, with square pixels, upright."""
    colors = frame.colorspace
    if colors == _UNSPECIFIED:
        colors = Colorspace.ITU601 if frame.height <= _HIGHEST_SD else Colorspace.ITU709
    image = Image.fromarray(frame.reformat(format="rgb24", src_colorspace=colors).to_ndarray())
    ratio = stream.sample_aspect_ratio or 1
    if ratio != 1 and 1 / _MOST_STRETCHED <= ratio <= _MOST_STRETCHED:
        image = image.resize((max(1, round(image.width * ratio)), image.height))
    transposition = _find_transposition(frame)
    if transposition is not None:
        image = image.transpose(transposition)
    if frame.color_trc in _CONVERTED:  # as pillow_heif declares it
        image.info["nclx_profile"] = {
            "color_primaries": int(frame.color_primaries),
            "transfer_characteristics": int(frame.color_trc),
        }
    return image


def _find_transposition(frame: VideoFrame) -> Image.Transpose | None:
    """Returns the transposition that the display matrix asks for, or the one that is nearest to it.

    The matrix takes the point (x, y) to (a x + c y, b x + d y); its numbers are a, b, u, c, d, v, … in 16.16 fixed
    point, of 32 bits (ISO/IEC 14496-12, 6.2.2; FFmpeg, libavutil/display.h).
    """
    # Not `frame.side_data`: the frame would refer to it, and it to the frame, so that the decoder's threads stayed.
    side_data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if side_data is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(side_data))
    swaps = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swaps else (a, d)
    return _TRANSPOSITIONS.get((swaps, across < 0, down < 0))
