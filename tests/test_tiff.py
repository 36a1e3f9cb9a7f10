"""TIFFs in every layout, written by tifffile and by hand, against plain NumPy."""

from __future__ import annotations

import io
import itertools
import logging
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from imgclassify.errors import CorruptImageError, ImageTooLargeError, TruncatedImageError, UnsupportedImageError
from imgclassify.images.decoding import decode_image, load_image
from imgclassify.images.tiff import layout
from imgclassify.sources import Source

HEIGHT, WIDTH = 37, 53
RANDOM = np.random.default_rng(3)
UNIT = RANDOM.random((HEIGHT, WIDTH, 4))
UNIT[0, 0], UNIT[0, 1] = 0, 1  # so that the whole scale is used
DTYPES = ["u1", "u2", "u4", "i1", "i2", "f2", "f4", "f8"]
LARGEST = {"u1": 255, "u2": 65535, "u4": 65535, "i1": 127, "i2": 32767, "f2": 1, "f4": 1, "f8": 1}
"""What is white in samples of each type, of which nothing is declared."""


def decoded(content: bytes, **options: Any) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(content), **options), dtype=int)


def samples_of(dtype: str, channels: int, white: float | None = None) -> np.ndarray:
    """Random samples from black to white, (HEIGHT, WIDTH, channels), and without the last axis for one channel."""
    scaled = UNIT[:, :, :channels] * (white or LARGEST[dtype])
    values = (scaled if dtype[0] == "f" else np.rint(scaled)).astype(dtype)
    return values[:, :, 0] if channels == 1 else values


def in_bytes(values: np.ndarray, white: float) -> np.ndarray:
    """What is expected of samples of colour or grey: (HEIGHT, WIDTH, 3)."""
    scaled = np.rint((values.astype(np.float64) * (255 / white)).clip(0, 255)).astype(int)
    return np.repeat(scaled[..., None], 3, axis=2) if scaled.ndim == 2 else scaled


def on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint(colors * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255))


