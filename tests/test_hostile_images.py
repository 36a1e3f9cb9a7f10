"""Files made to do harm: each is one error of its own kind, or answered, in little memory, and harms no other.

All are decoded one after another by one process of their own, which says what it took.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import AVAILABLE_FORMATS, encoded, noise
from PIL import Image

from imgclassify import Classifier, ImageResult, sources
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import ImageTooLargeError
from imgclassify.images import inputs
from imgclassify.images.worker_program import BYTES_PER_PIXEL
from imgclassify.sources import Source

MAX_PIXELS = 10**7
"""What is allowed here: the harm of an image grows with it, and the tests need not wait for the most."""

SPARE_BYTES = 96 * 2**20
"""What an image of no size may take, with its decoder's code."""

ANSWERED = "answered"

MADE: dict[str, tuple[Callable[[], bytes], str]] = {}


def hostile(expected: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        MADE[make.__name__] = (make, expected)
        return make

    return register


SMALL = noise(10, 10)


def zeros(count: int) -> bytes:
    """So many of them, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count >> 20)) + packer.flush()


# PNG --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *chunks: bytes, pixels: bytes | None = None, depth: int = 8, colour: int = 2
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(301 * 10)) if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


@hostile("image_too_large")
def png_of_65535_a_side() -> bytes:
    return png(65535, 65535)


@hostile("image_too_large")
def png_of_2_to_the_31_a_side() -> bytes:
    return png(2**31 - 1, 2**31 - 1)


@hostile("corrupt_image")
def png_of_a_size_without_data() -> bytes:
    return png(3000, 3000)


@hostile(ANSWERED)
def png_with_a_deep_zlib_bomb() -> bytes:
    return png(10, 10, pixels=zeros(2**26))


@hostile(ANSWERED)
def png_with_a_ztxt_bomb() -> bytes:
    return png(10, 10, chunk(b"zTXt", b"a\0\0" + zeros(2**26)))


@hostile(ANSWERED)
def png_with_an_iccp_bomb() -> bytes:
    return png(10, 10, chunk(b"iCCP", b"a\0\0" + zeros(2**26)))


@hostile(ANSWERED)
def png_with_an_itxt_bomb() -> bytes:
    return png(10, 10, chunk(b"iTXt", b"a\0\x01\0\0\0" + zeros(2**26)))


@hostile(ANSWERED)
def png_with_a_thousand_ztxt() -> bytes:
    packed = zlib.compress(bytes(10**6), 9)
    return png(10, 10, *(chunk(b"zTXt", b"a%d\0\0" % index + packed) for index in range(1000)))


@hostile(ANSWERED)
def png_with_many_chunks() -> bytes:
    return png(10, 10, chunk(b"tIME", bytes(7)) * 20_000)


@hostile(ANSWERED)
def png_whose_exif_names_the_same_bytes_often() -> bytes:
    return png(10, 10, chunk(b"eXIf", tiff([(1000 + index, 1, 2**20, 16) for index in range(5000)]) + bytes(2**20)))


@hostile(ANSWERED)
def png_whose_exif_directories_lead_to_themselves() -> bytes:
    entries = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), (0x014A, 4, 1, 8)]
    return png(10, 10, chunk(b"eXIf", tiff(entries, following=8)))


@hostile(ANSWERED)
def apng_of_many_frames() -> bytes:
    def control(number: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 10, 10, 0, 0, 0, 1, 0, 0))

    frame = zlib.compress(bytes(310))
    frames = b"".join(
        control(2 * index + 1) + chunk(b"fdAT", struct.pack(">I", 2 * index + 2) + frame) for index in range(20_000)
    )
    whole = png(10, 10, chunk(b"acTL", struct.pack(">II", 20_001, 0)), control(0))
    return whole[:-12] + frames + whole[-12:]


# Strips -----------------------------------------------------------------------------------------------------


@hostile(ANSWERED)
def strip_of_1_by_100000() -> bytes:
    return png(1, 100_000, pixels=zlib.compress(bytes(400_000)))


@hostile(ANSWERED)
def strip_of_100000_by_1() -> bytes:
    return png(100_000, 1, pixels=zlib.compress(bytes(300_001)))


@hostile(ANSWERED)
def strip_of_1_by_10_million() -> bytes:
    return png(1, 10**7, pixels=zlib.compress(bytes(2 * 10**7)), colour=0)


# JPEG -------------------------------------------------------------------------------------------------------


def jpeg(width: int, height: int, **options: object) -> bytes:
    """One that calls itself larger than its data are."""
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG", **options))
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@hostile("image_too_large")
def jpeg_of_65500_a_side() -> bytes:
    return jpeg(65500, 65500)


@hostile("truncated_image")
def jpeg_of_a_size_without_data() -> bytes:
    content = jpeg(3000, 3000)
    return content[: content.index(b"\xff\xda") + 14]


@hostile("image_too_large")
def jpeg_of_many_scans() -> bytes:
    """Each of 14 bytes, and of the time of all the image."""
    content = jpeg(3000, 3000, progressive=True)
    first = content.index(b"\xff\xda")
    behind = content.index(b"\xff", first + 14)
    refinement = b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\x10"
    return content[:behind] + refinement * 20_000 + b"\xff\xd9"


@hostile(ANSWERED)
def jpeg_of_many_comments() -> bytes:
    content = encoded(SMALL, "JPEG")
    return content[:2] + b"\xff\xfe\0\x03a" * 100_000 + content[2:]


@hostile(ANSWERED)
def jpeg_of_many_profiles() -> bytes:
    content = encoded(SMALL, "JPEG")
    return content[:2] + (b"\xff\xe2\xff\xffICC_PROFILE\0\x01\xff" + bytes(65519)) * 200 + content[2:]


@hostile(ANSWERED)
def mpo_of_many_pictures() -> bytes:
    return encoded(SMALL, "MPO", save_all=True, append_images=[SMALL] * 200)


# GIF, WebP --------------------------------------------------------------------------------------------------


@hostile("image_too_large")
def gif_of_a_huge_canvas() -> bytes:
    content = bytearray(encoded(SMALL, "GIF"))
    content[6:10] = b"\xff" * 4
    return bytes(content)


@hostile("image_too_large")
def gif_of_a_huge_frame() -> bytes:
    content = bytearray(encoded(SMALL, "GIF"))
    place = content.index(b",\0\0\0\0", 13)
    content[place + 5 : place + 9] = b"\xff" * 4
    return bytes(content)


def gif_with(blocks: bytes, *, frames: int = 1) -> bytes:
    content = encoded(SMALL.quantize(4), "GIF")
    place = content.index(b",\0\0\0\0", 13)
    return content[:place] + blocks + content[place:-1] * frames + b";"


@hostile(ANSWERED)
def gif_of_many_frames() -> bytes:
    return gif_with(b"", frames=50_000)


@hostile(ANSWERED)
def gif_of_a_long_comment_in_short_blocks() -> bytes:
    return gif_with(b"!\xfe" + b"\x01a" * 300_000 + b"\0")


@hostile("image_too_large")
def webp_of_a_huge_canvas() -> bytes:
    content = bytearray(encoded(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(90)]))
    place = content.index(b"VP8X")
    content[place + 12 : place + 18] = (13_000).to_bytes(3, "little") * 2
    return bytes(content)


@hostile(ANSWERED)
def webp_of_many_frames() -> bytes:
    content = encoded(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(90)])
    place = content.index(b"ANMF")
    (length,) = struct.unpack("<I", content[place + 4 : place + 8])
    body = content[12:place] + content[place : place + 8 + length] * 20_000
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@hostile("truncated_image")
def webp_that_claims_4_gigabytes() -> bytes:
    content = encoded(SMALL, "WEBP")
    return content[:4] + struct.pack("<I", 2**32 - 10) + content[8:]


# TIFF -------------------------------------------------------------------------------------------------------


def tiff(entries: list[tuple[int, int, int, int]], *, following: int = 0) -> bytes:
    """A header and one directory of (tag, type, count, value)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following)


