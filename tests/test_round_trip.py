"""Every format, mode, depth and orientation that the libraries can write.

The answer is that of the image as PNG, within what the format loses.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import dicom_dataset
from PIL import Image

from imgclassify.images import decoding

WIDTH, HEIGHT = 61, 47


def photograph() -> np.ndarray:
    """(H, W, 3) in 0..1, smooth, with every level of each channel, and no two sides or corners alike."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    across, down = x / (WIDTH - 1), y / (HEIGHT - 1)
    waves = 0.5 + 0.5 * np.sin(4 * across + 7 * down**2)
    return np.stack([across, 0.2 + 0.8 * down * waves, 1 - 0.9 * (across * down)], axis=2)


COLOR = photograph()
GREY = 0.05 + 0.95 * COLOR[:, :, 1] * (1 - 0.3 * COLOR[:, :, 0])
GREY[0, 0], GREY[-1, -1] = 0, 1  # black and white are there, so that no rule has to guess them


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * values).astype(np.uint8)


class Written(NamedTuple):
    """A file and the image that it stands for."""

    content: bytes
    wanted: np.ndarray
    """(H, W, 3) uint8, as Pillow shows the same samples in a PNG."""
    tolerance: float
    """The mean difference of 255 that the format may cause."""


class Way(NamedTuple):
    """A way to write an image."""

    name: str
    write: Callable[[], Written]