def written(values: np.ndarray, **options: Any) -> bytes:
    """What tifffile writes. Planes come first in a planar image."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


# Layouts ----------------------------------------------------------------------------------------------------

FORMS = {
    "strips": {"rowsperstrip": 5},
    "one strip": {},
    "tiles": {"tile": (16, 32)},
    "deflated strips": {"rowsperstrip": 7, "compression": "zlib"},
    "deflated tiles": {"tile": (32, 16), "compression": "zlib"},
    "LZMA": {"rowsperstrip": 9, "compression": "lzma"},
    "BigTIFF": {"bigtiff": True, "rowsperstrip": 8},
}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_grey_of_every_type_and_form_is_scaled_to_its_white(dtype: str, form: str, byteorder: str) -> None:
    values = samples_of(dtype, 1)
    expected = in_bytes(values, LARGEST[dtype])
    for photometric, shown in (("minisblack", expected), ("miniswhite", 255 - expected)):
        content = written(values, photometric=photometric, byteorder=byteorder, **FORMS[form])
        assert np.abs(decoded(content) - shown).max() <= (dtype[0] == "f")


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("planar", [False, True])
def test_rgb_of_every_type_and_form_is_scaled_to_its_white(
    dtype: str, form: str, byteorder: str, planar: bool
) -> None:
    values = samples_of(dtype, 3)
    content = written(
        np.moveaxis(values, 2, 0) if planar else values,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        byteorder=byteorder,
        **FORMS[form],
    )
    assert np.abs(decoded(content) - in_bytes(values, LARGEST[dtype])).max() <= (dtype[0] == "f")


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
def test_alpha_is_laid_on_white(dtype: str, planar: bool, channels: int, alpha: str) -> None:
    white = LARGEST[dtype]
    values = samples_of(dtype, 4)[:, :, 3 - channels :]
    if alpha == "assocalpha":
        values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
        values[1, 1] = white
    content = written(
        np.moveaxis(values, 2, 0) if planar else values,
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="separate" if planar else "contig",
        extrasamples=[alpha],
    )
    colors, opacity = in_bytes(values[..., :-1], white), in_bytes(values[..., -1], white)[..., 0]
    expected = on_white(colors, opacity) if alpha == "unassalpha" else colors + 255 - opacity[..., None]
    assert np.abs(decoded(content) - expected).max() <= 2


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_bands_that_are_no_colour_are_left_out(dtype: str, planar: bool) -> None:
    values = np.concatenate([samples_of(dtype, 3), samples_of(dtype, 4)[:, :, ::-1]], axis=2)
    content = written(
        np.moveaxis(values, 2, 0) if planar else values,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        extrasamples=["unspecified"] * 4,
    )
    assert (decoded(content) == in_bytes(values[:, :, :3], LARGEST[dtype])).all()


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("extras", [[], ["unassalpha"], ["unspecified"]])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_cmyk_of_every_form_is_that_of_8_bits(dtype: str, extras: list[str], planar: bool) -> None:
    values = samples_of(dtype, 4)
    if extras:
        values = np.concatenate([values, np.full((HEIGHT, WIDTH, 1), LARGEST[dtype], dtype)], axis=2)
    content = written(
        np.moveaxis(values, 2, 0) if planar else values,
        photometric="separated",
        planarconfig="separate" if planar else "contig",
        extrasamples=extras,
    )
    inks = in_bytes(values[:, :, :4], LARGEST[dtype]).astype(np.uint8)
    expected = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes()).convert("RGB")
    assert (decoded(content) == np.asarray(expected)).all()


def test_a_palette_of_16_bits_is_looked_up() -> None:
    table = RANDOM.integers(0, 65536, (3, 65536), dtype=np.uint16)
    values = RANDOM.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    content = written(values, photometric="palette", colormap=table)
    assert (decoded(content) == np.moveaxis(table[:, values] >> 8, 0, 2)).all()


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_lab_of_16_bits_is_that_of_8(photometric: str) -> None:
    lab = RANDOM.integers(-128, 128, (HEIGHT, WIDTH, 3))
    lab[..., 0] += 128
    eight = Image.frombytes("LAB", (WIDTH, HEIGHT), (lab % 256).astype(np.uint8).tobytes())
    deep = lab * 256
    if photometric == "cielab":
        deep[..., 0] = lab[..., 0] * 257
    else:
        deep[..., 1:] += 32768
    content = written((deep % 65536).astype(np.uint16), photometric=photometric)
    buffer = io.BytesIO()
    eight.save(buffer, "TIFF")
    assert np.abs(decoded(content) - decoded(buffer.getvalue())).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pages_are_turned_upright(orientation: int) -> None:
    values = samples_of("u2", 1)
    turned = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.T,
        6: values.T[:, ::-1],
        7: values.T[::-1, ::-1],
        8: values.T[::-1],
    }[orientation]
    content = written(values, photometric="minisblack", extratags=[(274, "H", 1, orientation, True)])
    assert (decoded(content) == in_bytes(turned, 65535)).all()


# What tifffile does not write without more packages ---------------------------------------------------------


def tiff(
    tags: dict[int, tuple[str, Sequence[Any]]], blocks: Sequence[bytes], *, order: str = "<", following: bytes = b""
) -> bytes:
    """A TIFF of one page, of strips that are bytes. `following` stands at the end."""
    kinds = {"B": 1, "s": 2, "H": 3, "I": 4, "f": 11, "d": 12}
    start = 8 + sum(map(len, blocks))
    offsets = [8 + sum(map(len, blocks[:index])) for index in range(len(blocks))]
    tags = {273: ("I", offsets), 279: ("I", [len(block) for block in blocks]), **tags}
    outside = start + 6 + 12 * len(tags)
    entries, more = b"", b""
    for tag, (form, values) in sorted(tags.items()):
        data = bytes(values) if form == "s" else struct.pack(f"{order}{len(values)}{form}", *values)
        entries += struct.pack(f"{order}HHI", tag, kinds[form], len(values))
        if len(data) <= 4:
            entries += data.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", outside + len(more))
            more += data
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return header + b"".join(blocks) + directory + more + following


def page_tags(width: int, height: int, samples: int, bits: int, compression: int, *, rows: int) -> dict[int, Any]:
    return {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * samples),
        259: ("H", [compression]),
        262: ("H", [2 if samples >= 3 else 1]),
        277: ("H", [samples]),
        278: ("I", [rows]),
    }


def lzw(data: bytes) -> bytes:
    """A strip of LZW, from libtiff through Pillow."""
    buffer = io.BytesIO()
    Image.frombytes("L", (len(data), 1), data).save(buffer, "TIFF", compression="tiff_lzw")
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        tags = file.pages[0].tags
        [start], [length] = tags["StripOffsets"].value, tags["StripByteCounts"].value
    return buffer.getvalue()[start : start + length]


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of integers of so many bits, the highest first; each row begins with a byte."""
    steps = values.reshape(len(values), -1, 1).astype(np.int64) >> np.arange(bits - 1, -1, -1)
    return np.packbits((steps & 1).reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14, 20, 24, 25, 28, 31])
