"""Samples of more than 8 bits outside TIFF, camera RAW, clean apertures, and JPEGs that libjpeg does not decode."""

from __future__ import annotations

import io
import logging
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from imgclassify.images.decoding import decode_image, load_image
from imgclassify.images.inputs import input_from_source
from imgclassify.images.isolation import IsolatedPreprocessor
from imgclassify.images.rgb_conversion import to_rgb
from imgclassify.sources import Source, file_source

RANDOM = np.random.default_rng(5)
UNIT = RANDOM.random((24, 31, 4))
UNIT[0, 0], UNIT[0, 1] = 0, 1


def decoded(content: bytes, **options: Any) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(content), **options), dtype=int)


def in_bytes(values: np.ndarray, white: float) -> np.ndarray:
    scaled = np.rint((values.astype(np.float64) * (255 / white)).clip(0, 255)).astype(int)
    return np.repeat(scaled[..., None], 3, axis=2) if scaled.ndim == 2 else scaled


# PNG --------------------------------------------------------------------------------------------------------


def png(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Of uint16, (H, W) or (H, W, 2 to 4), with chunks before the pixels."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_significant_bits_of_grey_are_the_lowest_or_the_highest(bits: int, share: float) -> None:
    values = np.rint(UNIT[:, :, 0] * share * (2**bits - 1)).astype(np.uint16)
    expected = in_bytes(values, 2**bits - 1)
    shift = 16 - bits
    for stored in (values, values << shift, values << shift | values >> max(0, bits - shift)):
        found = decoded(png(stored, (b"gAMA", bytes(4)), (b"sBIT", bytes([bits]))))
        assert np.abs(found - expected).max() <= 1


def test_all_16_bits_that_are_significant_are_the_whole_scale() -> None:
    values = np.rint(UNIT[:, :, 0] * 900).astype(np.uint16)
    assert (decoded(png(values, (b"sBIT", b"\x10"))) == in_bytes(values, 65535)).all()
    assert (decoded(png(values)) == in_bytes(values, 1023)).all()  # where nothing is declared


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("declared", [False, True])
def test_rgb_that_uses_only_lower_bits_is_scaled(channels: int, bits: int, declared: bool) -> None:
    values = np.rint(UNIT[:, :, :channels] * (2**bits - 1)).astype(np.uint16)
    if channels == 4:
        values[:, :, 3] = 2**bits - 1
    content = png(values, *([(b"sBIT", bytes([bits] * channels))] if declared else []))
    assert (decoded(content) == in_bytes(values[:, :, :3], 2**bits - 1)).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("declared", [False, True])
def test_grey_with_alpha_that_uses_only_lower_bits_is_scaled(bits: int, declared: bool) -> None:
    values = np.rint(UNIT[:, :, :2] * (2**bits - 1)).astype(np.uint16)
    content = png(values, *([(b"sBIT", bytes([bits] * 2))] if declared else []))
    grey, alpha = in_bytes(values[:, :, 0], 2**bits - 1), in_bytes(values[:, :, 1], 2**bits - 1)
    assert np.abs(decoded(content) - np.rint(grey * (alpha / 255) + 255 - alpha)).max() <= 1


def test_rgb_of_16_bits_keeps_its_high_bytes() -> None:
    values = RANDOM.integers(0, 65536, (24, 31, 3), dtype=np.uint16)
    for chunks in ([], [(b"sBIT", b"\x0c\x0c\x0c")]):
        assert (decoded(png(values, *chunks)) == values >> 8).all()


def test_damaged_chunks_declare_nothing() -> None:
    values = np.rint(UNIT[:, :, 0] * 65535).astype(np.uint16)
    for chunk in (b"", b"\0", b"\xff\xff\xff\xff"):
        assert (decoded(png(values, (b"sBIT", chunk))) == in_bytes(values, 65535)).all()


# Other formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1000, 4095, 65535])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_portable_greymap_declares_its_largest_value(largest: int, share: float) -> None:
    values = np.rint(UNIT[:, :, 0] * share * largest).astype(np.uint16)
    content = b"P5 31 24 %d\n" % largest + values.astype(">u2").tobytes()
    assert np.abs(decoded(content) - in_bytes(values, largest)).max() <= 1


def test_jpeg_2000_of_16_bits_declares_nothing() -> None:
    values = np.rint(UNIT[:, :, 0] * 4000).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", irreversible=False)
    assert (decoded(buffer.getvalue()) == in_bytes(values, 4095)).all()


def test_an_image_in_memory_follows_the_same_rules() -> None:
    values = np.rint(UNIT[:, :, 0] * 1023).astype(np.uint16)
    assert (np.asarray(to_rgb(Image.fromarray(values))) == in_bytes(values, 1023)).all()


def test_ordinary_images_report_nothing(caplog: pytest.LogCaptureFixture) -> None:
    buffer = io.BytesIO()
    Image.fromarray((UNIT[:, :, :3] * 255).astype(np.uint8)).save(buffer, "PNG")
    with caplog.at_level(logging.INFO, "imgclassify"):
        load_image(Source("a.png", lambda: io.BytesIO(buffer.getvalue())))
    assert not caplog.records


@pytest.mark.skipif(sys.platform == "win32", reason="isolate needs Linux or macOS")
def test_the_rule_is_reported_from_a_worker_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "scan.png"
    content = png(np.rint(UNIT[:, :, 0] * 4000).astype(np.uint16))
    path.write_bytes(content)
    spec = PreprocessSpec(16, (16, 16), "bilinear", True, (0.0,) * 3, (1.0,) * 3)
    cropper = IsolatedPreprocessor("exact", spec)
    out = np.zeros((16, 16, 3), np.uint8)
    with caplog.at_level(logging.INFO, "imgclassify"):
        for source in (file_source(str(path)), Source("pipe", lambda: io.BytesIO(content))):
            cropper(input_from_source(source), out)
    cropper.close()
    expected = "0 is black and 4095 is white (12 bits are the fewest usual ones that hold 4000)"
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {expected}", f"pipe: {expected}"]


# Camera RAW -------------------------------------------------------------------------------------------------


def dng(*, thumbnail: bool = False, **options: Any) -> bytes:
    """A mosaic of red at the left and blue at the right, with as little as LibRaw needs to develop it."""
    colors = np.zeros((64, 96, 3))
    colors[:, :48], colors[:, 48:] = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)
    mosaic = np.empty((64, 96))
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = colors[row::2, column::2, channel]
    matrix = [32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572]  # of XYZ to sRGB
    version = [(50706, "B", 4, (1, 4, 0, 0), True)]
    facts = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50717, "I", 1, 4095, True),
        (50721, "2i", 9, tuple(number for value in matrix for number in (value, 10000)), True),
        (50778, "H", 1, 21, True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
    ]
    sensor = {"data": np.rint(mosaic * 4095).astype(np.uint16), "photometric": 32803, "metadata": None}
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        if thumbnail:
            small = np.full((16, 24, 3), 99, np.uint8)
            writer.write(small, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=version)
            version = []
        writer.write(**sensor, extratags=[*version, *facts])
    return buffer.getvalue()


