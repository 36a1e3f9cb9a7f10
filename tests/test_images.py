import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from conftest import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from imgclassify.errors import (
    CorruptImageError,
    ImageEmptyError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
    NotAnImageError,
    TruncatedImageError,
    UnsupportedImageError,
)
from imgclassify.images import decoders, decoding, opened_image
from imgclassify.images.decoding import (
    decode_image,
    decode_reduced_image,
    image_from_memory,
    load_image,
    load_reduced_image,
)
from imgclassify.images.rgb_conversion import to_rgb
from imgclassify.sources import IMAGE_SUFFIXES, MAX_BYTES, expand

RANDOM = np.random.default_rng(20)
PIXELS = RANDOM.integers(0, 256, (23, 31, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
ORIENTATION = 0x0112


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def encode_heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def decoded(content: bytes, **options: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    image = decode_image(io.BytesIO(content), **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def pillows(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of any size, up to where its pixels would begin."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = zlib.crc32(b"IHDR" + fields)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + fields + struct.pack(">I", checksum)


# Formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_every_format_gives_pillows_own_pixels_bit_for_bit(format_name):
    content = encode(PHOTO, format_name)
    assert (decoded(content) == pillows(content)).all()


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 100}])
def test_every_kind_of_jpeg_gives_pillows_own_pixels(options):
    content = encode(PHOTO, "JPEG", **options)
    assert (decoded(content) == pillows(content)).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_every_kind_of_tiff_gives_pillows_own_pixels(compression):
    content = encode(PHOTO, "TIFF", compression=compression)
    assert (decoded(content) == pillows(content)).all()


def test_heic_is_opened_with_the_extra():
    flat = Image.new("RGB", (64, 48), (200, 100, 50))
    pixels = decoded(encode_heic(flat, quality=100))
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels - np.asarray(flat, dtype=int)).max() <= 3


def test_avif_that_calls_itself_mif1_is_told_from_heic():
    content = encode(PHOTO, "AVIF")
    assert content[8:12] == b"avif"
    assert b"mif1" in content[16:32]
    renamed = content[:8] + b"mif1" + content[12:]
    assert (decoded(renamed) == decoded(content)).all()


def test_what_a_folder_is_searched_for_is_what_can_be_opened():
    Image.init()
    extras = {".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl", ".dcm", ".dicom"}
    formats = {*decoders.IMAGE_FORMATS, "MPO"}  # an MPO is a JPEG with more images behind it
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    assert registered | extras == IMAGE_SUFFIXES


def test_a_source_is_loaded_and_its_stream_closed(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    PHOTO.save(path)
    (source,) = expand([str(path)])
    streams = []
    monkeypatch.setattr(
        "builtins.open", lambda *args, _open=open, **more: streams.append(_open(*args, **more)) or streams[-1]
    )
    assert (np.asarray(load_image(source)) == PIXELS).all()
    assert [stream.closed for stream in streams] == [True]


def test_a_missing_file_is_not_found(tmp_path):
    (source,) = expand([str(tmp_path / "photo.png")])
    with pytest.raises(ImageNotFoundError):
        load_image(source)


@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_the_first_frame_of_an_animation_is_taken(format_name, options):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    content = encode(red, format_name, save_all=True, append_images=[blue], duration=100, **options)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 2
    assert np.abs(decoded(content) - np.array([255, 0, 0])).max() <= 2


def test_the_first_image_of_an_mpo_is_taken():
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    content = encode(red, "MPO", save_all=True, append_images=[blue])
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert np.abs(decoded(content) - np.array([254, 0, 0])).max() <= 2


# Orientation ------------------------------------------------------------------------------------------------

# How the stored array is to be shown, by EXIF 2.3's own words for row 0 and column 0.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_exif_orientations_are_honoured(format_name, orientation):
    stored = pillows(encode(PHOTO, format_name))
    content = encode(PHOTO, format_name, exif=exif(orientation))
    assert (decoded(content) == UPRIGHT[orientation](stored)).all()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("encoder", ["AVIF", "HEIC"])
def test_an_orientation_that_the_container_holds_is_applied_once(encoder, orientation):
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24] = (255, 0, 0)
    corners[16:, 24:] = (0, 0, 255)
    image = Image.fromarray(corners)
    tags = exif(orientation)
    content = (
        encode(image, "AVIF", exif=tags, quality=95)
        if encoder == "AVIF"
        else encode_heic(image, exif=tags, quality=95)
    )
    expected = UPRIGHT[orientation](corners)
    pixels = decoded(content)
    assert pixels.shape == expected.shape
    assert np.median(np.abs(pixels.astype(int) - expected)) <= 3
    assert np.abs(pixels.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "1"])