def test_samples_of_any_bits_are_unpacked(bits: int, channels: int, compression: int) -> None:
    values = np.rint(UNIT[:, :, :channels] * 0.3 * (2**bits - 1)).astype(
        np.int64
    )  # dark, but the depth is declared
    encode = {1: bytes, 5: lzw, 8: zlib.compress}[compression]
    strips = [encode(packed(values[top : top + 10], bits)) for top in range(0, HEIGHT, 10)]
    content = tiff(page_tags(WIDTH, HEIGHT, channels, bits, compression, rows=10), strips, order=">")
    expected = in_bytes(values[:, :, 0] if channels == 1 else values, 2**bits - 1)
    assert np.abs(decoded(content) - expected).max() <= (bits in (2, 4))  # Pillow's own for grey


@pytest.mark.parametrize("compression", [5, 8])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["u2", "u4", "i2", "f4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_horizontal_differences_are_summed(dtype: str, channels: int, compression: int, order: str) -> None:
    values = samples_of(dtype, channels).reshape(HEIGHT, WIDTH, channels)
    integers = values.view(f"u{values.itemsize}")
    steps = np.diff(integers, axis=1, prepend=integers[:, :1] * 0).astype(f"{order}u{values.itemsize}")
    tags = page_tags(WIDTH, HEIGHT, channels, 8 * values.itemsize, compression, rows=HEIGHT)
    tags |= {317: ("H", [2]), 339: ("H", [{"u": 1, "i": 2, "f": 3}[dtype[0]]] * channels)}
    content = tiff(tags, [{5: lzw, 8: zlib.compress}[compression](steps.tobytes())], order=order)
    expected = in_bytes(values[:, :, 0] if channels == 1 else values, LARGEST[dtype])
    assert np.abs(decoded(content) - expected).max() <= (dtype == "f4")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_differences_of_floats_are_summed(dtype: str, channels: int, order: str) -> None:
    values = samples_of(dtype, channels).reshape(HEIGHT, -1)
    planes = values.astype(f">{dtype}").view(np.uint8).reshape(HEIGHT, values.shape[1], -1).transpose(0, 2, 1)
    rows = planes.reshape(HEIGHT, -1, channels)
    steps = np.diff(rows, axis=1, prepend=rows[:, :1] * 0)
    tags = page_tags(WIDTH, HEIGHT, channels, 8 * values.itemsize, 8, rows=HEIGHT)
    tags |= {317: ("H", [3]), 339: ("H", [3] * channels)}
    content = tiff(tags, [zlib.compress(steps.tobytes())], order=order)
    expected = in_bytes(samples_of(dtype, channels), 1)
    assert np.abs(decoded(content) - expected).max() <= 1


def test_reversed_bits_are_turned_back() -> None:
    values = samples_of("u2", 1)
    turned = np.packbits(np.unpackbits(values.astype(">u2").view(np.uint8), bitorder="little"))
    tags = page_tags(WIDTH, HEIGHT, 1, 16, 1, rows=HEIGHT) | {266: ("H", [2])}
    assert (decoded(tiff(tags, [turned.tobytes()], order=">")) == in_bytes(values, 65535)).all()


@pytest.mark.parametrize(("compression", "form"), [(50001, "WEBP"), (34712, "JPEG2000"), (34933, "PNG")])
def test_strips_that_are_images_are_decoded(compression: int, form: str) -> None:
    values = samples_of("u1", 3)
    strips = []
    for top in range(0, HEIGHT, 20):
        buffer = io.BytesIO()
        options = {"lossless": True} if form == "WEBP" else {"no_jp2": True} if form == "JPEG2000" else {}
        Image.fromarray(values[top : top + 20]).save(buffer, form, **options)
        strips.append(buffer.getvalue())
    content = tiff(page_tags(WIDTH, HEIGHT, 3, 8, compression, rows=20), strips)
    assert (decoded(content) == values).all()


# Pages ------------------------------------------------------------------------------------------------------


def pages_of(*pages: tuple[np.ndarray, int], inside: int = 0, **options: Any) -> bytes:
    """Pages of an image and its NewSubfileType each; the last ones are SubIFDs of the first."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as writer:
        for index, (values, kind) in enumerate(pages):
            writer.write(
                values, photometric="rgb", subfiletype=kind, subifds=inside if index == 0 else 0, metadata=None
            )
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}]
)
@pytest.mark.parametrize("inside", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_reduced_first_page_is_passed_over(dtype: str, inside: int, options: dict[str, Any]) -> None:
    full = samples_of(dtype, 3)
    content = pages_of((full[::2, ::2] // 2, 1), (full, 0), inside=inside, **options)
    assert (decoded(content) == in_bytes(full, LARGEST[dtype])).all()


def test_the_first_full_page_is_the_image() -> None:
    full, other = samples_of("u1", 3), 255 - samples_of("u1", 3)
    assert (decoded(pages_of((full, 0), (other, 0))) == full).all()
    assert (decoded(pages_of((full, 2), (other, 0))) == full).all()  # one page of many
    assert (decoded(pages_of((other, 1), (other, 1), (full, 0))) == full).all()
    assert (decoded(pages_of((full, 1), (other, 1))) == full).all()  # there is no other
    assert (decoded(pages_of((full, 0), (other[::2], 1), inside=1)) == full).all()  # a pyramid


def test_a_transparency_mask_is_not_the_image() -> None:
    full = samples_of("u1", 3)
    content = pages_of((255 - full, 2), (full, 0))
    one_of_many, mask = (struct.pack("<HHII", 254, 4, 1, kind) for kind in (2, 4))
    assert one_of_many in content
    assert (decoded(content) == 255 - full).all()
    assert (decoded(content.replace(one_of_many, mask)) == full).all()


# Where white is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_fewest_usual_bits_that_hold_the_largest_value_are_white(bits: int, channels: int) -> None:
    white = 2**bits - 1
    for largest in (white, 0.51 * white if bits > 8 else white):
        values = samples_of("u2", channels, largest)
        assert (
            decoded(written(values, photometric="rgb" if channels == 3 else "minisblack"))
            == in_bytes(values, white)
        ).all()


@pytest.mark.parametrize(("maximum", "kind"), [(281, "H"), (341, "H"), (341, "f"), (341, "d")])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_declared_white_counts(dtype: str, maximum: int, kind: str) -> None:
    values = samples_of(dtype, 1, 1200)
    content = written(values, photometric="minisblack", extratags=[(maximum, kind, 1, 5000, True)])
    assert np.abs(decoded(content) - in_bytes(values, 5000)).max() <= (dtype == "f4")


def test_a_declared_white_that_the_samples_exceed_does_not_count() -> None:
    values = samples_of("u2", 1, 4095)
    content = written(values, photometric="minisblack", extratags=[(281, "H", 1, 255, True)])
    assert (decoded(content) == in_bytes(values, 4095)).all()


@pytest.mark.parametrize("no_data", ["-9999", "-3.4028234663852886e+38", "nan", "1e+20"])
def test_samples_without_data_are_black_and_no_white(no_data: str) -> None:
    values = samples_of("f4", 1)
    values[3:9, 5:40] = float(no_data)
    expected = in_bytes(samples_of("f4", 1), 1)
    expected[3:9, 5:40] = 0
    text = no_data.encode() + b"\0"
    content = written(values, photometric="minisblack", extratags=[(42113, "s", len(text), text, True)])
    assert np.abs(decoded(content) - expected).max() <= 1


def test_declared_no_data_of_integers_is_left_out() -> None:
    values = samples_of("u2", 1, 4095)
    values[5:9] = 65535
    content = written(values, photometric="minisblack", extratags=[(42113, "s", 6, b"65535\0", True)])
    kept = np.r_[0:5, 9:HEIGHT]
    assert (decoded(content)[kept] == in_bytes(values, 4095)[kept]).all()
    assert (decoded(content)[5:9] == 0).all()


@pytest.mark.parametrize("value", [1.0001, -0.01, 40.0, -1e6, np.inf, -np.inf, np.nan, 3.4e38])
@pytest.mark.parametrize("white", [1, 255, 4095])
def test_one_pixel_changes_no_other(value: float, white: float) -> None:
    values = samples_of("f4", 1, white)
    values[20, 20] = value * (white if abs(value) < 1e30 else 1)
    difference = np.abs(decoded(written(values, photometric="minisblack")) - in_bytes(samples_of("f4", 1), 1))
    difference[20, 20] = 0
    assert difference.max() <= 1


@pytest.mark.parametrize("fill", [-9999, -32768, -3.4e38, 1e20])
def test_a_fill_value_that_nothing_declares_is_no_range(fill: float) -> None:
    values = samples_of("f4", 1)
    values[:9] = fill
    assert (
        np.abs(decoded(written(values, photometric="minisblack"))[9:] - in_bytes(samples_of("f4", 1), 1)[9:]).max()
        <= 1
    )


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_signed_samples_are_stretched(dtype: str) -> None:
    values = (UNIT[:, :, 0] * 3000 - 1000).astype(dtype)
    assert np.abs(decoded(written(values, photometric="minisblack")) - in_bytes(UNIT[:, :, 0], 1)).max() <= 3


@pytest.mark.parametrize("offset", [32768, 32768 - 1024])
def test_an_offset_is_taken_away(offset: int) -> None:
    values = (UNIT[:, :, 0] * 3000 + offset).astype(np.uint16)
    assert np.abs(decoded(written(values, photometric="minisblack")) - in_bytes(UNIT[:, :, 0], 1)).max() <= 3


def test_bright_and_flat_images_are_not_stretched() -> None:
    bright = (62000 + UNIT[:, :, 0] * 3535).astype(np.uint16)
    assert (decoded(written(bright, photometric="minisblack")) == in_bytes(bright, 65535)).all()
    flat = np.full((HEIGHT, WIDTH), 30000, np.uint16)
    assert (decoded(written(flat, photometric="minisblack")) == round(30000 / 257)).all()


def test_the_rule_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    content = written(samples_of("u2", 1, 4000), photometric="minisblack")
    with caplog.at_level(logging.INFO, "imgclassify"):
        load_image(Source("scan.tif", lambda: io.BytesIO(content)))
    [record] = caplog.records
    assert record.getMessage().startswith("scan.tif: 0 is black and 4095 is white")


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({259: ("H", [34887])}, "LERC compression"),
        ({259: ("H", [50002])}, "JPEG XL compression"),
        ({259: ("H", [34661])}, "JBIG compression"),
        ({259: ("H", [4711])}, "compression 4711"),
        ({339: ("H", [6])}, "complex numbers"),
        ({258: ("H", [33])}, "integers of 33 bits"),
        ({262: ("H", [32845])}, "LogLuv"),
        ({262: ("H", [4711])}, "photometric interpretation 4711"),
        ({262: ("H", [5]), 277: ("H", [4]), 258: ("H", [16] * 4), 332: ("H", [2])}, "inks other than CMYK"),
        ({277: ("H", [3]), 258: ("H", [5, 6, 5])}, "channels differ in bits"),
        ({317: ("H", [7]), 259: ("H", [8])}, "predictor 7"),
        ({32997: ("I", [9])}, "ImageDepth"),
    ],
)
def test_what_is_not_supported_is_named(
    changed: dict[int, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "find_spec", lambda _name: None)  # as if imagecodecs were not installed
    content = tiff(page_tags(8, 8, 1, 16, 1, rows=8) | changed, [bytes(512)])
    with pytest.raises(UnsupportedImageError, match=words):
        decoded(content)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16, 16)}])
def test_a_volume_is_not_taken_for_its_first_slice(options: dict[str, Any]) -> None:
    values = np.arange(16 * 16 * 16, dtype=np.uint8).reshape(16, 16, 16)
    with pytest.raises(UnsupportedImageError, match="ImageDepth"):
        decoded(written(values, photometric="minisblack", volumetric=True, **options))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_missing_and_damaged_data_is_no_question_of_layout(compression: str | None) -> None:
    content = written(samples_of("f4", 3), photometric="rgb", compression=compression)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        [start] = file.pages[0].tags["StripOffsets"].value
    with pytest.raises(TruncatedImageError):
        decoded(content[: start + 200])
    if compression:
        with pytest.raises(CorruptImageError, match="damaged TIFF file"):
            decoded(content[:start] + bytes(99) + content[start + 99 :])


def test_libtiff_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(samples_of("u1", 3)).save(buffer, "TIFF", compression="tiff_deflate")
    content = buffer.getvalue()
    assert content[8:10] in (b"\x78\x9c", b"\x78\xda")  # where its strip begins
    with pytest.raises(CorruptImageError):
        decoded(content[:8] + bytes(100) + content[108:])
    assert capfd.readouterr().err == ""


def test_a_strip_that_unpacks_to_more_than_it_says_is_damaged() -> None:
    bomb = zlib.compress(bytes(10**8))
    content = tiff(page_tags(16, 16, 1, 16, 8, rows=16), [bomb])
    assert (decoded(content) == 0).all()  # libtiff stops after 512 bytes


@pytest.mark.parametrize("planar", [1, 2])
def test_the_limit_on_pixels_holds(planar: int) -> None:
    tags = page_tags(5000, 5000, 3, 16, 8, rows=5000) | {284: ("H", [planar])}
    with pytest.raises(ImageTooLargeError, match="5000 × 5000 is 25000000 pixels"):
        decoded(tiff(tags, [b"x"] * 3), max_pixels=10**6)


def test_any_number_of_bands_costs_no_memory() -> None:
    tags = page_tags(1000, 1000, 1, 16, 8, rows=1000) | {277: ("H", [65535]), 258: ("H", [16]), 262: ("H", [1])}
    with pytest.raises(ImageTooLargeError, match="a strip or tile of 131070000000 bytes"):
        decoded(tiff(tags, [b"x"]), max_pixels=10**6)


def test_every_combination_of_order_and_planes_agrees_with_tifffile() -> None:
    """One image in many files: all of them give the same pixels."""
    values = samples_of("u2", 3)
    found = {
        decoded(
            written(
                np.moveaxis(values, 2, 0) if planar == "separate" else values,
                photometric="rgb",
                planarconfig=planar,
                byteorder=order,
                bigtiff=big,
                tile=tile,
            )
        ).tobytes()
        for planar, order, big, tile in itertools.product(
            ("contig", "separate"), "<>", (False, True), (None, (16, 16))
        )
    }
    assert len(found) == 1


CODECS = ("lerc", "jpegxl", "jpegxr", "jpeg2000")


def compressed(kind: str) -> bytes:
    pytest.importorskip("imagecodecs")
    stream = io.BytesIO()
    values = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    tifffile.imwrite(stream, values, compression=kind, photometric="minisblack", metadata=None)
    return stream.getvalue()


@pytest.mark.parametrize("kind", CODECS)
def test_a_compression_of_imagecodecs_is_named_with_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = compressed(kind)
    monkeypatch.setattr(layout, "find_spec", lambda _name: None)
    with pytest.raises(UnsupportedImageError, match=r"imgclassify\[tiff\]: pip install imagecodecs"):
        decode_image(io.BytesIO(content))


@pytest.mark.parametrize("kind", CODECS)
def test_data_of_another_size_than_the_page_says_is_damaged(kind: str) -> None:
    """A small file may hold data that unpacks to gigabytes."""
    content = bytearray(compressed(kind))
    page = tifffile.TiffFile(io.BytesIO(content)).pages[0]
    for tag in (256, 257):
        offset = page.tags[tag].valueoffset  # type: ignore[union-attr]
        content[offset : offset + 2] = struct.pack("<H", 32)
    with pytest.raises(CorruptImageError):
        decode_image(io.BytesIO(bytes(content)))


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_damaged_data_of_imagecodecs_is_an_error_or_an_image(kind: str, place: float) -> None:
    content = bytearray(compressed(kind))
    start = int(place * len(content))
    content[start : start + 20] = b"\xa5" * 20
    with suppress(CorruptImageError, UnsupportedImageError, TruncatedImageError):
        assert decode_image(io.BytesIO(bytes(content))).size == (64, 48)


def ramp(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of so many bits, from black to white, and the 8-bit image that they are."""
    values = np.rint(np.linspace(0, 2**bits - 1, 48 * 64)).reshape(48, 64)
    return values.astype(np.uint8 if bits <= 8 else np.uint16), values / (2**bits - 1) * 255


@pytest.mark.parametrize("kind", ["jpeg2k", "jpegxl"])
@pytest.mark.parametrize("bits", [1, 4, 7, 10, 12, 14, 16])
def test_compressed_samples_of_any_depth_are_read(kind: str, bits: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    samples, wanted = ramp(bits)
    if kind == "jpeg2k":
        code, options = 34712, {"codecformat": "j2k", "reversible": True}
    else:
        code, options = 50002, {"lossless": True}
    data = getattr(imagecodecs, f"{kind}_encode")(samples, bitspersample=bits, **options)
    image = decode_image(io.BytesIO(tiff(page_tags(64, 48, 1, bits, code, rows=48), [data])))
    assert np.abs(np.asarray(image)[:, :, 0] - wanted).max() <= 1


@pytest.mark.parametrize(("option", "pack"), [(1, zlib.compress), (2, None)])
def test_lerc_that_is_compressed_again_is_read(option: int, pack: Any) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    samples, wanted = ramp(16)
    data = (pack or imagecodecs.zstd_encode)(imagecodecs.lerc_encode(samples))
    tags = page_tags(64, 48, 1, 16, 34887, rows=48) | {50674: ("I", [4, option])}
    image = decode_image(io.BytesIO(tiff(tags, [data])))
    assert np.abs(np.asarray(image)[:, :, 0] - wanted).max() <= 1


def jpeg_2000_header(width: int, height: int) -> bytes:
    """SOC and SIZ of one channel of 16 bits (ISO/IEC 15444-1, A.5.1)."""
    sizes = struct.pack(">8I", width, height, 0, 0, width, height, 0, 0)
    return b"\xff\x4f\xff\x51" + struct.pack(">HH", 41, 0) + sizes + struct.pack(">HBBB", 1, 15, 1, 1)


_PEAK = """
import io, re, sys
import imagecodecs
from imgclassify.errors import CorruptImageError
from imgclassify.images.decoding import decode_image

def peak():  # of this process alone; ru_maxrss begins with that of its parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

imagecodecs.jpeg2k_decode, imagecodecs.png_decode  # imported now
content = io.BytesIO(sys.stdin.buffer.read())
before = peak()
try:
    decode_image(content)
except CorruptImageError:
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("trick", ["another size", "a header in a box before it", "more channels"])
def test_jpeg_2000_data_of_another_form_is_refused_before_it_takes_memory(trick: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    form = "jp2" if "box" in trick else "j2k"
    shape = (48, 64, 4000) if trick == "more channels" else (8000, 8000)
    data = imagecodecs.jpeg2k_encode(np.zeros(shape, np.uint16), codecformat=form, reversible=True, mct=False)
    if form == "jp2":
        start = 12 + int.from_bytes(data[12:16], "big")  # after the boxes "jP" and "ftyp"
        box = bytes(16) + jpeg_2000_header(64, 48)
        data = data[:start] + struct.pack(">I", 8 + len(box)) + b"uuid" + box + data[start:]
    content = tiff(page_tags(64, 48, 1, 16, 34712, rows=48), [data])
    done = subprocess.run([sys.executable, "-c", _PEAK], input=content, capture_output=True, check=True)
    assert int(done.stdout) < 40 * 1024  # KiB; 8000 × 8000 × 4 bytes are 244 MiB, 48 × 64 × 4,000 × 4 are 47