def tiff_of(width: int, height: int, *more: tuple[int, int, int, int], compression: int = 1) -> list[Any]:
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        *more,
    ]


def strips(offset: int, count: int, *, rows: int = 2**32 - 1) -> tuple[tuple[int, int, int, int], ...]:
    return (273, 4, 1, offset), (278, 4, 1, rows), (279, 4, 1, count)


def tiles(width: int, height: int) -> tuple[tuple[int, int, int, int], ...]:
    return (322, 4, 1, width), (323, 4, 1, height), (324, 4, 1, 200), (325, 4, 1, 100)


@hostile("truncated_image")
def tiff_of_a_size_without_data() -> bytes:
    return tiff(tiff_of(3000, 3000, *strips(150, 3000 * 3000))) + bytes(100)


@hostile("truncated_image")
def tiff_of_4_billion_strips() -> bytes:
    return tiff(tiff_of(10, 10, (273, 4, 2**32 - 1, 8), (278, 4, 1, 1), (279, 4, 2**32 - 1, 8)))


@hostile("image_too_large")
def tiff_of_a_huge_tile() -> bytes:
    """In libtiff 2 GiB for an image of 10×10."""
    return tiff(tiff_of(10, 10, *tiles(2**19, 4080), compression=8)) + bytes(300)