RAW_HEADERS = {
    "RAF": b"FUJIFILMCCD-RAW 0201FF383501X-T2",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "CRW": b"II\x1a\0\0\0HEAPCCDR",
    "ORF": b"IIRO\x08\0\0\0",
    "ORF,": b"MMOR\0\0\0\x08",
    "RW2": b"IIU\0\x18\0\0\0",
    "MRW": b"\0MRM\0\0\0\0",
    "X3F": b"FOVb\0\0\0\0",
}


@pytest.fixture
def _without_rawpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)


@pytest.mark.usefixtures("_without_rawpy")
@pytest.mark.parametrize("name", RAW_HEADERS)
def test_camera_raw_is_told_by_its_first_bytes(name: str) -> None:
    with pytest.raises(UnsupportedImageError, match=rf"{name[:3]}\), which needs .*imgclassify\[raw\]"):
        decoded(RAW_HEADERS[name] + bytes(500))


@pytest.mark.usefixtures("_without_rawpy")
@pytest.mark.parametrize("thumbnail", [False, True])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}])
def test_camera_raw_is_told_by_its_directories(thumbnail: bool, options: dict[str, Any]) -> None:
    """Without the tag of a DNG too, as in NEF, ARW and PEF."""
    content = dng(thumbnail=thumbnail, **options)
    order = options.get("byteorder", "<")
    version = struct.pack(f"{order}H", 50706)
    assert version in content
    for each in (content, content.replace(version, struct.pack(f"{order}H", 50709))):
        with pytest.raises(UnsupportedImageError, match="a camera RAW file"):
            decoded(each)


@pytest.mark.parametrize("thumbnail", [False, True])
def test_camera_raw_is_developed_with_the_extra(thumbnail: bool) -> None:
    pytest.importorskip("rawpy")
    pixels = decoded(dng(thumbnail=thumbnail))
    assert pixels.shape == (64, 96, 3)
    assert (pixels[10:-10, 10:38].mean((0, 1)).argmax(), pixels[10:-10, 58:86].mean((0, 1)).argmax()) == (0, 2)
    with pytest.raises(ImageTooLargeError, match="96 × 64"):
        decoded(dng(thumbnail=thumbnail), max_pixels=6000)


def test_a_damaged_camera_raw_is_an_error_of_its_own() -> None:
    pytest.importorskip("rawpy")
    with pytest.raises(CorruptImageError, match="damaged camera RAW file"):
        decoded(dng()[:-4000])
    with pytest.raises(UnsupportedImageError, match="LibRaw does not know"):
        decoded(RAW_HEADERS["CR3"] + bytes(500))


