"""What there is of a damaged image: its pixels are those of the whole file, the others are grey."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, noise
from PIL import Image, ImageFile, ImageOps

from imgclassify import sources
from imgclassify.catalog import PreprocessSpec
from imgclassify.classifier import Classifier
from imgclassify.errors import CorruptImageError, ImageTooLargeError, TruncatedImageError
from imgclassify.images import decoding
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.inputs import input_from_source
from imgclassify.images.isolation import IsolatedPreprocessor
from imgclassify.sources import Source

GREY = 128
SPEC = PreprocessSpec(40, (32, 32), "bicubic", True, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def grained(width: int = 160, height: int = 120) -> Image.Image:
    """An image that fills a file evenly from its first row to its last, and that is grey nowhere."""
    pixels = np.asarray(noise(width, height)).astype(int)
    pixels += np.random.default_rng(1).integers(-9, 10, pixels.shape)
    return Image.fromarray(np.where(abs(pixels - GREY) < 6, 140, pixels).clip(0, 255).astype(np.uint8))


def clear() -> Image.Image:
    image = grained()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def turned() -> bytes:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags.tobytes()


WHOLE = {
    "JPEG": encoded(grained(), "JPEG"),
    "JPEG, restart markers": encoded(grained(), "JPEG", restart_marker_blocks=4),
    "JPEG, grey": encoded(grained().convert("L"), "JPEG"),
    "JPEG, turned": encoded(grained(), "JPEG", exif=turned()),
    "JPEG, progressive": encoded(grained(), "JPEG", progressive=True),
    "JPEG, CMYK": encoded(grained().convert("CMYK"), "JPEG"),
    "PNG": encoded(grained(), "PNG"),
    "PNG, palette": encoded(grained().quantize(60), "PNG"),
    "PNG, black and white": encoded(grained().convert("1"), "PNG"),
    "PNG, alpha": encoded(clear(), "PNG"),
    "PNG, turned": encoded(grained(), "PNG", exif=turned()),
    "PNG, deep": encoded(Image.fromarray(np.asarray(grained().convert("L")).astype(np.uint16) * 13), "PNG"),
    "GIF": encoded(grained().quantize(200), "GIF", interlace=0),
    "GIF, transparent": encoded(grained().quantize(200), "GIF", interlace=0, transparency=7),
    "WebP": encoded(grained(), "WEBP", quality=95),
    "WebP, lossless": encoded(grained(), "WEBP", lossless=True),
    "WebP, alpha": encoded(clear(), "WEBP", quality=95),
    "WebP, animated": encoded(grained(), "WEBP", save_all=True, quality=95, append_images=[grained().rotate(180)]),
}
ROWS = sorted(WHOLE.keys() - {"JPEG, progressive", "JPEG, CMYK"})
"""Those of which rows are either whole or missing."""


def strictly(content: bytes) -> np.ndarray:
    return np.asarray(decoding.decode_image(io.BytesIO(content)))


def tolerantly(content: bytes) -> np.ndarray:
    image = decoding.decode_image(io.BytesIO(content), decode_damaged=True)
    assert image.info["damaged"] is True
    return np.asarray(image)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_image_is_the_same_and_not_marked(name: str) -> None:
    image = decoding.decode_image(io.BytesIO(WHOLE[name]), decode_damaged=True)
    assert (np.asarray(image) == strictly(WHOLE[name])).all()
    assert "damaged" not in image.info


@pytest.mark.parametrize("share", [0.45, 0.6, 0.9])
@pytest.mark.parametrize("name", ROWS)
def test_a_cut_image_has_its_first_rows_and_is_grey_below(name: str, share: float) -> None:
    content = WHOLE[name][: int(share * len(WHOLE[name]))]
    if "animated" in name and share > 0.5:  # the first of two frames is whole
        image = decoding.decode_image(io.BytesIO(content), decode_damaged=True)
        assert np.array_equal(np.asarray(image), strictly(WHOLE[name]))
        assert ("damaged" in image.info, image.info["frames"]) == (False, None)
        return
    with pytest.raises(TruncatedImageError):
        strictly(content)
    whole, found = strictly(WHOLE[name]), tolerantly(content)
    if "turned" in name:  # upright again, by the inverse of what orientation 6 asks for
        whole, found = np.rot90(whole), np.rot90(found)
    same, grey = ((found == other).all(axis=(1, 2)) for other in (whole, GREY))
    first_missing = int(np.argmin(same)) if not same.all() else len(found)
    assert first_missing > 0.15 * len(found)
    # Of a GIF, a part of a row may be there. Of a JPEG, a part of 16 rows, and what is next to a gap is smoothed.
    edge = 18 if "JPEG" in name else 1 if "GIF" in name else 0
    assert grey[first_missing + edge :].all()
    assert not grey[:first_missing].any()


@pytest.mark.parametrize("name", [name for name in WHOLE if name.startswith("JPEG")])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_cut_jpeg_is_what_pillow_makes_of_it_with_its_global_switch(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = WHOLE[name][: int(share * len(WHOLE[name]))]
    found = tolerantly(content)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(content)) as image:
        assert (found == np.asarray(ImageOps.exif_transpose(image).convert("RGB"))).all()


def interlaced_png(pixels: np.ndarray) -> bytes:
    """An 8-bit grey PNG in the seven passes of ISO/IEC 15948, 8.2, without a filter, hardly packed."""
    import struct
    import zlib

    rows = b"".join(
        b"\0" + row.tobytes()
        for y, x, down, right in (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        )
        for row in pixels[y::down, x::right]
        if row.size
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    data = chunk(b"IDAT", zlib.compress(rows, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(16, 16), (21, 13), (3, 5), (1, 9)])
def test_an_interlaced_png_is_filled_from_its_earlier_passes(width: int, height: int) -> None:
    pixels = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    content = interlaced_png(pixels)
    assert (strictly(content) == pixels[:, :, None]).all()
    start = content.index(b"IDAT") + 4 + 2 + 5  # the headers of zlib and of its only block
    steps = {0: (8, 8, 8, 8), 1: (8, 8, 8, 4), 2: (8, 4, 4, 4), 3: (4, 4, 4, 2)}
    steps |= {4: (4, 2, 2, 2), 5: (2, 2, 2, 1), 6: (2, 1, 1, 1)}
    firsts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))
    size = sum(
        len(range(y, height, steps[index][0])) * (1 + len(range(x, width, steps[index][1])))
        for index, (y, x) in enumerate(firsts)
        if len(range(x, width, steps[index][1]))
    )
    for there in range(1 + -(-width // 8), size, 3):
        expected, left = np.full((height, width), GREY), there
        for index, (top, first) in enumerate(firsts):
            down, right, block_height, block_width = steps[index]
            row_bytes = 1 + len(range(first, width, right))
            for y in range(top, height, down) if row_bytes > 1 else ():
                left -= row_bytes
                for x in range(first, width, right) if left >= 0 else ():
                    expected[y : y + block_height, x : x + block_width] = pixels[y, x]
        assert (tolerantly(content[: start + there]) == expected[:, :, None]).all(), there


def test_an_interlaced_gif_is_filled_from_its_earlier_passes() -> None:
    image = grained().quantize(200)
    content = encoded(image, "GIF", interlace=1)
    whole = strictly(content)
    found = tolerantly(content[: len(content) // 3])
    assert (found[::8] == whole[::8]).all()
    missing = [y for y in range(len(found)) if not (found[y] == whole[y]).all()]
    assert len(missing) > 20
    filled = [any((found[y] == whole[y - y % step]).all() for step in (2, 4, 8)) for y in missing]
    assert filled.count(False) <= 2  # a row of which a part is there, and one that is filled from it


def test_white_and_black_of_a_deep_image_do_not_depend_on_what_is_missing() -> None:
    """Tomography plus 32768 is stretched, in a whole image and in half of one."""
    values = np.random.default_rng(3).integers(32768, 33248, (120, 160), dtype=np.uint16)
    values[0, :2] = 32768, 33247
    content = encoded(Image.fromarray(values), "PNG")
    whole = strictly(content)
    found = tolerantly(content[: int(0.7 * len(content))])
    rows = int(np.argmax((found == GREY).all(axis=(1, 2))))
    assert 10 < rows < 120
    assert (found[:rows] == whole[:rows]).all()


# Before zlib notices, it may unpack values that are larger than those of the image, and so change what is white.
@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith(("WebP", "JPEG", "PNG, deep"))])
def test_damage_in_the_middle_counts_too(name: str) -> None:
    content = bytearray(WHOLE[name])
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40) if name.startswith("PNG") else b"\0\0;" + b"\xff" * 37
    with pytest.raises((CorruptImageError, TruncatedImageError)):
        strictly(bytes(content))
    whole, found = strictly(WHOLE[name]), tolerantly(bytes(content))
    if "turned" in name:
        whole, found = np.rot90(whole), np.rot90(found)
    rows = len(whole) // 5
    assert (whole[:rows] == found[:rows]).all()
    assert (found[-1] == GREY).all()


def test_a_marker_within_the_data_of_a_jpeg_ends_it() -> None:
    content = bytearray(WHOLE["JPEG"])
    middle = len(content) // 2
    content[middle : middle + 4] = b"\xff\xc0\0\x08"
    with pytest.raises(CorruptImageError):
        strictly(bytes(content))
    whole, found = strictly(WHOLE["JPEG"]), tolerantly(bytes(content))
    assert (whole[:32] == found[:32]).all()
    assert (found[-16:] == GREY).all()


def test_a_damaged_transparency_is_left_out() -> None:
    content = bytearray(encoded(grained().quantize(60), "PNG", transparency=3))
    opaque = strictly(encoded(grained().quantize(60), "PNG"))
    content[content.index(b"tRNS") + 5] ^= 0xFF
    with pytest.raises(CorruptImageError, match="tRNS"):
        strictly(bytes(content))
    assert (tolerantly(bytes(content)) == opaque).all()


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_which_no_pixel_is_left_stays_an_error(name: str) -> None:
    starts = {"JPEG": (b"\xff\xda", 8), "PNG": (b"IDAT", 17), "GIF": (b",\0\0\0\0", 18), "WebP": (b"VP8", 16)}
    start, more = starts[name.partition(",")[0]]
    for end in (WHOLE[name].index(start), WHOLE[name].index(start) + more):
        with pytest.raises(TruncatedImageError, match="ends too early"):
            decoding.decode_image(io.BytesIO(WHOLE[name][:end]), decode_damaged=True)


@pytest.mark.parametrize("format_name", ["TIFF", "BMP", "AVIF", "JPEG2000", "PPM"])
def test_other_formats_stay_errors(format_name: str) -> None:
    content = encoded(grained(), format_name)[:-900]
    with pytest.raises((TruncatedImageError, CorruptImageError)):
        decoding.decode_image(io.BytesIO(content), decode_damaged=True)


def test_the_limit_on_pixels_stays() -> None:
    for name in ("JPEG", "PNG", "GIF", "WebP"):
        content = WHOLE[name][: len(WHOLE[name]) // 2]
        with pytest.raises((TruncatedImageError, ImageTooLargeError)):
            decoding.decode_image(io.BytesIO(content), max_pixels=160 * 120 - 1, decode_damaged=True)


# On the way to a record -------------------------------------------------------------------------------------


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    folder = tmp_path / "cut"
    folder.mkdir()
    for index, (name, content) in enumerate(WHOLE.items()):
        share = 0.35 if "animated" in name else 0.7  # within the first of two frames
        (folder / f"{index:02} {name}").write_bytes(content[: int(share * len(content))])
    return folder


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_every_way_to_a_crop_marks_it(decode: str, cut: Path) -> None:
    plain = create_preprocessor(decode, SPEC, "cpu", decode_damaged=True)
    strict = create_preprocessor(decode, SPEC, "cpu")
    isolated = IsolatedPreprocessor(decode, SPEC, decode_damaged=True)
    try:
        for path in sorted(cut.iterdir()):
            image = input_from_source(sources.file_source(str(path)))
            crops = np.zeros((2, 32, 32, 3), np.uint8)
            found = [way(image, crop) for way, crop in zip((plain, isolated), crops, strict=True)]
            assert found[0] == found[1]
            assert (found[0].damaged, found[0].width * found[0].height) == (True, 160 * 120)
            assert (crops[0] == crops[1]).all()
            with pytest.raises(TruncatedImageError):
                strict(image, crops[0])
    finally:
        isolated.close()


def test_a_cut_jpeg_that_is_reduced_is_close_to_the_full_one() -> None:
    content = encoded(grained(640, 480), "JPEG")
    source = Source("cut.jpg", lambda: io.BytesIO(content[: len(content) // 2]))
    full = decoding.load_image(source, decode_damaged=True)
    reduced, size = decoding.load_reduced_image(source, lambda _: (40, 50), decode_damaged=True)
    assert (size, reduced.size) == ((640, 480), (160, 120))
    assert reduced.info["damaged"]
    difference = np.asarray(full.resize((160, 120), Image.Resampling.BOX)).astype(int) - np.asarray(reduced)
    assert abs(difference).mean() < 2


def test_the_gpu_leaves_a_cut_jpeg_to_the_cpu() -> None:
    pytest.importorskip("torch")
    from imgclassify.images.gpu_decoding import GpuDecoder

    def never(_jpegs: object) -> list[object]:
        raise AssertionError("not to be called")

    content = WHOLE["JPEG"][:-900]
    decoder = GpuDecoder(SPEC, "cpu", decode_damaged=True, decode_batch=never)
    crop, info = decoder.load_crop(Source("cut.jpg", lambda: io.BytesIO(content)))
    expected = np.zeros((32, 32, 3), np.uint8)
    image = input_from_source(Source("cut.jpg", lambda: io.BytesIO(content)))
    assert info == create_preprocessor("exact", SPEC, "cpu", decode_damaged=True)(image, expected)
    assert info.damaged
    assert (crop == expected).all()


def test_a_classifier_marks_the_result(tmp_path: Path) -> None:
    whole, cut = tmp_path / "a.jpg", tmp_path / "b.jpg"
    whole.write_bytes(WHOLE["JPEG"])
    cut.write_bytes(WHOLE["JPEG"][:-900])
    results = Classifier(device="cpu", decode_damaged=True).predict([whole, cut])
    assert [result.to_dict().get("damaged") for result in results] == [None, True]
    with pytest.raises(TruncatedImageError):
        Classifier(device="cpu").predict(cut)