@hostile("image_too_large")
def tiff_of_a_tile_that_overflows() -> bytes:
    return tiff(tiff_of(10, 10, *tiles(2**31, 2**31), compression=8)) + bytes(300)


@hostile("image_too_large")
def tiff_of_huge_sides() -> bytes:
    return tiff(tiff_of(2**31, 2**31, *strips(200, 100))) + bytes(300)


@hostile(ANSWERED)
def tiff_that_names_the_same_bytes_often() -> bytes:
    more = [(1000 + index, 1, 2**20, 2**16) for index in range(5000)]
    return tiff([*tiff_of(10, 10, *strips(2**19, 100)), *more]) + bytes(2**20 + 2**16)


@hostile(ANSWERED)
def tiff_whose_directories_lead_in_a_circle() -> bytes:
    return tiff(tiff_of(10, 10, *strips(200, 100)), following=8) + bytes(300)


@hostile(ANSWERED)
def tiff_of_100000_directories() -> bytes:
    one = tiff_of(10, 10, *strips(8, 100))
    size = len(tiff(one)) - 8
    chain = b"".join(tiff(one, following=8 + (index + 1) * size)[8:] for index in range(100_000))
    return b"II*\0" + struct.pack("<I", 8) + chain[:-4] + bytes(4)


@hostile(ANSWERED)
def tiff_of_many_strips() -> bytes:
    count, start = 50_000, 200
    entries = tiff_of(1, count, (273, 4, count, start), (278, 4, 1, 1), (279, 4, count, start))
    return tiff(entries).ljust(start, b"\0") + struct.pack("<I", 1) * count


@hostile("corrupt_image")
def tiff_of_little_compressed_data() -> bytes:
    return tiff(tiff_of(3000, 3000, *strips(150, 100), compression=5)) + bytes(300)


def deep(width: int, height: int, *more: tuple[int, int, int, int], compression: int = 1) -> list[Any]:
    """Of 16 bits, which Pillow does not read."""
    changed = {
        tag: (tag, *rest) for tag, *rest in (*tiff_of(width, height, compression=compression), (258, 3, 1, 16))
    }
    return [*(changed | {tag: (tag, *rest) for tag, *rest in more}).values()]


@hostile("image_too_large")
def tiff_of_65535_deep_channels() -> bytes:
    return tiff(deep(2000, 2000, (277, 3, 1, 65535), *strips(150, 100), compression=8)) + bytes(300)


@hostile("corrupt_image")
def tiff_of_65535_deep_planes() -> bytes:
    return tiff(deep(2000, 2000, (277, 3, 1, 65535), (284, 3, 1, 2), *strips(150, 100), compression=8)) + bytes(300)


@hostile("truncated_image")
def tiff_of_a_deep_size_without_data() -> bytes:
    return tiff(deep(3000, 3000, *strips(150, 100))) + bytes(300)


