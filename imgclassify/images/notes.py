"""Leaves out what a file holds beside its pixels, where it keeps a decoder from reading the pixels.

Decoders refuse a file for a note that is too large, that is damaged, or whose compression they do not know. A note
is text, a colour profile, a comment, or EXIF data. Those that say how the image is shown are kept if they are
sound.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

from imgclassify.errors import ImageError, TruncatedImageError
from imgclassify.images.gif_blocks import EXTENSION, iter_blocks, skip_data
from imgclassify.images.png_chunks import MOST_BYTES, Chunk, has_checksum, iter_chunks, make_chunk
from imgclassify.images.splicing import Part, splice

_MOST_NOTES = 2**8
"""How many notes of a PNG are inspected. A hostile file may have any number, and each may unpack to a megabyte."""
_MOST_SEGMENTS = 2**14
"""How many segments, boxes or blocks of another format are followed."""


class Cleaned(NamedTuple):
    """A file without what its decoder stumbles over."""

    stream: BinaryIO
    left_out: str
    """What has been left out: kinds of chunks, such as "iCCP, zTXt"."""
    missing: ImageError | None = None
    """The error of the frames that have been left out, if there were any."""


def leave_out_notes(stream: BinaryIO, format_name: str) -> Cleaned | None:
    """Returns a file without the notes that its decoder may stumble over.

    Args:
        stream: seekable. It is left at any position, and must stay open.
        format_name: one of `decoders.IMAGE_FORMATS`.

    Returns:
        None if there is nothing to leave out, or the structure of the file cannot be followed.
    """
    with suppress(Exception):  # of a damaged file; its first error is the one to report
        if find := _FINDERS.get(format_name):
            return find(stream, stream.seek(0, io.SEEK_END))
    return None


def _clean(stream: BinaryIO, parts: list[Part], left_out: set[str]) -> Cleaned | None:
    return Cleaned(splice(stream, parts), ", ".join(sorted(left_out))) if left_out else None


def _read_at(stream: BinaryIO, position: int, count: int) -> bytes:
    stream.seek(position)
    return stream.read(count)


# PNG --------------------------------------------------------------------------------------------------------

_SHOWN = (b"sBIT", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP", b"eXIf")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_TEXTS = {
    b"iTXt": b"XML:com.adobe.xmp\0",
    b"tEXt": b"Raw profile type exif\0",
    b"zTXt": b"Raw profile type exif\0",
}
_TURNING = (b"eXIf", *_TEXTS)
"""The notes that may hold the orientation. Of texts, those that begin so."""
_NEEDED = (b"PLTE", b"tRNS")
_LONGEST_NEEDED = 3 * 256
"""The kinds that the pixels need besides image data, and how many bytes a palette has at most."""
_KEPT = {b"tRNS", *_SHOWN, *_ANIMATION, *_TEXTS}


def read_chunks(stream: BinaryIO, size: int) -> tuple[list[Chunk], set[str]]:
    """Reads the chunks of a PNG that its image needs, and the sound ones that say how it is shown.

    The critical chunks (IHDR, PLTE, IDAT, IEND) and tRNS, which makes pixels transparent, are always returned,
    however damaged. The others are returned if their checksum is right and Pillow can read them. Of an animation,
    all chunks or none are.

    Args:
        size: of the stream, in bytes.

    Returns:
        (chunks, kinds of the chunks that are left out). The last chunk may reach beyond the end.

    Raises:
        ValueError: the type of the palette or of the transparency is damaged.
    """
    chunks: list[Chunk] = []
    left_out: set[str] = set()
    reader = _NoteReader(stream, size)
    for chunk in iter_chunks(stream):
        kind = chunk.kind
        if not kind[0] & 0x20 or kind == b"tRNS":  # critical: an upper-case letter
            reader.see(chunk)
            chunks.append(chunk)
        else:
            if _was_needed(stream, chunk):
                raise ValueError("the type of a chunk that the pixels need is damaged")
            kept = reader.check(chunk)
            if kept is not chunk:
                left_out.add(kind.decode("latin-1"))
            if kept:
                chunks.append(kept)
    if left_out & {kind.decode() for kind in _ANIMATION}:
        chunks = [chunk for chunk in chunks if chunk.kind not in _ANIMATION]
    return _without_gaps(chunks, left_out), left_out


def _was_needed(stream: BinaryIO, chunk: Chunk) -> bool:
    """Whether the checksum shows that a chunk was the palette or the transparency, before its type was damaged."""
    if chunk.length > _LONGEST_NEEDED:
        return False
    data = _read_at(stream, chunk.position + 8, chunk.length + 4)
    checksums = (struct.pack(">I", zlib.crc32(data[:-4], zlib.crc32(kind))) for kind in _NEEDED)
    return data[-4:] in checksums


def _without_gaps(chunks: list[Chunk], left_out: set[str]) -> list[Chunk]:
    """Leaves out what stands between chunks of image data, which Pillow takes for the end of the image."""
    places = [index for index, chunk in enumerate(chunks) if chunk.kind == b"IDAT"]
    if not places or places[-1] - places[0] + 1 == len(places):
        return chunks
    between = {
        index
        for index in range(places[0], places[-1])
        if chunks[index].kind[0] & 0x20 and chunks[index].kind != b"tRNS"
    }
    left_out |= {chunks[index].kind.decode() for index in between}
    return [chunk for index, chunk in enumerate(chunks) if index not in between]


class _NoteReader:
    """Tells which notes of a PNG are sound, by Pillow's own reader for each kind."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        from PIL.PngImagePlugin import PngStream

        self._stream = stream
        self._size = size
        self._reader: Any = PngStream(io.BytesIO())
        self._notes = 0
        self._unpacked = False

    def see(self, chunk: Chunk) -> None:
        """Takes the size and the colour type from the header. Other notes depend on them."""
        if chunk.kind == b"IHDR":
            with suppress(Exception):
                self._read(b"IHDR", _read_at(self._stream, chunk.position + 8, min(chunk.length, 13)))

    def check(self, chunk: Chunk) -> Chunk | None:
        """Returns the chunk if it is needed and sound, or one that is not packed if Pillow cannot unpack it."""
        kind, position, length, _ = chunk
        if kind not in _KEPT:
            return None
        if position + 12 + length > self._size:
            return self._cut(chunk) if kind in _TURNING else None
        if kind == b"fdAT":
            return (
                chunk
                if self._is_sound(kind, _read_at(self._stream, position + 8, min(length, 4)), length)
                else None
            )
        if length > MOST_BYTES or (kind not in _ANIMATION and self._notes >= _MOST_NOTES):
            return None
        data = _read_at(self._stream, position + 8, length)
        if kind in _TEXTS and not data.startswith(_TEXTS[kind]):
            return None
        self._notes += kind not in _ANIMATION
        if not has_checksum(self._stream, chunk, if_cut=False):
            return None
        if self._is_sound(kind, data, length):
            return chunk
        if kind == b"iTXt" and not self._unpacked and (unpacked := _unpack_text(data)):
            self._unpacked = True  # one is enough for an image, and more take much memory
            return chunk._replace(part=make_chunk(kind, unpacked))
        return None

    def _cut(self, chunk: Chunk) -> Chunk | None:
        """Returns what there is of a chunk that reaches beyond the end."""
        data = _read_at(self._stream, chunk.position + 8, MOST_BYTES)
        if not data.startswith(_TEXTS.get(chunk.kind, b"")):
            return None
        return chunk._replace(part=make_chunk(chunk.kind, data))

    def _is_sound(self, kind: bytes, data: bytes, length: int) -> bool:
        try:
            self._read(kind, data, length)
        except EOFError:  # Pillow's way to say that image data was found
            return True
        except Exception:  # noqa: BLE001 - damaged notes fail in many ways
            return False
        return True

    def _read(self, kind: bytes, data: bytes, length: int | None = None) -> None:
        self._reader.fp = io.BytesIO(data)
        # Pillow has none for cICP and sBIT, which have no form that it would refuse.
        if read := getattr(self._reader, f"chunk_{kind.decode()}", None):
            read(0, len(data) if length is None else length)