def test_orientation_is_honoured_in_every_colour_mode(mode):
    image = PHOTO.convert("L").convert("I;16") if mode == "I;16" else PHOTO.convert(mode)
    plain = decoded(encode(image, "PNG"))
    assert (decoded(encode(image, "PNG", exif=exif(6))) == np.rot90(plain, -1)).all()


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_orientation_is_honoured_in_a_16_bit_tiff_of_either_byte_order(byte_order):
    values = RANDOM.integers(0, 65536, (5, 7)).astype(f"{byte_order}u2")
    image = Image.frombytes("I;16B" if byte_order == ">" else "I;16", (7, 5), values.tobytes())
    plain = decoded(encode(image, "TIFF"))
    assert (decoded(encode(image, "TIFF", exif=exif(6))) == np.rot90(plain, -1)).all()


def test_an_upright_image_carries_no_orientation_to_be_applied_again():
    image = decode_image(io.BytesIO(encode(PHOTO, "PNG", exif=exif(6))))
    assert image.size == (23, 31)
    assert ImageOps.exif_transpose(image).size == (23, 31)


def test_an_unheard_of_orientation_asks_for_nothing():
    assert (decoded(encode(PHOTO, "PNG", exif=exif(9))) == PIXELS).all()


def broken_exif() -> dict[str, bytes]:
    return {
        "no TIFF header": b"Exif\0\0garbage",
        "cut in its header": b"Exif\0\0II*\0",
        "an offset beyond its end": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x010F, 2, 100, 5000),
        "cut in its directory": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        "an orientation that is text": b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<HHHII", 1, 0x0112, 2, 4, 0x363636),
    }