@hostile(ANSWERED)
def tiff_of_a_deep_strip_that_unpacks_to_a_gigabyte() -> bytes:
    packed = zlib.compressobj(9)
    bomb = b"".join(packed.compress(bytes(2**24)) for _ in range(64)) + packed.flush()
    return tiff(deep(100, 100, *strips(200, len(bomb)), compression=8)).ljust(200, b"\0") + bomb


@hostile("corrupt_image")
def tiff_whose_deep_strips_are_all_the_whole_file() -> bytes:
    count, start, size = 20_000, 200, 2**24
    entries = deep(
        16, count, (273, 4, count, start), (278, 4, 1, 1), (279, 4, count, start + 4 * count), compression=5
    )
    offsets, lengths = struct.pack("<I", 300) * count, struct.pack("<I", size - 300) * count
    return (tiff(entries).ljust(start, b"\0") + offsets + lengths).ljust(size, b"\0")


@hostile(ANSWERED)
def tiff_of_many_deep_strips() -> bytes:
    count, start = 50_000, 200
    entries = deep(1, count, (273, 4, count, start), (278, 4, 1, 1), (279, 4, count, start))
    return tiff(entries).ljust(start, b"\0") + struct.pack("<I", 1) * count


@hostile("image_too_large")
def tiff_of_a_huge_deep_tile() -> bytes:
    return tiff(deep(10, 10, *tiles(2**19, 4080), compression=8)) + bytes(300)


@hostile(ANSWERED)
def tiff_whose_sub_directories_are_itself() -> bytes:
    return tiff(deep(10, 10, (254, 4, 1, 1), (330, 4, 1, 8), *strips(200, 200)), following=8) + bytes(500)


# BMP, netpbm ------------------------------------------------------------------------------------------------


def bitmap(width: int, height: int, data: bytes = b"", *, depth: int = 24, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


@hostile("image_too_large")
def bitmap_of_huge_sides() -> bytes:
    return bitmap(2**31 - 1, 2**31 - 1)


@hostile("corrupt_image")
def bitmap_of_a_size_without_data() -> bytes:
    return bitmap(3000, 3000)


@hostile(ANSWERED)
def bitmap_that_leaps() -> bytes:
    """Each leap of 4 bytes leaves out 255 rows."""
    return bitmap(3000, 3000, bytes(1024) + b"\0\2\xff\xff" * 200, depth=8, compression=1)


@hostile("image_too_large")
def bitmap_that_leaps_far() -> bytes:
    return bitmap(2**28, 1, bytes(1024) + b"\0\2\xff\xff" * 10, depth=8, compression=1)


@hostile("corrupt_image")
def portable_pixmap_of_a_million_digits() -> bytes:
    return b"P6 " + b"9" * 10**6 + b" 1 255\n"


@hostile("image_too_large")
def portable_pixmap_of_huge_sides() -> bytes:
    return b"P6 999999999 999999999 255\n"


@hostile("truncated_image")
def portable_pixmap_of_a_size_without_data() -> bytes:
    return b"P6 3000 3000 255\n"


@hostile("corrupt_image")
def portable_pixmap_of_one_long_number() -> bytes:
    return b"P3 1 1 255\n" + b"1" * 10**6


# JPEG 2000, AVIF, HEIC --------------------------------------------------------------------------------------


def codestream(width: int, height: int, tile_width: int, tile_height: int) -> bytes:
    content = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG2000", no_jp2=True))
    content[8:16] = struct.pack(">II", width, height)
    content[24:32] = struct.pack(">II", tile_width, tile_height)
    return bytes(content)


@hostile("image_too_large")
def jpeg_2000_of_huge_sides() -> bytes:
    return codestream(2**31, 2**31, 2**31, 2**31)


@hostile("corrupt_image")
def jpeg_2000_of_tiles_of_one_pixel() -> bytes:
    return codestream(3000, 3000, 1, 1)


@hostile(ANSWERED)
def jpeg_2000_of_a_huge_tile() -> bytes:
    """Its data are those of 64×64 pixels, and the rest is filled up."""
    return codestream(3000, 3000, 3000, 3000)


def resized(format_name: str, width: int, height: int) -> bytes:
    content = bytearray(encoded(noise(64, 64), format_name))
    place = content.index(b"ispe")
    content[place + 8 : place + 16] = struct.pack(">II", width, height)
    return bytes(content)


@hostile("corrupt_image")
def avif_of_65535_a_side() -> bytes:
    return resized("AVIF", 65535, 65535)


@hostile("image_too_large")
def avif_of_16384_a_side() -> bytes:
    return resized("AVIF", 16384, 16384)


@hostile("image_too_large")
def heic_of_65535_a_side() -> bytes:
    return resized("HEIF", 65535, 65535)


@hostile("corrupt_image")
def heic_of_another_size_than_its_data() -> bytes:
    return resized("HEIF", 3000, 3000)


# No images, and more than images ------------------------------------------------------------------------


@hostile("empty")
def nothing() -> bytes:
    return b""


@hostile("not_an_image")
def text_called_jpg() -> bytes:
    return b"The quick brown fox\n" * 100


@hostile("not_an_image")
def postscript_that_would_be_run() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch /tmp/owned) (w) file\n"