def _unpack_text(data: bytes) -> bytes | None:
    """Returns the data of an iTXt chunk that is packed, not packed. Of a large text, it returns the beginning."""
    keyword, _, rest = data.partition(b"\0")
    if rest[:2] != b"\1\0":
        return None
    language, _, rest = rest[2:].partition(b"\0")
    translated, _, packed = rest.partition(b"\0")
    text = b""
    with suppress(zlib.error):
        text = zlib.decompressobj().decompress(packed, MOST_BYTES)
    return b"\0".join((keyword, b"\0", language, translated, text))


def _clean_png(stream: BinaryIO, size: int) -> Cleaned | None:
    chunks, left_out = read_chunks(stream, size)
    if any(chunk.kind in _TURNING and chunk.position + 12 + chunk.length > size for chunk in chunks):
        return None  # the file is cut, and the orientation may be in what is missing
    return _clean(stream, [(0, 8), *(chunk.part for chunk in chunks)], left_out)


# JPEG -------------------------------------------------------------------------------------------------------

_SHORTEST_PROFILE = 14


def _clean_jpeg(stream: BinaryIO, size: int) -> Cleaned | None:
    """Leaves out the application segments that Pillow cannot read. libjpeg ignores those that are too short."""
    from PIL import JpegImagePlugin

    scratch = SimpleNamespace(info={}, app={}, applist=[], icclist=[], fp=None)
    parts: list[Part] = [(0, 2)]
    left_out: set[str] = set()
    position = 2
    for _ in range(_MOST_SEGMENTS):
        header = _read_at(stream, position, 4)
        if len(header) < 4:
            break
        mark, marker, length = struct.unpack(">BBH", header)
        if mark != 0xFF or marker == 0xDA or not 0xC0 <= marker < 0xFF:
            break
        if 0xE0 <= marker <= 0xEF:
            data = _read_at(stream, position + 2, length)
            scratch.fp = io.BytesIO(data)
            try:
                JpegImagePlugin.APP(scratch, 0xFF00 | marker)  # type: ignore[arg-type]
                if data[2:].startswith(b"ICC_PROFILE\0") and length - 2 < _SHORTEST_PROFILE:
                    raise IndexError(length)
            except Exception:  # noqa: BLE001 - a damaged segment fails in many ways
                left_out.add(f"APP{marker & 15}")
                position += 2 + length
                continue
        parts.append((position, 2 + length))
        position += 2 + length
    return _clean(stream, [*parts, (position, max(0, size - position))], left_out)