# AVIF -------------------------------------------------------------------------------------------------------


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I", len(content) + 8) + kind + content


def cropped_avif(pixels: np.ndarray, aperture: tuple[int, ...], *, rotated: bool = False) -> bytes:
    """What Pillow writes, with a clean aperture, and a rotation by 90° against the clock, in its properties."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF", quality=100, subsampling="4:4:4", range="full")
    content = buffer.getvalue()

    def grow(content: bytes, kind: bytes, more: bytes) -> bytes:
        place = content.index(kind) - 4
        (size,) = struct.unpack_from(">I", content, place)
        longer = struct.pack(">I", size + len(more)) + content[place + 4 : place + size] + more
        return content[:place] + longer + content[place + size :]

    new = [box(b"clap", struct.pack(">IIIIiIiI", *aperture)), *([box(b"irot", b"\1")] if rotated else [])]
    count = content.count(b"ispe") + content.count(b"pixi") + content.count(b"av1C") + content.count(b"colr")
    grown = grow(content, b"ipco", b"".join(new))
    numbers = bytes(0x80 | count + 1 + index for index in range(len(new)))
    grown = grow(grown, b"ipma", numbers)
    place = grown.index(b"ipma") + 4 + 4 + 4 + 2
    grown = grown[:place] + bytes([grown[place] + len(new)]) + grown[place + 1 :]
    added = len(b"".join(new)) + len(numbers)
    for kind in (b"iprp", b"meta"):
        at = grown.index(kind) - 4
        (size,) = struct.unpack_from(">I", grown, at)
        grown = grown[:at] + struct.pack(">I", size + added) + grown[at + 4 :]
    (old,) = struct.unpack(">I", content[(data := content.index(b"mdat") + 4) - 8 : data - 4])
    offset = struct.pack(">I", data)
    assert old
    assert grown.count(offset) >= 1
    return grown.replace(offset, struct.pack(">I", data + added), 1)


WHOLE = np.asarray(
    Image.fromarray(RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((120, 80), Image.Resampling.BICUBIC)
)


@pytest.mark.parametrize("rotated", [False, True])
def test_the_clean_aperture_of_an_avif_is_what_is_shown(rotated: bool) -> None:
    left, top, width, height = 40, 6, 60, 50
    aperture = (width, 1, height, 1, 2 * left + width - 120, 2, 2 * top + height - 80, 2)
    expected = WHOLE[top : top + height, left : left + width]
    expected = np.rot90(expected) if rotated else expected
    found = decoded(cropped_avif(WHOLE, aperture, rotated=rotated))
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize(
    "aperture",
    [
        (500, 1, 50, 1, 0, 1, 0, 1),
        (0, 1, 50, 1, 0, 1, 0, 1),
        (60, 0, 50, 1, 0, 1, 0, 1),
        (60, 1, 50, 1, 999, 2, 0, 1),
    ],
)
def test_an_impossible_aperture_shows_everything(aperture: tuple[int, ...]) -> None:
    """Unless the decoder refuses the file."""
    try:
        found = decoded(cropped_avif(WHOLE, aperture))
    except CorruptImageError:
        return
    assert found.shape == WHOLE.shape


# JPEG and BMP -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [
        (0xC0, 12, "JPEG of 12 bits"),
        (0xC1, 12, "JPEG of 12 bits"),
        (0xC2, 12, "JPEG of 12 bits"),
        (0xC3, 8, "lossless JPEG of 8 bits"),
        (0xC3, 16, "lossless JPEG of 16 bits"),
        (0xC7, 12, "lossless JPEG of 12 bits"),
        (0xC5, 8, "hierarchical JPEG"),
        (0xF7, 8, "JPEG-LS of 8 bits"),
    ],
)
def test_jpegs_that_libjpeg_does_not_decode_are_named(marker: int, bits: int, words: str) -> None:
    frame = struct.pack(">HBHHB", 11, bits, 8, 8, 1) + bytes([1, 0x11, 0])
    scan = struct.pack(">HB", 8, 1) + bytes([1, 0, 0, 63, 0])
    comment = b"\xff\xfe" + struct.pack(">H", 5) + b"abc"
    content = (
        b"\xff\xd8" + comment + b"\xff" + bytes([marker]) + frame + b"\xff\xda" + scan + bytes(50) + b"\xff\xd9"
    )
    with pytest.raises(UnsupportedImageError, match=f"^{words}"):
        decoded(content)


def test_a_bitmap_of_another_compression_is_not_damaged() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 24, 5, 100, 0, 0, 0, 0)  # 5: a PNG inside
    with pytest.raises(UnsupportedImageError, match="a BMP file of a kind that is not supported"):
        decoded(b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + header + bytes(100))