def shown(image: Image.Image) -> np.ndarray:
    """What a viewer shows of an image of up to 8 bits: transparency is laid on white."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image)
        image = canvas
    return np.asarray(image.convert("RGB"))


# Pillow -----------------------------------------------------------------------------------------------------

LOSSY = {"JPEG": 4.0, "AVIF": 4.0, "MPO": 4.0, "WEBP": 0.0, "JPEG2000": 0.0}
PILLOW_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "PPM": {},
    "JPEG2000": {"irreversible": False},
}
DEEP = ("I;16", "I", "F")
DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")
"""Those that keep more than 8 bits. To the others, Pillow writes something else."""
REDUCED = ("GIF", "BMP", "PPM")
"""Formats without an alpha channel, or without other than palettes: what Pillow reads of its file is the image."""
TIFF_COMPRESSIONS = ("tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate", "zstd", "lzma")
LOSSY_COMPRESSIONS = ("webp", "jpeg")
BILEVEL_COMPRESSIONS = ("group3", "group4", "tiff_ccitt")


def modes() -> dict[str, Image.Image]:
    color, grey = Image.fromarray(as_bytes(COLOR)), Image.fromarray(as_bytes(GREY))
    alpha = Image.fromarray(as_bytes(COLOR[:, ::-1, 0]))
    clear = color.copy()
    clear.putalpha(alpha)
    palette = color.quantize(64)
    see_through = palette.copy()
    see_through.info["transparency"] = 5
    return {
        "1": grey.convert("1"),
        "L": grey,
        "LA": Image.merge("LA", (grey, alpha)),
        "P": palette,
        "P with transparency": see_through,
        "PA": clear.quantize(32, method=Image.Quantize.FASTOCTREE).convert("PA"),
        "RGB": color,
        "RGBA": clear,
        "RGBX": color.convert("RGBX"),
        "RGBa": clear.convert("RGBa"),
        "CMYK": color.convert("CMYK"),
        "YCbCr": color.convert("YCbCr"),
        "LAB": lab(color),
        "HSV": color.convert("HSV"),
        "I;16": Image.fromarray(np.rint(65535 * GREY).astype(np.uint16)),
        "I": Image.fromarray(np.rint(65535 * GREY).astype(np.int32)),
        "F": Image.fromarray(GREY.astype(np.float32)),
    }


def lab(color: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.profileToProfile(color, *profiles, outputMode="LAB")  # type: ignore[return-value]


def save(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pillow_ways() -> Iterator[Way]:
    for form, options in PILLOW_FORMATS.items():
        for mode, image in modes().items():
            if mode in DEEP and form not in DEEP_FORMATS:
                continue
            variants: list[dict[str, Any]] = [{}]
            if form == "TIFF":
                variants += [{"compression": kind} for kind in TIFF_COMPRESSIONS]
                variants += [{"compression": kind} for kind in BILEVEL_COMPRESSIONS if mode == "1"]
                variants += [{"compression": kind} for kind in LOSSY_COMPRESSIONS if mode in ("L", "RGB", "CMYK")]
                variants.append({"big_tiff": True})
            if form == "JPEG":
                variants += [{"progressive": True}, {"restart_marker_blocks": 3}]
            if form == "PNG":
                variants += [{"compress_level": 0}]
            for more in variants:
                name = " ".join([form, mode, *(f"{key}={value}" for key, value in more.items())])
                yield Way(name, partial(write_with_pillow, image, mode, form, {**options, **more}))


def write_with_pillow(image: Image.Image, mode: str, form: str, options: dict[str, Any]) -> Written:
    content = save(image, form, **options)
    compression = options.get("compression")
    if mode in DEEP:
        wanted = np.repeat(as_bytes(GREY)[:, :, None], 3, axis=2)
    elif form in REDUCED or (form == "TIFF" and mode == "P with transparency"):
        wanted = shown(Image.open(io.BytesIO(content)))
    elif mode == "RGBa":
        wanted = shown(image.convert("RGBA"))
    else:
        wanted = shown(to_srgb(image, mode))
    converted = 1.0 if mode in ("LAB", "YCbCr", "HSV", "CMYK", "RGBa") else 0.51
    return Written(
        content, wanted, max(6.0 if compression in ("jpeg", "webp") else LOSSY.get(form, 0.0), converted)
    )


def to_srgb(image: Image.Image, mode: str) -> Image.Image:
    if mode != "LAB":
        return image
    from PIL import ImageCms

    profiles = [ImageCms.createProfile(name) for name in ("LAB", "sRGB")]
    return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")  # type: ignore[return-value]


# tifffile ---------------------------------------------------------------------------------------------------

LEAST_WRITTEN = 200

UNSIGNED = {8: np.uint8, 10: np.uint16, 12: np.uint16, 14: np.uint16, 16: np.uint16, 32: np.uint32}


def tiff_ways() -> Iterator[Way]:
    if find_spec("tifffile") is None:
        return
    for channels in ("grey", "rgb"):
        for kind in (*UNSIGNED, "f2", "f4", "f8", "i2"):
            for order in ("<", ">"):
                for layout in ("strips", "tiles", "planes", "rows"):
                    for compression in (None, "zlib"):
                        for predictor in (False, True) if compression else (False,):
                            if (layout == "planes" and channels == "grey") or (predictor and kind == "f2"):
                                continue
                            name = f"tifffile {channels} {kind} {order} {layout} {compression} {predictor}"
                            yield Way(
                                name, partial(write_tiff, channels, kind, order, layout, compression, predictor)
                            )


def write_tiff(
    channels: str, kind: int | str, order: str, layout: str, compression: str | None, predictor: bool
) -> Written:
    import tifffile

    if compression in ("jpegxl", "jpegxr", "jpeg2000", "png") and kind == "f4" and compression != "jpegxl":
        raise ValueError("integers only")
    image = GREY if channels == "grey" else COLOR
    if isinstance(kind, int):
        samples = np.rint((2.0**kind - 1) * image).astype(UNSIGNED[kind])
    elif kind == "i2":
        samples = np.rint(32767 * image).astype(np.int16)
    else:
        samples = image.astype(kind)
    options: dict[str, Any] = {"photometric": "minisblack" if channels == "grey" else "rgb", "metadata": None}
    if layout == "tiles":
        options["tile"] = (16, 32)
    elif layout == "rows":
        options["rowsperstrip"] = 1
    elif layout == "planes":
        samples, options["planarconfig"] = samples.transpose(2, 0, 1), "separate"
    if isinstance(kind, int) and kind in (10, 12, 14):
        options["extratags"] = [
            (281, 3, 1 if channels == "grey" else 3, (2**kind - 1,) * (1 if channels == "grey" else 3), True)
        ]
    if predictor:
        options["predictor"] = 3 if isinstance(kind, str) and kind.startswith("f") else 2
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, byteorder=order, compression=compression, **options)
    wanted = as_bytes(image) if channels == "rgb" else np.repeat(as_bytes(image)[:, :, None], 3, axis=2)
    return Written(stream.getvalue(), wanted, 0.51)


def codec_ways() -> Iterator[Way]:
    """Compressions that imagecodecs writes and reads."""
    if find_spec("tifffile") is None or find_spec("imagecodecs") is None:
        return
    for compression in ("lerc", "jpegxl", "jpegxr", "jpeg2000", "png"):
        for channels in ("grey", "rgb"):
            for kind in (8, 16, "f4"):
                for layout in ("strips", "tiles", "planes"):
                    for order in ("<", ">"):
                        if layout == "planes" and channels == "grey":
                            continue
                        if compression == "jpeg2000" and order == ">":
                            continue  # tifffile swaps the bytes of what it compresses
                        name = f"imagecodecs {compression} {channels} {kind} {order} {layout}"
                        arguments = (channels, kind, order, layout, compression, False)
                        yield Way(name, partial(write_tiff, *arguments))


# Other libraries --------------------------------------------------------------------------------------------


def heif_ways() -> Iterator[Way]:
    if find_spec("pillow_heif") is None:
        return
    for mode in ("L", "LA", "RGB", "RGBA"):
        for chroma in (420, 444):
            yield Way(f"HEIF {mode} {chroma}", partial(write_heif, modes()[mode], chroma))


def write_heif(image: Image.Image, chroma: int) -> Written:
    import pillow_heif

    file = pillow_heif.from_pillow(image)
    stream = io.BytesIO()
    file.save(stream, quality=95, chroma=chroma)
    return Written(stream.getvalue(), shown(image), 4.0)


def jpeg_xl_ways() -> Iterator[Way]:
    if find_spec("pillow_jxl") is None:
        return
    for mode in ("L", "LA", "RGB", "RGBA"):
        yield Way(f"JPEG XL {mode}", partial(write_jpeg_xl, modes()[mode]))


def write_jpeg_xl(image: Image.Image) -> Written:
    import pillow_jxl  # noqa: F401

    return Written(save(image, "JXL", lossless=True), shown(image), 0.51)


def dicom_ways() -> Iterator[Way]:
    if find_spec("pydicom") is None:
        return
    yield Way("DICOM RGB", partial(write_dicom, as_bytes(COLOR)))
    yield Way("DICOM grey of 8 bits", partial(write_dicom, as_bytes(GREY)))
    yield Way("DICOM grey of 16 bits", partial(write_dicom, np.rint(65535 * GREY).astype(np.uint16)))
    yield Way("DICOM signed grey", partial(write_dicom, np.rint(65535 * GREY - 32768).astype(np.int16)))


def write_dicom(pixels: np.ndarray) -> Written:
    stream = io.BytesIO()
    dicom_dataset(pixels).save_as(stream, enforce_file_format=True)
    wanted = as_bytes(COLOR) if pixels.ndim == 3 else np.repeat(as_bytes(GREY)[:, :, None], 3, axis=2)
    return Written(stream.getvalue(), wanted, 0.51)


# Orientation ------------------------------------------------------------------------------------------------

TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
"""The upright image of what is stored, for each orientation (Exif 2.32, 4.6.4)."""


def orientation_ways() -> Iterator[Way]:
    for orientation in TURNED:
        for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            yield Way(f"orientation {orientation} {form}", partial(write_turned, orientation, form))
        if find_spec("tifffile"):
            for kind in (8, 16):
                yield Way(
                    f"orientation {orientation} tifffile {kind}", partial(write_turned_tiff, orientation, kind)
                )


def write_turned(orientation: int, form: str) -> Written:
    exif = Image.Exif()
    exif[274] = orientation
    content = save(Image.fromarray(as_bytes(COLOR)), form, exif=exif.tobytes(), **PILLOW_FORMATS[form])
    return Written(content, TURNED[orientation](as_bytes(COLOR)), LOSSY.get(form, 0.0))


def write_turned_tiff(orientation: int, kind: int) -> Written:
    import tifffile

    stream = io.BytesIO()
    samples = np.rint((2.0**kind - 1) * COLOR).astype(UNSIGNED[kind]).transpose(2, 0, 1)
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(stream, samples, photometric="rgb", planarconfig="separate", metadata=None, extratags=[tag])
    return Written(stream.getvalue(), TURNED[orientation](as_bytes(COLOR)), 0.51)


# The test ---------------------------------------------------------------------------------------------------


WAYS = [
    *pillow_ways(),
    *tiff_ways(),
    *codec_ways(),
    *heif_ways(),
    *jpeg_xl_ways(),
    *dicom_ways(),
    *orientation_ways(),
]
NOT_WRITTEN = (OSError, ValueError, KeyError, NotImplementedError, RuntimeError, TypeError)


def written_by(way: Way) -> Written | None:
    try:
        return way.write()
    except NOT_WRITTEN:  # the library cannot write this mode in this format
        return None


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_answer_is_that_of_the_png(way: Way) -> None:
    written = written_by(way)
    if written is None:
        pytest.skip("the library does not write it")
    image = decoding.decode_image(io.BytesIO(written.content))
    assert image.mode == "RGB"
    assert image.size == written.wanted.shape[1::-1]
    difference = np.abs(np.asarray(image, int) - written.wanted.astype(int))
    assert difference.mean() <= written.tolerance
    assert np.quantile(difference, 0.99) <= max(1, 8 * written.tolerance)


def test_most_ways_are_written() -> None:
    """Otherwise a library that no longer writes some of them would make the test above say nothing of those."""
    written = sum(written_by(way) is not None for way in pillow_ways())
    assert written >= LEAST_WRITTEN