@hostile("not_an_image")
def postscript_in_a_dos_envelope() -> bytes:
    return struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, 20, 0, 0, 0, 0, 0xFFFF) + postscript_that_would_be_run()


@hostile("not_an_image")
def pdf() -> bytes:
    return b"%PDF-1.7\n1 0 obj\n<< /OpenAction << /S /JavaScript >> >>\n"


@hostile("unsupported_image")
def svg() -> bytes:
    return b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>'


@hostile("not_an_image")
def zip_bomb() -> bytes:
    return b"PK\x03\x04" + zeros(2**24)


@hostile(ANSWERED)
def gif_that_is_a_script() -> bytes:
    return encoded(SMALL, "GIF") + b"=1;alert(1)//<script>alert(1)</script>"


@hostile(ANSWERED)
def jpeg_that_is_an_archive() -> bytes:
    return encoded(SMALL, "JPEG") + b"PK\x03\x04" + bytes(1000) + b"PK\x05\x06" + bytes(18)


@hostile(ANSWERED)
def png_that_is_postscript() -> bytes:
    return png(10, 10, chunk(b"prVt", postscript_that_would_be_run())) + postscript_that_would_be_run()


# Each of them -----------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from imgclassify import sources
from imgclassify.images import cropping, inputs
from imgclassify.images import decoding, inputs
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import ImageError

spec = PreprocessSpec(256, (224, 224), "bicubic", True, (0.5,) * 3, (0.5,) * 3)
crop = cropping.create_preprocessor(sys.argv[1], spec, "cpu", max_pixels=int(sys.argv[2]))
out = np.zeros((224, 224, 3), np.uint8)

def memory(what):
    return 1024 * int(Path("/proc/self/status").read_text().partition(what)[2].split()[0])

before = memory("VmRSS:")
for path in map(str.rstrip, sys.stdin):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    size, words = None, ""
    try:
        size, kind = crop(inputs.input_from_source(sources.file_source(path)), out), "answered"
    except ImageError as error:
        kind, words = error.type, str(error)
    print(json.dumps([path, kind, words, size, memory("VmHWM:") - before]), flush=True)
"""


@pytest.fixture(scope="module", params=["exact", "fast"])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, str, list[int] | None, int]]:
    """By name: what came of each, its words, its (width, height), and the bytes it took at most."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in MADE.items():
        (folder / name).write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, request.param, str(MAX_PIXELS)],
        input="\n".join(str(folder / name) for name in MADE),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    shutil.rmtree(folder)
    return {Path(path).name: (kind, words, size, taken) for path, kind, words, size, taken in lines}


