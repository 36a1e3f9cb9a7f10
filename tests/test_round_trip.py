"""Every format, mode, depth and orientation that the libraries can write.

The answer is that of the image as PNG, within what the format loses.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import dicom_dataset
from PIL import Image

from imgclassify.images import decoding
from imgclassify.images.tiff.libtiff import has_codec

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
    group: str
    """The ways that are counted together: a key of LEAST_WRITTEN."""


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

LOSSY = {"JPEG": 4.0, "AVIF": 4.0, "MPO": 4.0}
PILLOW_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0, "save_all": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "PPM": {},
    "JPEG2000": {"irreversible": False},
}
DEEP = ("I;16", "I;16B", "I", "F")
DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")
"""Those that keep more than 8 bits. To the others, Pillow writes something else."""
REDUCED = ("GIF", "BMP", "PPM")
"""Formats without an alpha channel, or without other than palettes: what Pillow reads of its file is the image."""
TIFF_COMPRESSIONS = {
    "tiff_lzw": 5,
    "tiff_deflate": 32946,
    "packbits": 32773,
    "tiff_adobe_deflate": 8,
    "zstd": 50000,
    "lzma": 34925,
}
LOSSY_COMPRESSIONS = {"webp": 50001, "jpeg": 7}
BILEVEL_COMPRESSIONS = {"group3": 3, "group4": 4, "tiff_ccitt": 2}
COMPRESSIONS = {**TIFF_COMPRESSIONS, **LOSSY_COMPRESSIONS, **BILEVEL_COMPRESSIONS}
"""TIFF's number of each compression, by Pillow's name."""


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
        "I;16B": Image.frombytes("I;16B", grey.size, np.rint(65535 * GREY).astype(">u2").tobytes()),
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
            if form == "WEBP":
                variants += [{"lossless": False, "quality": 95}]
            for more in variants:
                kind = more.get("compression")
                # Pillow before 13 ends the process if its libtiff does not have the compression.
                if kind and not has_codec(COMPRESSIONS[kind]):
                    continue
                name = " ".join([form, mode, *(f"{key}={value}" for key, value in more.items())])
                write = partial(write_with_pillow, image, mode, form, {**options, **more})
                yield Way(name, write, f"{form} {kind}" if kind else form)


def write_with_pillow(image: Image.Image, mode: str, form: str, options: dict[str, Any]) -> Written:
    if form == "MPO":
        options = {**options, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    content = save(image, form, **options)
    is_lossy = options.get("compression") in LOSSY_COMPRESSIONS or options.get("lossless") is False
    if mode in DEEP:
        wanted = np.repeat(as_bytes(GREY)[:, :, None], 3, axis=2)
    elif form in REDUCED or (form == "TIFF" and mode == "P with transparency"):
        wanted = shown(Image.open(io.BytesIO(content)))
    elif mode == "RGBa":
        wanted = shown(image.convert("RGBA"))
    else:
        wanted = shown(to_srgb(image, mode))
    converted = 1.0 if mode in ("LAB", "YCbCr", "HSV", "CMYK", "RGBa") else 0.51
    return Written(content, wanted, max(6.0 if is_lossy else LOSSY.get(form, 0.0), converted))


def to_srgb(image: Image.Image, mode: str) -> Image.Image:
    if mode != "LAB":
        return image
    from PIL import ImageCms

    profiles = [ImageCms.createProfile(name) for name in ("LAB", "sRGB")]
    return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")  # type: ignore[return-value]


# tifffile ---------------------------------------------------------------------------------------------------

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
                            arguments = (channels, kind, order, layout, compression, predictor)
                            yield Way(name, partial(write_tiff, *arguments), "tifffile")


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
            for kind in (8, 10, 12, 14, 16, "f4"):
                for layout in ("strips", "tiles", "planes"):
                    for order in ("<", ">"):
                        if layout == "planes" and channels == "grey":
                            continue
                        if compression == "jpeg2000" and order == ">":
                            continue  # tifffile swaps the bytes of what it compresses
                        name = f"imagecodecs {compression} {channels} {kind} {order} {layout}"
                        arguments = (channels, kind, order, layout, compression, False)
                        yield Way(name, partial(write_tiff, *arguments), f"imagecodecs {compression}")


# Other libraries --------------------------------------------------------------------------------------------


def heif_ways() -> Iterator[Way]:
    if find_spec("pillow_heif") is None:
        return
    for mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        for chroma in (420, 444):
            yield Way(f"HEIF {mode} {chroma}", partial(write_heif, mode, chroma), "HEIF")
    for bits in (10, 12):
        yield Way(f"HEIF RGB of {bits} bits", partial(write_deep_heif, bits), "HEIF")
    for orientation in TURNED:
        yield Way(f"orientation {orientation} HEIF", partial(write_turned_heif, orientation), "orientation HEIF")


def write_heif(mode: str, chroma: int) -> Written:
    import pillow_heif

    image = modes()[mode]
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=95, chroma=chroma)
    wanted = np.repeat(as_bytes(GREY)[:, :, None], 3, axis=2) if mode in DEEP else shown(image)
    return Written(stream.getvalue(), wanted, 4.0)


def write_deep_heif(bits: int) -> Written:
    import pillow_heif

    samples = np.rint(65535 * COLOR).astype(np.uint16)
    stream, before = io.BytesIO(), pillow_heif.options.SAVE_HDR_TO_12_BIT
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    try:
        pillow_heif.encode("RGB;16", (WIDTH, HEIGHT), samples.tobytes(), stream, quality=95, chroma=444)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = before
    return Written(stream.getvalue(), as_bytes(COLOR), 4.0)


def write_turned_heif(orientation: int) -> Written:
    """pillow-heif turns the orientation of EXIF into the container's rotation and mirroring."""
    import pillow_heif

    exif = Image.Exif()
    exif[274] = orientation
    stream = io.BytesIO()
    file = pillow_heif.from_pillow(Image.fromarray(as_bytes(COLOR)))
    file.save(stream, quality=95, chroma=444, exif=exif.tobytes())
    return Written(stream.getvalue(), TURNED[orientation](as_bytes(COLOR)), 4.0)


