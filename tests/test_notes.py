"""What stands beside the pixels of a file: damaged, too large or unknown, it does not keep them from being read."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, noise
from PIL import Image

from imgclassify.errors import CorruptImageError, TruncatedImageError
from imgclassify.images.decoding import decode_image, load_image
from imgclassify.images.info import ImageInfo
from imgclassify.images.splicing import splice
from imgclassify.sources import Source

PIXELS = np.asarray(noise(40, 30))
NOISE = np.random.default_rng(1).bytes(3 * 2**20)


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(content)))


# PNG --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes, *, length: int | None = None, damaged: bool = False) -> bytes:
    checksum = zlib.crc32(kind + data) ^ damaged
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", checksum)


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0))
PACKED = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
DATA = chunk(b"IDAT", PACKED)
END = chunk(b"IEND", b"")


def png(*before: bytes, data: bytes = DATA, after: bytes = b"", header: bytes = HEADER, end: bytes = END) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + data + after + end


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0, 0, 0, 0, 0])


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/>'

NOTES = {
    "packed iTXt of more than 1 MiB": chunk(b"iTXt", b"history\0\1\0\0\0" + zlib.compress(NOISE)),
    "packed zTXt of more than 1 MiB": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(NOISE)),
    "bomb in zTXt": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))),
    "more than 64 MiB of text": chunk(b"tEXt", b"a\0" + bytes(2**23)) * 9,
    "profile of more than 1 MiB": chunk(b"iCCP", b"press\0\0" + zlib.compress(NOISE)),
    "iCCP, unknown method": chunk(b"iCCP", b"press\0\5xxx"),
    "iCCP without a name": chunk(b"iCCP", b"xxx"),
    "zTXt, unknown method": chunk(b"zTXt", b"Comment\0\7xxx"),
    **{
        f"{kind.decode()}, wrong checksum": chunk(kind, data, damaged=True)
        for kind, data in {
            b"tEXt": b"Software\0some program",
            b"zTXt": b"Comment\0\0" + zlib.compress(b"x"),
            b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + XMP,
            b"tIME": b"\x07\xe8\1\1\1\1\1",
            b"pHYs": bytes(9),
            b"gAMA": struct.pack(">I", 45455),
            b"cHRM": bytes(32),
            b"sRGB": b"\0",
            b"sBIT": b"\5\5\5",
            b"cICP": b"\x09\x10\0\1",
            b"iCCP": b"p\0\0" + zlib.compress(b"profile"),
            b"eXIf": exif(6),
            b"bKGD": bytes(6),
            b"prVt": b"private",
            b"acTL": struct.pack(">II", 2, 0),
        }.items()
    },
    **{
        f"{kind.decode()}, too short": chunk(kind, b"")
        for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"acTL", b"fcTL")
    },
    "fcTL, wrong frame": chunk(b"acTL", struct.pack(">II", 1, 0))
    + chunk(b"fcTL", struct.pack(">7I", 0, 99, 99, 0, 0, 0, 0)),
}
TURNING = {"eXIf, wrong checksum", "iTXt, wrong checksum"}
"""After the pixels, Pillow reads them whatever their checksum."""


@pytest.mark.parametrize("note", NOTES)
def test_no_note_of_a_png_keeps_its_pixels_from_being_read(note: str) -> None:
    image = decode_image(io.BytesIO(png(NOTES[note])))
    assert (np.asarray(image) == PIXELS).all()
    assert not ImageInfo.of(image).damaged


@pytest.mark.parametrize("note", sorted(NOTES.keys() - TURNING))
def test_no_note_after_or_between_the_pixels_does_either(note: str) -> None:
    assert (decoded(png(after=NOTES[note])) == PIXELS).all()
    halves = chunk(b"IDAT", PACKED[:500]) + NOTES[note] + chunk(b"IDAT", PACKED[500:])
    assert (decoded(png(data=halves)) == PIXELS).all()


@pytest.mark.parametrize(
    "rest",
    [
        chunk(b"tEXt", b"Comment\0words", length=2**31 - 1),
        chunk(b"prVt", b"words", length=99),
        chunk(b"zTXt", b"Comment\0\7words", length=999) + END,
        b"\0\0\0\5t\xffXtwords",
        END + b"garbage" * 9,
        b"",
    ],
    ids=["much too long", "too long", "too long and unknown", "no name", "garbage after the end", "no end"],
)
def test_what_is_wrong_after_the_pixels_does_not_matter(rest: bytes) -> None:
    assert (decoded(png(after=rest, end=b"")) == PIXELS).all()


def test_the_checksum_of_a_note_is_not_needed_for_deep_samples() -> None:
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 16, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    plain, declared = (decoded(png(*notes, data=data, header=header)) for notes in ((), (chunk(b"sBIT", b"\x0d"),)))
    assert (plain != declared).any()
    for note, expected in ((chunk(b"sBIT", b"\x0d"), declared), (chunk(b"sBIT", b"\x0d", damaged=True), plain)):
        found = decoded(png(note, NOTES["zTXt, unknown method"], data=data, header=header))
        assert (found == expected).all()


@pytest.mark.parametrize(
    "note",
    [
        chunk(b"eXIf", exif(6)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP + NOISE.hex().encode())),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  26\n" + exif(6).hex().encode()),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  26\n" + exif(6).hex().encode())),
    ],
    ids=["eXIf", "XMP", "packed XMP", "packed XMP of more than 1 MiB", "tEXt", "zTXt"],
)
def test_the_orientation_is_applied_beside_a_damaged_note(note: str) -> None:
    turned = np.rot90(PIXELS, -1)
    for fault in ("zTXt, unknown method", "profile of more than 1 MiB"):
        assert (decoded(png(note, NOTES[fault])) == turned).all()
        assert (decoded(png(NOTES[fault], after=note)) == turned).all()


def test_an_orientation_that_is_cut_off_is_not_left_out_in_silence() -> None:
    content = png(NOTES["zTXt, unknown method"], after=chunk(b"eXIf", exif(6)), end=b"")
    for cut in (5, 20):
        with pytest.raises((TruncatedImageError, CorruptImageError)):
            decoded(content[:-cut])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (png(header=HEADER[:-1] + b"\0"), CorruptImageError),
        (png(chunk(b"PLTE", bytes(6), damaged=True)), CorruptImageError),
        (png(data=chunk(b"IDAT", PACKED[:300] + b"\xff\0\xff" + PACKED[303:])), CorruptImageError),
        (png(chunk(b"tRNS", bytes(6), damaged=True)), CorruptImageError),
        (png(chunk(b"tRNS", bytes(2))), CorruptImageError),
        (png()[:-200], TruncatedImageError),
    ],
    ids=["IHDR", "PLTE", "IDAT", "tRNS, wrong checksum", "tRNS, too short", "cut"],
)
@pytest.mark.parametrize("note", ["tEXt, wrong checksum", "profile of more than 1 MiB"])
def test_what_the_pixels_need_stays_strict(content: bytes, kind: type[Exception], note: str) -> None:
    beside = content[:33] + NOTES[note] + content[33:]
    for damaged in (content, beside):
        with pytest.raises(kind):
            decoded(damaged)


def test_an_animation_with_a_damaged_control_chunk_is_its_first_image() -> None:
    frames = [noise(40, 30), noise(40, 30, seed=5)]
    content = bytearray(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    content[content.index(b"fcTL") + 5] ^= 1  # the sequence number
    assert (decoded(bytes(content)) == PIXELS).all()


def test_what_was_not_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "imgclassify")
    content = png(NOTES["zTXt, unknown method"], chunk(b"tEXt", b"a\0b", damaged=True))
    load_image(Source("a.png", lambda: io.BytesIO(content)))
    assert "a.png: not read, because it is damaged, too large or not needed: tEXt, zTXt" in caplog.text


def test_a_text_of_any_key_is_only_a_text() -> None:
    keys = (b"frames", b"frame", b"damaged", b"levels", b"left_out")
    content = png(*(chunk(b"tEXt", key + b"\0words") for key in keys))
    image = decode_image(io.BytesIO(content))
    assert image.info == {}
    assert ImageInfo.of(image) == (40, 30, 1, 1, False)


def test_an_ordinary_file_costs_nothing(tmp_path: Path) -> None:
    """The modules for damaged files are not even imported."""
    for name in ("a.png", "a.jpg", "a.webp", "a.gif"):
        noise(40, 30).save(tmp_path / name)
    program = """