# WebP -------------------------------------------------------------------------------------------------------

_WEBP_IMAGE = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_WEBP_KEPT = {*_WEBP_IMAGE, b"EXIF", b"XMP "}
_ANIMATED, _WITH_NOTES = 0x02, 0x0C
"""Flags of VP8X: that the file is an animation, and that it has EXIF data or XMP."""


def read_riff(stream: BinaryIO, start: int, end: int) -> list[tuple[bytes, int, int]]:
    """Reads the chunks of a WebP between two positions.

    Returns:
        (kind, position of its data, length of its data) of each. The last one may reach beyond the end.
    """
    found: list[tuple[bytes, int, int]] = []
    while start + 8 <= end and len(found) < _MOST_SEGMENTS:
        kind, length = struct.unpack("<4sI", _read_at(stream, start, 8))
        found.append((kind, start + 8, length))
        start += 8 + length + length % 2
    return found


def make_riff(parts: list[tuple[bytes, Part]]) -> list[Part]:
    """Returns the parts of a WebP that has these chunks: (kind, data) of each."""
    made: list[Part] = []
    total = 4
    for kind, data in parts:
        length = data[1] if isinstance(data, tuple) else len(data)
        made += [struct.pack("<4sI", kind, length), data, bytes(length % 2)]
        total += 8 + length + length % 2
    return [struct.pack("<4sI4s", b"RIFF", total, b"WEBP"), *made]