def splice_exif(jpeg: bytes, payload: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


@pytest.mark.parametrize("fault", broken_exif())
def test_broken_exif_is_no_orientation_and_no_failure(fault, capfd):
    plain = encode(PHOTO, "JPEG")
    content = splice_exif(plain, broken_exif()[fault])
    assert (decoded(content) == decoded(plain)).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_broken_exif_that_pillow_fails_over_is_no_orientation(format_name):
    content = encode(PHOTO, format_name, exif=b"Exif\0\0garbage!")
    with Image.open(io.BytesIO(content)) as image, pytest.raises(SyntaxError):
        image.getexif()
    assert (decoded(content) == decoded(encode(PHOTO, format_name))).all()


def test_pillow_itself_warns_of_that_exif():
    content = splice_exif(encode(PHOTO, "JPEG"), broken_exif()["an offset beyond its end"])
    with (
        pytest.warns(UserWarning, match="Tag data|Corrupt EXIF|Truncated"),
        Image.open(io.BytesIO(content)) as image,
    ):
        image.getexif()


# At a smaller scale -----------------------------------------------------------------------------------------

LARGE = noise(405, 242)


def to(height, width):
    """What an image is to be resized to, whatever its size."""
    return lambda size: (height, width)


def reduced(content, resized, **options):
    """((H, W, 3) uint8, (width, height) of the whole)."""
    image, whole = decode_reduced_image(io.BytesIO(content), resized, **options)
    assert image.mode == "RGB"
    return np.asarray(image), whole


def drafted(content, scale):
    """Pillow's own decoding at a smaller scale, not turned."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (image.width // scale, image.height // scale))
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_of_any_orientation_is_reduced_upright(orientation):
    content = encode(LARGE, "JPEG", exif=exif(orientation))
    upright = UPRIGHT[orientation](np.zeros((242, 405)))
    asked = []

    def a_tenth(size):
        asked.append(size)
        return (size[0] // 10, size[1] // 10)

    pixels, whole = reduced(content, a_tenth)
    assert asked == [upright.shape]
    assert whole == upright.shape[::-1]
    assert (pixels == UPRIGHT[orientation](drafted(content, 4))).all()
    assert sorted(pixels.shape) == [3, 61, 102]  # rounded up


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_sides_are_held_against_those_of_the_upright_image(orientation):
    content = encode(Image.new("RGB", (400, 800)), "JPEG", exif=exif(orientation))
    tall, wide = reduced(content, to(200, 100))[0].shape, reduced(content, to(100, 200))[0].shape
    if orientation == 1:
        assert (tall, wide) == ((400, 200, 3), (800, 400, 3))
    else:
        assert (tall, wide) == ((400, 800, 3), (200, 400, 3))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_reduced_jpeg_has_the_colours_of_the_whole(mode, options):
    content = encode(LARGE.convert(mode), "JPEG", **options)
    pixels, whole = reduced(content, to(60, 101))
    assert whole == (405, 242)
    assert (pixels == drafted(content, 2)).all()
    full = decoded(content)[:, :404].astype(float)
    means = full.reshape(121, 2, 202, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels[:, :202] - means).mean() < 2


def test_a_reduced_mpo_is_its_first_image():
    content = encode(LARGE, "MPO", save_all=True, append_images=[Image.new("RGB", (405, 242), "blue")])
    pixels, whole = reduced(content, to(20, 20))
    assert (whole, pixels.shape) == ((405, 242), (61, 102, 3))
    assert (pixels == drafted(encode(LARGE, "JPEG"), 4)).all()


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    resized=st.tuples(st.integers(1, 120), st.integers(1, 120)),
)
def test_the_smallest_scale_that_leaves_twice_the_size_is_taken(width, height, resized):
    content = encode(Image.new("L", (width, height)), "JPEG")
    pixels, whole = reduced(content, to(*resized))
    sizes = {scale: (-(-height // scale), -(-width // scale)) for scale in (8, 4, 2)}
    enough = [size for size in sizes.values() if size[0] >= 2 * resized[0] and size[1] >= 2 * resized[1]]
    assert whole == (width, height)
    assert pixels.shape[:2] == (enough or [(height, width)])[0]


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_a_format_that_cannot_be_reduced_comes_out_whole(format_name):
    content = encode(LARGE, format_name)
    pixels, whole = reduced(content, to(1, 1))
    assert whole == (405, 242)
    assert (pixels == decoded(content)).all()


def test_the_size_of_a_turned_image_that_cannot_be_reduced_is_the_upright_one():
    for format_name in ("PNG", "TIFF"):
        pixels, whole = reduced(encode(PHOTO, format_name, exif=exif(6)), to(1, 1))
        assert (whole, pixels.shape) == ((23, 31), (31, 23, 3))


def test_an_image_that_is_small_already_is_loaded_bit_for_bit():
    content = encode(LARGE, "JPEG")
    assert (reduced(content, to(122, 10))[0] == decoded(content)).all()


def test_a_source_is_loaded_reduced(tmp_path):
    path = tmp_path / "photo.jpg"
    LARGE.save(path)
    image, whole = load_reduced_image(next(expand([str(path)])), to(10, 10))
    assert (image.size, whole) == ((51, 31), (405, 242))


def test_the_limit_on_pixels_is_on_the_whole_image():
    content = encode(LARGE, "JPEG")
    assert reduced(content, to(10, 10), max_pixels=405 * 242)[0].shape == (31, 51, 3)
    with pytest.raises(ImageTooLargeError, match="405 × 242"):
        reduced(content, to(10, 10), max_pixels=405 * 242 - 1)


def test_a_file_that_cannot_be_loaded_cannot_be_loaded_reduced_and_says_the_same():
    whole = encode(LARGE, "JPEG")
    for content in (b"", b"<html>", whole[:100], whole[: len(whole) // 2], encode(LARGE, "PNG")[:300]):
        with pytest.raises(ImageError) as exact:
            decoded(content)
        with pytest.raises(ImageError) as fast:
            reduced(content, to(10, 10))
        assert type(fast.value) is type(exact.value)
        # Of the bytes left over at the end it may count others.
        assert str(fast.value).split(" (")[0] == str(exact.value).split(" (")[0]


# Colour -----------------------------------------------------------------------------------------------------


def test_an_upright_rgb_image_is_itself():
    assert to_rgb(PHOTO) is PHOTO


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_opaque_colour_modes_are_converted_as_pillow_does(mode):
    image = PHOTO.convert(mode)
    assert to_rgb(image).mode == "RGB"
    assert (np.asarray(to_rgb(image)) == np.asarray(image.convert("RGB"))).all()


def test_grey_becomes_three_equal_channels():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert (np.asarray(to_rgb(grey)) == np.arange(256).reshape(16, 16, 1)).all()


def test_an_adobe_cmyk_jpeg_is_inverted_as_pillow_does():
    content = encode(PHOTO.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in content
    assert (decoded(content) == pillows(content)).all()
    # Pillow stores and reads CMYK inverted alike: what comes out resembles what went in.
    assert np.abs(decoded(content).astype(int) - np.asarray(PHOTO.convert("CMYK").convert("RGB"))).mean() < 6


def lab_to_srgb(lightness: float, a: float, b: float) -> np.ndarray:
    """CIE Lab under D50 to sRGB, 0..255, by the CIE's and the IEC's formulas."""

    def inverse(t: float) -> float:
        return t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29)

    y = (lightness + 16) / 116
    xyz = np.array([0.96422 * inverse(y + a / 500), inverse(y), 0.82521 * inverse(y - b / 200)])
    # Bradford-adapted from D50 to sRGB's D65.
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.033454],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(np.array(matrix) @ xyz, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("lightness", "a", "b"), [(0, 0, 0), (100, 0, 0), (60, 40, 20), (40, -20, 30), (80, 10, -40)]
)
def test_lab_becomes_srgb(lightness, a, b):
    image = Image.frombytes("LAB", (1, 1), bytes([round(lightness * 2.55), a % 256, b % 256]))
    pixel = np.asarray(to_rgb(image))[0, 0]
    assert np.abs(pixel - lab_to_srgb(lightness, a, b)).max() <= 2.5


def test_lab_is_unsupported_where_pillow_lacks_colour_management(monkeypatch):
    def fail(*_: object) -> None:
        raise ImportError("no LittleCMS")

    monkeypatch.setattr(ImageCms, "buildTransform", fail)
    with pytest.raises(UnsupportedImageError, match="LAB"):
        to_rgb(Image.new("LAB", (1, 1)))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """colour (H, W, 3) and alpha (H, W), 0..255, laid on white."""
    weight = alpha[..., None] / 255
    return np.rint(colour * weight + 255 * (1 - weight))


ALL_ALPHAS = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
ALL_GREYS = ALL_ALPHAS.T


def test_every_shade_and_alpha_is_laid_on_white():
    expected = on_white(np.repeat(ALL_GREYS[..., None], 3, axis=2), ALL_ALPHAS)
    rgba = Image.fromarray(np.dstack([ALL_GREYS] * 3 + [ALL_ALPHAS]))
    grey_alpha = Image.merge(
        "LA", [Image.fromarray(np.ascontiguousarray(band)) for band in (ALL_GREYS, ALL_ALPHAS)]
    )
    assert (np.asarray(to_rgb(rgba)) == expected).all()
    assert (np.asarray(to_rgb(grey_alpha)) == expected).all()


@pytest.mark.parametrize(("mode", "premultiplied"), [("RGBA", "RGBa"), ("LA", "La")])
def test_premultiplied_alpha_is_laid_on_white(mode, premultiplied):
    straight = Image.fromarray(RANDOM.integers(0, 256, (8, 8, 4), dtype=np.uint8)).convert(mode)
    straight.putalpha(200)
    difference = np.asarray(to_rgb(straight.convert(premultiplied)), dtype=int) - np.asarray(to_rgb(straight))
    assert np.abs(difference).max() <= 1


def test_a_palette_with_one_transparent_colour_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    for format_name in ("PNG", "GIF"):
        content = encode(image, format_name, transparency=1)
        assert decoded(content).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_palette_with_an_alpha_for_each_colour_is_laid_on_white():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    alphas = np.array([[0, 100, 255]])
    colours = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])
    content = encode(image, "PNG", transparency=bytes(alphas[0].tolist()))
    assert (decoded(content) == on_white(colours, alphas)).all()


def test_a_palette_with_an_alpha_band_is_laid_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    image = palette.convert("PA")
    image.putalpha(Image.frombytes("L", (2, 1), bytes([255, 0])))
    assert np.asarray(to_rgb(image)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("mode", "values", "transparent", "expected"),
    [
        ("L", [7, 8], 7, [(255, 255, 255), (8, 8, 8)]),
        ("RGB", [(1, 2, 3), (4, 5, 6)], (1, 2, 3), [(255, 255, 255), (4, 5, 6)]),
        ("1", [0, 255], 0, [(255, 255, 255), (255, 255, 255)]),
        ("I;16", [257, 25700], 257, [(255, 255, 255), (100, 100, 100)]),
    ],
)
def test_a_png_with_one_transparent_colour_is_laid_on_white(mode, values, transparent, expected):
    image = Image.new(mode, (2, 1))
    image.putdata(values)
    content = encode(image, "PNG", transparency=transparent)
    with Image.open(io.BytesIO(content)) as reopened:
        assert "transparency" in reopened.info
    assert [tuple(pixel) for pixel in decoded(content)[0].tolist()] == expected


ALL_16_BITS = np.arange(65536, dtype=np.uint16).reshape(256, 256)
SCALED_16_BITS = np.rint(ALL_16_BITS * (255 / 65535))[..., None]


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "JPEG2000"])
def test_16_bit_grey_is_scaled_and_not_clipped(format_name):
    options = {"irreversible": False} if format_name == "JPEG2000" else {}
    content = encode(Image.fromarray(ALL_16_BITS), format_name, **options)
    assert (decoded(content) == SCALED_16_BITS).all()
    assert (pillows(content) != SCALED_16_BITS).any()


@pytest.mark.parametrize(("mode", "byte_order"), [("I;16", "<"), ("I;16L", "<"), ("I;16B", ">"), ("I;16N", "=")])
def test_16_bit_grey_is_scaled_in_every_byte_order(mode, byte_order):
    image = Image.frombytes(mode, (256, 256), ALL_16_BITS.astype(f"{byte_order}u2").tobytes())
    assert (np.asarray(to_rgb(image)) == SCALED_16_BITS).all()


def test_a_16_bit_portable_greymap_is_scaled():
    content = b"P5 256 256 65535\n" + ALL_16_BITS.astype(">u2").tobytes()
    assert (decoded(content) == SCALED_16_BITS).all()


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int32, [0, 257, 25700], [0, 1, 100]),  # within 16 bits: as 16 bits
        (np.int32, [-100, 0, 100], [0, 128, 255]),  # beyond: stretched
        (np.int32, [0, 50_000, 100_000], [0, 128, 255]),
        (np.int32, [70_000, 70_000, 70_000], [0, 0, 0]),
        (np.float32, [0, 0.5, 1], [0, 128, 255]),  # within 0..1
        (np.float32, [0, 0.1, 0.2], [0, 26, 51]),
        (np.float32, [0, 100, 200], [0, 100, 200]),  # within 0..255
        (np.float32, [0, 257, 25700], [0, 1, 100]),  # within 0..65535
        (np.float32, [-1, 0, 1], [0, 128, 255]),  # beyond: stretched
        (np.float32, [0, 1e6, 2e6], [0, 128, 255]),
        (np.float32, [np.nan, 0.5, 1], [0, 128, 255]),
        (np.float32, [np.inf, -np.inf, 1], [0, 0, 255]),
        (np.float32, [np.nan, np.nan, np.nan], [0, 0, 0]),
    ],
)
def test_32_bit_grey_takes_the_smallest_usual_range_that_holds_it(dtype, values, expected):
    image = Image.fromarray(np.array([values], dtype=dtype))
    pixels = np.asarray(to_rgb(image))[0]
    assert np.abs(pixels - np.array(expected)[:, None]).max() <= (0 if 128 not in expected else 1)
    assert (pixels == pixels[:, :1]).all()


def test_a_signalling_nan_is_black_and_brings_no_warning():
    content = encode(Image.fromarray(np.ones((1, 2), np.float32)), "TIFF")
    broken = content.replace(struct.pack("<ff", 1, 1), b"\x01\x00\x80\x7f" + struct.pack("<f", 1))
    assert decoded(broken)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


# From memory ------------------------------------------------------------------------------------------------


def test_an_array_of_colour_or_grey_is_taken_as_it_is():
    assert (np.asarray(image_from_memory(PIXELS)) == PIXELS).all()
    assert (np.asarray(image_from_memory(PIXELS[::-1, ::2])) == PIXELS[::-1, ::2]).all()
    assert (np.asarray(image_from_memory(ALL_GREYS)) == ALL_GREYS[..., None]).all()


@pytest.mark.parametrize(
    "array",
    [
        PIXELS / 255,
        PIXELS[None],
        PIXELS[:, :, :2],
        PIXELS[0, 0],
        PIXELS[:0],
        np.zeros((2, 2, 4), np.uint8),
        "dog.jpg",
    ],
    ids=["float", "batch", "two channels", "one pixel", "empty", "four channels", "text"],
)
def test_any_other_array_is_unsupported_and_told(array):
    with pytest.raises(
        UnsupportedImageError, match=r"^an array must be \(H, W, 3\) or \(H, W\) uint8, but this one is"
    ):
        image_from_memory(array)


def test_a_pillow_image_is_turned_upright_and_becomes_rgb():
    content = encode(PHOTO.convert("RGBA"), "PNG", exif=exif(6))
    with Image.open(io.BytesIO(content)) as image:
        assert (np.asarray(image_from_memory(image)) == np.rot90(PIXELS, -1)).all()


def test_a_pillow_image_not_yet_loaded_is_turned_once():
    content = encode(PHOTO, "TIFF", exif=exif(6))
    with Image.open(io.BytesIO(content)) as image:  # Pillow turns TIFF, and no other format, as it loads
        assert (np.asarray(to_rgb(image)) == np.rot90(PIXELS, -1)).all()


def test_a_pillow_image_that_cannot_be_decoded_is_corrupt():
    content = encode(PHOTO, "PNG")
    with (
        Image.open(io.BytesIO(content[: len(content) // 2])) as image,
        pytest.raises(CorruptImageError, match="PNG"),
    ):
        image_from_memory(image)


# Limits -----------------------------------------------------------------------------------------------------


def test_more_pixels_than_the_limit_are_too_large_and_told():
    content = encode(PHOTO, "PNG")
    assert decoded(content, max_pixels=23 * 31).shape == (23, 31, 3)
    with pytest.raises(ImageTooLargeError, match=r"^31 × 23 is 713 pixels, and the limit is 712$"):
        decoded(content, max_pixels=23 * 31 - 1)


def test_the_limit_is_checked_before_pixels_are_decoded():
    # Not one pixel follows this header.
    with pytest.raises(ImageTooLargeError, match="100000 × 100000"):
        decoded(png_header(100_000, 100_000) + b"\0\0\xff\xffIDAT")
    with pytest.raises(TruncatedImageError):
        decoded(png_header(1000, 1000) + b"\0\0\xff\xffIDAT")


@pytest.mark.parametrize("head", [b"RIFF\xf0\xff\xff\xffWEBPVP8 ", b"\0\0\0\x1cftypavif", b"\0\0\0\x1cftypheic"])
def test_a_file_that_is_read_whole_has_a_limit_on_its_bytes(head, tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(
        ImageTooLargeError, match=r"^the file is larger than 256 MiB, and its format must be read as a whole$"
    ):
        load_image(next(expand([str(path)])))
    os.truncate(path, 2**20)
    with pytest.raises(CorruptImageError):
        load_image(next(expand([str(path)])))


def with_scans(count: int, thumbnails: int = 0) -> bytes:
    """A progressive JPEG of so many scans, with so many more in its header that are none of its own."""
    content = encode(PHOTO, "JPEG", progressive=True)
    refinement = b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\x10"
    first = content.index(b"\xff\xda")
    behind = content.index(b"\xff", first + 14)
    header = content[:2] + (b"\xff\xe1\0\x0cExif\0\0\xff\xda\0\0") * thumbnails + content[2:behind]
    return header + refinement * (count - 1) + b"\xff\xd9"


@pytest.mark.parametrize("thumbnails", [0, 300])
def test_a_jpeg_has_a_limit_on_its_scans(thumbnails):
    expected = decoded(with_scans(1))
    assert (decoded(with_scans(opened_image.MAX_SCANS, thumbnails)) == expected).mean() > 0.9
    for content in (with_scans(opened_image.MAX_SCANS + 1, thumbnails), with_scans(50_000, thumbnails)):
        with pytest.raises(ImageTooLargeError, match=r"^more than 100 scans"):
            decoded(content)
        with pytest.raises(ImageTooLargeError, match=r"^more than 100 scans"):
            reduced(content, to(1, 1))


def test_a_scan_whose_marker_is_split_between_two_reads_is_counted():
    content, refinement = with_scans(1)[:-2], with_scans(2)[len(with_scans(1)) - 2 : -2]
    for _ in range(opened_image.MAX_SCANS):
        padding = -(len(content) + 5) % ImageFile.MAXBLOCK
        comment = b"\xff\xfe" + (padding + 2).to_bytes(2, "big") + bytes(padding)
        content += comment + refinement
        assert (len(content) - len(refinement)) % ImageFile.MAXBLOCK == ImageFile.MAXBLOCK - 1
    with pytest.raises(ImageTooLargeError, match=r"^more than 100 scans"):
        decoded(content + b"\xff\xd9")


def test_the_default_limit_lets_a_200_megapixel_camera_pass():
    assert decoding.MAX_PIXELS >= 16320 * 12240


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_pillows_own_limit_gives_way_to_ours(format_name, monkeypatch):
    content = encode(PHOTO, format_name)
    for pillows_limit in (600, 100):  # over which Pillow warns, and over twice which it fails
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
        assert decoded(content).shape == (23, 31, 3)


def test_a_limit_that_a_reader_imposes_itself_is_too_large_too(monkeypatch):
    def fail(*_: object) -> None:
        raise Image.DecompressionBombError("could be decompression bomb DOS attack")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageTooLargeError, match=r"^more pixels than Pillow allows in a PNG file$"):
        decoded(encode(PHOTO, "PNG"))


def test_a_limit_of_libheifs_is_too_large_and_told():
    content = bytearray(encode_heic(PHOTO))
    place = content.index(b"iloc")
    content[place + 20 : place + 22] = b"\x7f\xff"  # the pieces that the image is in
    with pytest.raises(ImageTooLargeError, match=r"^exceeds a limit of its decoder: \w.*32767.* security limit"):
        decoded(bytes(content))


def test_too_little_memory_is_too_large(monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.core, "new", fail)
    monkeypatch.setattr(Image.core, "fill", fail)
    with pytest.raises(ImageTooLargeError, match="memory"):
        decoded(encode_of_png())


def encode_of_png() -> bytes:
    """A 1×1 red PNG, made without Pillow."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return png_header(1, 1) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b"")


def test_a_png_made_without_pillow_is_read():
    assert decoded(encode_of_png()).tolist() == [[[255, 0, 0]]]


# Errors -----------------------------------------------------------------------------------------------------


def test_an_empty_file_is_empty():
    with pytest.raises(ImageEmptyError):
        decoded(b"")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"x", "a text file"),
        (b"BMW builds cars, and this is a text about them, which begins like a bitmap", "a text file"),
        (b"P1 is the magic number of a bitmap, and this is a text", "a text file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "an audio file"),
        (b"RIFF\x24\0\0\0ACONanih", repr(b"RIFF\x24\0\0\0ACON")),
        (b"\xfe\xfe" * 40, repr(b"\xfe\xfe" * 6)),
    ],
)
def test_what_begins_like_no_known_format_is_not_an_image(content, named):
    with pytest.raises(NotAnImageError) as caught:
        decoded(content)
    assert named in str(caught.value)


FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"]


def samples() -> dict[str, bytes]:
    palette = PHOTO.quantize(16)
    grey = Image.fromarray(RANDOM.integers(0, 65536, (9, 11), dtype=np.uint16))
    real = Image.fromarray(RANDOM.random((9, 11), dtype=np.float32))
    made = {name: encode(PHOTO, name) for name in FORMATS}
    made |= {f"{name} with EXIF": encode(PHOTO, name, exif=exif(6)) for name in ("JPEG", "PNG", "WEBP", "TIFF")}
    made |= {
        f"{name}, animated": encode(PHOTO, name, save_all=True, append_images=[palette]) for name in ("GIF", "WEBP")
    }
    made |= {f"TIFF, {kind}": encode(PHOTO, "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg")}
    made |= {"PNG, palette": encode(palette, "PNG", transparency=3), "PNG, 16-bit": encode(grey, "PNG")}
    made |= {
        "TIFF, 16-bit": encode(grey, "TIFF"),
        "TIFF, float": encode(real, "TIFF"),
        "PFM": encode(real, "PPM"),
    }
    made |= {"JPEG, CMYK": encode(PHOTO.convert("CMYK"), "JPEG"), "PPM, plain": b"P3 1 2 255 1 2 3 4 5 6\n"}
    return made