@pytest.mark.parametrize("name", MADE)
def test_each_is_answered_or_one_error_of_its_own_kind_in_little_memory(
    name: str, outcomes: dict[str, tuple[str, str, list[int] | None, int]]
) -> None:
    kind, words, size, taken = outcomes[name]
    assert kind == MADE[name][1], words
    assert bool(words) == (kind != ANSWERED)
    pixels = 3000 * 3000 if "of_a_size_without_data" in name else 0
    if size is not None:
        pixels = size[0] * size[1]
    assert taken < SPARE_BYTES + BYTES_PER_PIXEL * pixels


def test_among_them_the_others_are_answered(tmp_path: Path) -> None:
    """In one run, in order, with good images between any two."""
    expected = []
    for index, (name, (make, kind)) in enumerate(MADE.items()):
        if "strip_of_1_by_10_million" in name:
            continue
        (tmp_path / f"{index:03} {name}.jpg").write_bytes(make())
        noise(64 + index, 48, seed=index).save(tmp_path / f"{index:03} zz then.png")
        expected += [kind, ANSWERED]
    classifier = Classifier(device="cpu", max_pixels=MAX_PIXELS)
    results = list(classifier.stream(sources.expand([str(tmp_path)])))
    assert [outcome(result) for result in results] == expected
    assert [result.source for result in results] == sorted(map(str, tmp_path.iterdir()))
    for result in results:
        if result.source.endswith("zz then.png"):
            assert result.width == 64 + int(Path(result.source).name[:3])


def outcome(result: ImageResult) -> str:
    return result.error.type if result.error else ANSWERED


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_is_answered_as_a_float64_reference_has_it(turned: bool) -> None:
    """1×100,000 would become 256×25,600,000 on the way. Across the strip all is the same; along it each pixel
    becomes 256, of which the crop keeps those about the middle."""
    values = np.random.default_rng(3).integers(0, 256, (100_000, 1, 3), dtype=np.uint8)
    image = Image.fromarray(values.swapaxes(0, 1).copy() if turned else values)
    classifier = Classifier(device="cpu")
    crop = np.zeros((224, 224, 3), np.uint8)
    size = classifier.runner._decoding.preprocess(pictures_of(encoded(image, "PNG")), crop)
    assert (size.width, size.height) == image.size
    upright = crop.swapaxes(0, 1) if turned else crop
    assert (upright == upright[:, :1]).all()
    height = classifier.run.preprocess["resize_size"] * 100_000
    assert isinstance(height, int)
    top = round((height - 224) / 2)
    for row in range(0, 224, 7):
        expected = bicubic(values[:, 0].astype(float), (top + row + 0.5) * 100_000 / height)
        assert np.abs(upright[row, 0] - expected.clip(0, 255)).max() <= 1


def pictures_of(content: bytes) -> Any:

    return inputs.input_from_source(Source("held", lambda: io.BytesIO(content)))


def bicubic(values: np.ndarray, place: float) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5, as Pillow's, at a place between pixels whose middles lie at a half."""
    total, weights = np.zeros(values.shape[1:]), 0.0
    for index in range(int(place - 2.5), int(place + 3.5)):
        distance = abs(index + 0.5 - place)
        weight = 0.0
        if distance < 1:
            weight = 1.5 * distance**3 - 2.5 * distance**2 + 1
        elif distance < 2:
            weight = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        total, weights = total + weight * values[index], weights + weight
    return np.asarray(total / weights)


# While it runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", [False, True])
def test_a_file_that_is_removed_or_replaced_has_its_error_or_its_new_content(tmp_path: Path, isolate: bool) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(8)]
    for index, path in enumerate(paths):
        noise(60 + index, 48).save(path)

    def found() -> Iterator[Source]:
        """As a folder is walked: what befalls a file does so between its being found and its being opened."""
        for index, path in enumerate(paths):
            source = sources.file_source(str(path))
            if index == 1:
                path.unlink()
            elif index == 2:
                path.write_bytes(b"")
            elif index == 3:
                noise(33, 44).save(path, "JPEG")
            elif index == 4:
                path.write_text("no picture any more")
            elif index == 5:
                path.unlink()
                path.mkdir()
            elif index == 6:
                path.unlink()
                os.mkfifo(path)  # which nobody ever writes to
            yield source

    classifier = Classifier(device="cpu", isolate=isolate)
    results = list(classifier.stream(found()))
    classifier.close()
    assert [outcome(result) for result in results] == [
        *(ANSWERED, "not_found", "empty", ANSWERED, "not_an_image", "unreadable", "not_a_file", ANSWERED)
    ]
    assert (results[3].width, results[3].height) == (33, 44)
    assert results[7].width == 67