def jpeg_xl_ways() -> Iterator[Way]:
    if find_spec("pillow_jxl") is None:
        return
    for mode in ("L", "LA", "RGB", "RGBA"):
        yield Way(f"JPEG XL {mode}", partial(write_jpeg_xl, mode), "JPEG XL")
    for mode in ("I;16", "F"):
        yield Way(f"JPEG XL {mode}", partial(write_jpeg_xl, mode), "JPEG XL")


def write_jpeg_xl(mode: str) -> Written:
    import pillow_jxl  # noqa: F401

    image = modes()[mode]
    # The plugin declares that samples of more than 8 bits are linear light, which becomes sRGB (IEC 61966-2-1).
    curved = np.where(GREY <= 0.0031308, 12.92 * GREY, 1.055 * GREY ** (1 / 2.4) - 0.055)
    wanted = np.repeat(as_bytes(curved)[:, :, None], 3, axis=2) if mode in DEEP else shown(image)
    return Written(save(image, "JXL", lossless=True), wanted, 0.51)


def dicom_ways() -> Iterator[Way]:
    if find_spec("pydicom") is None:
        return
    yield Way("DICOM RGB", partial(write_dicom, as_bytes(COLOR)), "DICOM")
    yield Way("DICOM grey of 8 bits", partial(write_dicom, as_bytes(GREY)), "DICOM")
    yield Way("DICOM grey of 16 bits", partial(write_dicom, np.rint(65535 * GREY).astype(np.uint16)), "DICOM")
    yield Way("DICOM signed grey", partial(write_dicom, np.rint(65535 * GREY - 32768).astype(np.int16)), "DICOM")


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
            yield Way(f"orientation {orientation} {form}", partial(write_turned, orientation, form), "orientation")
        if find_spec("tifffile"):
            for kind in (8, 16):
                write = partial(write_turned_tiff, orientation, kind)
                yield Way(f"orientation {orientation} tifffile {kind}", write, "orientation tifffile")


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
        with warnings.catch_warnings():  # Pillow before 13 warns of what it will no longer write
            warnings.simplefilter("ignore", DeprecationWarning)
            return way.write()
    except NOT_WRITTEN:  # the library cannot write this mode in this format
        return None


MISWRITTEN = {
    "TIFF I;16B big_tiff=True": "Pillow writes wrong offsets: tifffile reads other samples too",
    "JPEG2000 I;16B": "Pillow writes the bytes in the wrong order: imagecodecs reads them so too",
}
"""Ways of which the file, not the answer, is wrong."""


def marked(way: Way) -> Any:
    reason = MISWRITTEN.get(way.name)
    marks = [pytest.mark.xfail(reason=reason, raises=AssertionError)] if reason else []
    return pytest.param(way, id=way.name, marks=marks)


@pytest.mark.parametrize("way", [marked(way) for way in WAYS])
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


LEAST_WRITTEN = {
    "PNG": 18,
    "JPEG": 18,
    "MPO": 6,
    "GIF": 7,
    "BMP": 6,
    "TIFF": 32,
    "TIFF tiff_lzw": 16,
    "TIFF tiff_deflate": 16,
    "TIFF packbits": 16,
    "TIFF tiff_adobe_deflate": 16,
    "TIFF zstd": 16,
    "TIFF lzma": 16,
    "TIFF group3": 1,
    "TIFF group4": 1,
    "TIFF tiff_ccitt": 1,
    "TIFF jpeg": 3,
    "TIFF webp": 1,
    "WEBP": 28,
    "AVIF": 14,
    "PPM": 7,
    "JPEG2000": 8,
    "tifffile": 406,
    "imagecodecs lerc": 35,
    "imagecodecs jpegxl": 35,
    "imagecodecs jpegxr": 30,
    "imagecodecs jpeg2000": 25,
    "imagecodecs png": 30,
    "HEIF": 12,
    "orientation HEIF": 8,
    "JPEG XL": 6,
    "DICOM": 4,
    "orientation": 40,
    "orientation tifffile": 16,
}
"""How many ways of each group are written, where its library is installed."""


def is_available(group: str) -> bool:
    """Whether the libraries of a group of ways are installed."""
    form, _, detail = group.partition(" ")
    packages = {
        "tifffile": ["tifffile"],
        "imagecodecs": ["tifffile", "imagecodecs"],
        "HEIF": ["pillow_heif"],
        "JPEG XL": ["pillow_jxl"],
        "DICOM": ["pydicom"],
    }
    needed = packages.get(group) or packages.get(form) or packages.get(detail) or ["PIL"]
    has_all = all(find_spec(package) for package in needed)
    return has_all and (form != "TIFF" or not detail or has_codec(COMPRESSIONS[detail]))


@pytest.mark.parametrize("group", LEAST_WRITTEN)
def test_no_fewer_ways_are_written(group: str) -> None:
    """Otherwise a library that no longer writes some of them would make the test above say nothing of those."""
    if not is_available(group):
        pytest.skip("its library is not installed, or lacks the compression")
    assert sum(written_by(way) is not None for way in WAYS if way.group == group) >= LEAST_WRITTEN[group]


def test_every_way_is_counted() -> None:
    assert {way.group for way in WAYS} == {group for group in LEAST_WRITTEN if is_available(group)}