SAMPLES = samples()

GRAIN = Image.fromarray(RANDOM.integers(0, 256, (90, 120, 3), dtype=np.uint8))
# Formats in which damage can be told: how one is made, behind which mark its image begins, and how far behind.
TELLING = {
    "PNG": (partial(encode, GRAIN, "PNG"), b"IDAT", 4),
    "GIF": (partial(encode, GRAIN, "GIF"), b",\0\0\0\0", 12),
    "WEBP": (partial(encode, GRAIN, "WEBP"), b"VP8 ", 8),
    "WEBP, lossless": (partial(encode, GRAIN, "WEBP", lossless=True), b"VP8L", 8),
    "AVIF": (partial(encode, GRAIN, "AVIF"), b"mdat", 4),
    "HEIF": (partial(encode_heic, GRAIN), b"mdat", 4),
    "JPEG2000": (partial(encode, GRAIN, "JPEG2000"), b"\xff\x52", 2),
    "JPEG, progressive": (partial(encode, GRAIN, "JPEG", progressive=True), b"\xff\xda", 20),
    "TIFF, deflate": (partial(encode, GRAIN, "TIFF", compression="tiff_deflate"), b"II*\0", 12),
}


@pytest.mark.parametrize("format_name", [*FORMATS, "HEIF"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_cut_file_is_truncated_and_names_its_format(format_name, share):
    content = encode_heic(PHOTO) if format_name == "HEIF" else encode(PHOTO, format_name)
    with pytest.raises(TruncatedImageError, match=f"^damaged {format_name} file: it ends too early$"):
        decoded(content[: int(len(content) * share)])


def test_a_cut_file_is_truncated_wherever_it_is_cut():
    """But where its first bytes tell no format, and where all of its image is there already."""
    for name, content in SAMPLES.items():
        whole = decoded(content)
        for end in range(24, len(content), 7):
            with suppress(TruncatedImageError):
                assert (decoded(content[:end]) == whole).all(), (name, end)


@pytest.mark.parametrize("name", sorted(TELLING))
def test_a_damaged_file_of_full_length_is_corrupt_and_not_truncated(name):
    make, mark, skipped = TELLING[name]
    content = make()
    start = content.index(mark) + skipped
    failed = 0
    generator = np.random.default_rng(1)
    for end in range(start + 5, start + 300, 5):
        damaged = content[:start] + generator.bytes(end - start) + content[end:]
        with suppress(ImageError):
            decoded(damaged)
            continue
        failed += 1
        with pytest.raises(ImageError) as caught:
            decoded(damaged)
        assert type(caught.value) is CorruptImageError
        assert "file: it ends too early" not in str(caught.value)
    assert failed


def jpeg_with(header: bytes) -> bytes:
    content = encode(PHOTO, "JPEG")
    return content[:2] + header + content[2:]


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_image():
    thumbnail = b"\xff\xe1\0\x10Exif\0\0\xff\xd8\xff\xda\0\0\xff\xd9"
    content = jpeg_with(thumbnail)
    assert (decoded(content) == decoded(encode(PHOTO, "JPEG"))).all()
    for cut in (len(thumbnail) + 2, len(thumbnail) + 100, len(content) - 50):
        with pytest.raises(TruncatedImageError):
            decoded(content[:cut])


def test_what_stands_behind_the_end_of_a_jpeg_does_not_make_it_truncated():
    damaged = jpeg_with(b"").replace(b"\xff\xdb", b"\xff\xfe")  # its quantisation tables become comments
    for more in (b"", b"\0\0\r\n", b"a film" * 5000):
        with pytest.raises(ImageError) as caught:
            decoded(damaged + more)
        assert type(caught.value) is CorruptImageError


def test_a_jpeg_whose_own_lengths_lead_astray_is_corrupt():
    with pytest.raises(ImageError) as caught:
        decoded(jpeg_with(b"\xff\xe5\xff\xff"))
    assert type(caught.value) is CorruptImageError


@pytest.mark.parametrize("options", [{"big_tiff": True}, {}, {"compression": "tiff_lzw"}])
def test_a_tiff_cut_in_its_directory_or_its_strips_is_truncated(options):
    content = encode(PHOTO, "TIFF", **options)
    for end in range(9, len(content), 11):
        with pytest.raises(TruncatedImageError):
            decoded(content[:end])


def test_a_big_endian_tiff_is_told_too():
    values = RANDOM.integers(0, 65536, (5, 7)).astype(">u2")
    content = encode(Image.frombytes("I;16B", (7, 5), values.tobytes()), "TIFF")
    assert content[:2] == b"MM"
    for end in range(9, len(content)):
        with pytest.raises(TruncatedImageError):
            decoded(content[:end])


def test_a_bitmap_that_is_whole_by_its_own_word_is_corrupt():
    content = bytearray(encode(PHOTO, "BMP"))
    content[22:26] = struct.pack("<i", 1000)  # the height
    with pytest.raises(ImageError) as caught:
        decoded(bytes(content))
    assert type(caught.value) is CorruptImageError
    assert str(caught.value) == "damaged BMP file: a part of it ends too early"


def test_boxes_without_end_are_not_followed_for_ever():
    endless = b"\0\0\0\x0cftypavif" + struct.pack(">I4s", 8, b"free") * 200_000
    with pytest.raises(CorruptImageError):
        decoded(endless)


def test_an_image_without_pixels_is_corrupt():
    content = bytearray(encode(PHOTO, "BMP"))
    content[18:22] = bytes(4)  # the width
    with pytest.raises(CorruptImageError, match=r"^damaged BMP file: its header gives no size$"):
        decoded(bytes(content))


def test_heic_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnsupportedImageError) as caught:
        decoded(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert str(caught.value) == "HEIC needs the extra imgclassify[heif]: pip install pillow-heif"


def test_a_format_that_this_pillow_was_built_without_is_unsupported(monkeypatch):
    content = encode(PHOTO, "AVIF")
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(UnsupportedImageError):
        decoded(content)


@pytest.mark.parametrize("good_bytes", [0, 300])
def test_a_failing_disk_is_unreadable_and_not_corrupt(good_bytes):
    class FailingDisk(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() + (size or 0) > good_bytes:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(ImageUnreadableError, match="Input/output error"):
        decode_image(FailingDisk(encode(PHOTO, "JPEG")))


@settings(deadline=None, max_examples=600)
@given(st.data())
def test_a_mutated_file_gives_an_rgb_image_or_an_image_error_and_nothing_else(data):
    content = bytearray(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    near_or_far = st.one_of(st.integers(0, 200), st.integers(0, 5000))
    for position, value in data.draw(st.lists(st.tuples(near_or_far, st.integers(0, 255)), max_size=8)):
        if position < len(content):
            content[position] = value
    with suppress(ImageError):
        image = decode_image(io.BytesIO(bytes(content)), max_pixels=10**6)
        assert image.mode == "RGB"
        assert min(image.size) >= 1
    with suppress(ImageError):
        image, whole = decode_reduced_image(io.BytesIO(bytes(content)), to(3, 3), max_pixels=10**6)
        assert image.mode == "RGB"
        assert 1 <= min(image.size) <= min(whole)


# Threads, imports, globals ----------------------------------------------------------------------------------


def test_many_threads_load_at_once_and_none_warns(tmp_path):
    broken = splice_exif(SAMPLES["JPEG"], broken_exif()["an offset beyond its end"])
    contents = [*SAMPLES.values(), broken]
    expected = [decoded(content) for content in contents]
    wrong: list[object] = []

    def check() -> None:
        try:
            for content, pixels in zip(contents, expected, strict=True):
                if not (decoded(content) == pixels).all():
                    wrong.append(content[:20])
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=check) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_loading_a_jpeg_imports_no_other_plugin_and_no_numpy(tmp_path):
    path = tmp_path / "photo.jpg"
    PHOTO.save(path)
    program = """
import sys
from imgclassify import sources
from imgclassify.images import decoding
decoding.load_image(next(sources.expand(sys.argv[1:])))
print(*sorted(m for m in sys.modules if m.endswith("ImagePlugin") or m in ("numpy", "requests")))
"""
    finished = run(program, str(path))
    assert finished.stderr == ""
    assert finished.stdout.split() == ["PIL.JpegImagePlugin"]


def test_pillows_globals_are_left_alone(tmp_path):
    path = tmp_path / "photo.tif"
    PHOTO.save(path)
    program = """
import sys
from PIL import Image, ImageFile
def state(): return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, sorted(Image.OPEN)
before = state()
from imgclassify import sources
from imgclassify.images import decoding
assert state() == before
decoding.load_image(next(sources.expand(sys.argv[1:])))
assert state()[:2] == before[:2]
"""
    finished = run(program, str(path))
    assert finished.stderr == ""
    assert finished.returncode == 0


def test_broken_exif_leaves_the_users_terminal_alone(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(splice_exif(encode(PHOTO, "JPEG"), broken_exif()["an offset beyond its end"]))
    program = """
import sys
from imgclassify import sources
from imgclassify.images import decoding
decoding.load_image(next(sources.expand(sys.argv[1:])))
"""
    finished = run(program, str(path))
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_other_modules_warnings_are_left_alone():
    decoded(encode(PHOTO, "PNG"))
    with pytest.raises(UserWarning, match="ours"):  # as pytest's own filter has it
        warnings.warn("ours", stacklevel=1)