@pytest.mark.parametrize("format_name", AVAILABLE_FORMATS)
def test_a_file_that_is_cut_while_it_is_decoded_harms_nobody(format_name: str, tmp_path: Path) -> None:
    """At every stage: once it was told, once its header was read. In a process of its own, which a file that was
    mapped into memory would take down."""
    pixels = np.random.default_rng(5).integers(0, 256, (250, 300, 3), dtype=np.uint8)
    options = {"TIFF": {"compression": "tiff_lzw"}, "HEIF": {"quality": 90}}.get(format_name, {})
    content = encoded(Image.fromarray(pixels), format_name, **options)
    program = """
import io, os, sys
from imgclassify.images import decoding, inputs
from imgclassify.errors import ImageError

class Cut(io.FileIO):
    reads = 0
    def readinto(self, buffer):
        self.reads += 1
        if self.reads == stage:
            os.truncate(path, 3000)
        return super().readinto(buffer)

path = sys.argv[1]
content = open(path, "rb").read()
for stage in range(1, 9):
    open(path, "wb").write(content)
    try:
        decoding.decode_image(io.BufferedReader(Cut(path), 2**12))
        print("answered")
    except ImageError as error:
        print(error.type)
"""
    path = tmp_path / "picture"
    path.write_bytes(content)
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = done.stdout.split()
    assert len(kinds) == 8
    assert set(kinds) <= {"truncated_image", "corrupt_image", ANSWERED}
    assert set(kinds) != {ANSWERED}


def test_a_compressed_tiff_is_not_mapped_into_memory(tmp_path: Path) -> None:
    """libtiff would, and a file that is cut while it is mapped ends the process with SIGBUS."""
    path = tmp_path / "picture.tif"
    pixels = np.random.default_rng(5).integers(0, 256, (3000, 3000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compression="tiff_deflate")
    program = """
import os, sys, threading, time
from imgclassify import sources
from imgclassify.images import decoding, inputs
from imgclassify.errors import ImageError
path = sys.argv[1]
content = open(path, "rb").read()
for delay in (0.005, 0.01, 0.02, 0.04, 0.08):
    open(path, "wb").write(content)
    threading.Timer(delay, os.truncate, (path, 5000)).start()
    try:
        decoding.load_image(sources.file_source(path))
    except ImageError:
        pass
    time.sleep(0.1)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(noise(300, 301), "JPEG"), r"^300 × 301 is 90300 pixels, and the limit is 90000$"),
        (jpeg_of_many_scans(), r"^3000 × 3000 is"),
    ],
)
def test_a_gpu_is_sent_nothing_beyond_the_limits(content: bytes, words: str) -> None:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    from imgclassify.images.gpu_decoding import GpuDecoder

    sent = []

    def decode(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
        sent.extend(jpegs)
        return [decode_jpeg(jpeg, mode=ImageReadMode.RGB) for jpeg in jpegs]

    spec = PreprocessSpec(256, (224, 224), "bicubic", True, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    decoder = GpuDecoder(spec, "cpu", max_pixels=300 * 300, decode_batch=decode)
    decoder.load_crop(Source("held", lambda: io.BytesIO(encoded(noise(300, 300), "JPEG"))))
    assert len(sent) == 1
    with pytest.raises(ImageTooLargeError, match=words):
        decoder.load_crop(Source("held", lambda: io.BytesIO(content)))
    with pytest.raises(ImageTooLargeError, match="more than 100 scans"):
        GpuDecoder(spec, "cpu", decode_batch=decode).load_crop(
            Source("held", lambda: io.BytesIO(jpeg_of_many_scans()))
        )
    assert len(sent) == 1