import sys
from imgclassify import sources
from imgclassify.images import decoding
for source in sources.expand(sys.argv[1:]):
    decoding.load_image(source, decode_damaged=True)
assert not {f"imgclassify.images.{name}" for name in ("notes", "damaged", "splicing")} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


# Other formats ----------------------------------------------------------------------------------------------


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


@pytest.mark.parametrize(
    "damaged",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04"),
        segment(0xEE, b"Adobe"),
        segment(0xE2, b"MPF\0xx"),
        segment(0xFE, b""),
    ],
    ids=["JFIF", "ICC", "Photoshop", "Adobe", "MPF", "comment"],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + exif(6)}])
def test_a_damaged_application_segment_of_a_jpeg_does_not_matter(
    damaged: bytes, options: dict[str, object]
) -> None:
    content = encoded(noise(40, 30), "JPEG", **options)
    expected = decoded(content)
    assert (decoded(content[:2] + damaged + content[2:]) == expected).all()
    assert (decoded(content[:20] + damaged + content[20:]) == expected).all()


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
@pytest.mark.parametrize("kind", [b"EXIF", b"XMP "])
def test_a_wrong_length_of_a_note_of_a_webp_does_not_matter(kind: bytes, options: dict[str, object]) -> None:
    content = bytearray(encoded(noise(40, 30), "WEBP", exif=exif(6), xmp=b"<x/>", **options))
    expected = decoded(bytes(content))
    assert expected.shape == (40, 30, 3)
    place = content.index(kind) + 4
    content[place : place + 4] = struct.pack("<I", 5000)
    assert (decoded(bytes(content)) == expected).all()