def _clean_webp(stream: BinaryIO, size: int) -> Cleaned | None:
    """Keeps what the image needs, EXIF data and XMP; and of an animation that is cut, the frames before."""
    is_cut = int.from_bytes(_read_at(stream, 4, 4), "little") + 8 > size
    if is_cut and _read_at(stream, 20, 1)[0] & (_ANIMATED | _WITH_NOTES) != _ANIMATED:
        return None  # the orientation may be in what is missing
    kept: list[tuple[bytes, Part]] = []
    left_out: set[str] = set()
    for kind, position, length in read_riff(stream, 12, size):
        whole = position + length <= size
        if kind in _WEBP_IMAGE and not whole and (b"ANMF" not in dict(kept) or not is_cut):
            return None
        if kind in _WEBP_KEPT and (whole or kind not in _WEBP_IMAGE):
            kept.append((kind, (position, min(length, size - position))))
        if not whole or kind not in _WEBP_KEPT:
            left_out.add(kind.decode("latin-1").strip())
    if not is_cut:
        return _clean(stream, make_riff(kept), left_out)
    missing = TruncatedImageError("damaged WEBP file: it ends too early, and frames may be missing")
    return Cleaned(splice(stream, make_riff(kept)), "frames", missing)


# GIF --------------------------------------------------------------------------------------------------------

_GRAPHIC_CONTROL = 0xF9


def _clean_gif(stream: BinaryIO, size: int) -> Cleaned | None:
    """Leaves out the extensions before the first image, except for graphic control extensions."""
    parts: list[Part] = []
    left_out: set[str] = set()
    end = 0
    for kind, start, position in islice(iter_blocks(stream), _MOST_SEGMENTS):
        if kind != EXTENSION:
            parts.append((start, max(0, size - start)))
            break
        parts.append((end, start - end))
        end = skip_data(stream, position)
        (label,) = _read_at(stream, position - 1, 1)
        if label == _GRAPHIC_CONTROL:
            parts.append((start, end - start))
        else:
            left_out.add(f"extension {label}")
    else:
        return None
    return _clean(stream, parts, left_out)


# AVIF and HEIC ----------------------------------------------------------------------------------------------

_HEADER_BYTES = 2**20
_ITEM_ENTRY = b"infe\2"


def _clean_boxes(stream: BinaryIO, size: int) -> Cleaned | None:
    """Renames the items with EXIF data and XMP, so that they are of an unknown type, which is ignored.

    An item's type is at the same place in each entry of version 2 (ISO/IEC 14496-12, 8.11.6). The orientation is a
    property of the image, which stays.
    """
    header = bytearray(_read_at(stream, 0, _HEADER_BYTES))
    left_out: set[str] = set()
    place = header.find(_ITEM_ENTRY)
    while place >= 0:
        kind = slice(place + 12, place + 16)
        if (name := bytes(header[kind])) in (b"Exif", b"mime"):
            left_out.add(name.decode())
            header[kind] = b"skip"
        place = header.find(_ITEM_ENTRY, place + 4)
    return _clean(stream, [bytes(header), (len(header), max(0, size - len(header)))], left_out)


_FINDERS: dict[str, Callable[[BinaryIO, int], Cleaned | None]] = {
    "PNG": _clean_png,
    "JPEG": _clean_jpeg,
    "WEBP": _clean_webp,
    "GIF": _clean_gif,
    "AVIF": _clean_boxes,
    "HEIF": _clean_boxes,
}