def test_a_wrong_length_of_a_gif_extension_does_not_matter() -> None:
    content = encoded(noise(40, 30).quantize(64), "GIF")
    place = 13 + (3 << (content[10] & 7) + 1)
    extension = b"!\xff\x0bNETSCAPE2.0\0"  # ends before its block
    comment = b"!\xfe\x05words\0"
    expected = decoded(content)
    for before in (extension, comment + extension, extension + comment):
        assert (decoded(content[:place] + before + content[place:]) == expected).all()


@pytest.mark.parametrize("damage", ["header", "offset"])
@pytest.mark.parametrize("format_name", ["AVIF", "HEIF"])
def test_damaged_exif_of_a_container_does_not_matter(format_name: str, damage: str) -> None:
    tags = Image.Exif()
    tags.update({0x0112: 6, 0x010F: "makermaker"})
    content = bytearray(encoded(noise(40, 30), format_name, exif=tags.tobytes()))
    expected = decoded(bytes(content))
    start = content.rindex(tags.tobytes()[6:14])
    place = start if damage == "header" else start - 10
    content[place : place + 4] = b"\xff\xff\xff\xff"
    assert (decoded(bytes(content)) == expected).all()


def test_a_tag_of_a_tiff_of_another_type_does_not_matter() -> None:
    content = bytearray(encoded(noise(40, 30), "TIFF", tiffinfo={700: b"x" * 24}))
    (start,) = struct.unpack("<I", content[4:8])
    entry = next(
        place
        for place in range(start + 2, len(content), 12)
        if struct.unpack("<H", content[place : place + 2]) == (700,)
    )
    content[entry + 2 : entry + 8] = struct.pack("<HI", 5, 3)  # XMP as three fractions
    assert (decoded(bytes(content)) == PIXELS).all()


# The stream -------------------------------------------------------------------------------------------------


def test_parts_of_a_file_are_one_file() -> None:
    content = bytes(range(256)) * 300
    parts = [(5, 10), (15, 20_000), b"between", (3, 4), b"", (70_000, 99_999)]
    expected = content[5:20_015] + b"between" + content[3:7] + content[70_000:]
    stream = splice(io.BytesIO(content), parts)
    assert stream.read() == expected
    assert stream.read(5) == b""
    assert stream.seek(0, io.SEEK_END) > len(expected)  # the last part is said to be longer than it is
    generator = np.random.default_rng(2)
    for start, count in generator.integers(0, len(expected), (50, 2)).tolist():
        stream.seek(start)
        assert stream.read(count) == expected[start : start + count]
        assert stream.tell() == min(start + count, len(expected))
