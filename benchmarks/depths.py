"""Counts how many photographs are classified rightly when they are stored in other depths, layouts and colours.

    python -m benchmarks.depths PHOTOS [--model NAME]

PHOTOS is a folder of JPEGs whose names begin with their class: n01440764_tench.JPEG. Each is stored in every form
below, without a loss beyond that of the form, and classified. Needs tifffile and pillow_heif. The same table for
another version of imgclassify: run this file with PYTHONPATH set to its checkout.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks import color_spaces
from imgclassify import Classifier
from imgclassify.sources import Source

Writer = Callable[[NDArray[np.float64]], bytes]
"""Takes a photograph, 0..1, (H, W) or (H, W, 3), and returns a file."""


def _tiff(scale: float, dtype: str, **options: object) -> Writer:
    def write(photo: NDArray[np.float64]) -> bytes:
        scaled = photo * scale
        values = (scaled if dtype[0] == "f" else np.rint(scaled)).astype(dtype)
        return _write_tiff(values, **options)

    return write


def _write_tiff(values: NDArray[np.generic], *, planar: bool = False, **options: object) -> bytes:
    buffer = io.BytesIO()
    options.setdefault("photometric", "rgb" if values.ndim == 3 else "minisblack")
    planes = np.moveaxis(values, 2, 0) if planar else values
    tifffile.imwrite(buffer, planes, planarconfig="separate" if planar else None, metadata=None, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _png(photo: NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(photo * 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _deep_png(scale: float, photo: NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(photo * scale).astype(np.uint16)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _float_with_one_pixel(value: float, photo: NDArray[np.float64]) -> bytes:
    values = photo.astype(np.float32)
    values[0, 0] = value
    return _write_tiff(values)


def _tomography(photo: NDArray[np.float64]) -> NDArray[np.int32]:
    """Hounsfield units of -1000 to 1000."""
    return np.rint(photo * 2000 - 1000).astype(np.int32)


def _light(space: str, photo: NDArray[np.float64]) -> NDArray[np.float64]:
    return color_spaces.in_space(color_spaces.linear(photo), space)


def _pq(photo: NDArray[np.float64]) -> NDArray[np.float64]:
    return color_spaces.pq(_light("BT.2020", photo) * color_spaces.WHITE_NITS)


def _hlg(photo: NDArray[np.float64]) -> NDArray[np.float64]:
    return color_spaces.hlg(_light("BT.2020", photo) * color_spaces.WHITE_NITS)


def _in_png(
    largest: int,
    encode: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    chunk: tuple[bytes, bytes],
    photo: NDArray[np.float64],
) -> bytes:
    values = np.rint(encode(photo) * largest).astype(np.min_scalar_type(largest))
    return color_spaces.png(values, chunk)


def _in_avif(photo: NDArray[np.float64]) -> bytes:
    """PQ of 8 bits: Pillow writes no other, and no declaration of PQ."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.rint(_pq(photo) * 255).astype(np.uint8))
    image.save(buffer, "AVIF", quality=95, subsampling="4:4:4")
    content = bytearray(buffer.getvalue())
    place = content.index(b"colrnclx") + 8
    content[place : place + 4] = struct.pack(">HH", 9, 16)
    return bytes(content)


def _in_heif(transfer: int, photo: NDArray[np.float64]) -> bytes:
    """HEIC of 10 bits."""
    import pillow_heif

    values = np.rint({16: _pq, 18: _hlg}[transfer](photo) * 65535).astype("<u2")
    buffer = io.BytesIO()
    size = (photo.shape[1], photo.shape[0])
    codes = {"color_primaries": 9, "transfer_characteristics": transfer, "matrix_coefficients": 9}
    pillow_heif.encode("RGB;16", size, values.tobytes(), buffer, quality=-1, chroma=444, full_range_flag=1, **codes)
    return buffer.getvalue()


def _with_profile(
    space: str, exponent: float | None, photo: NDArray[np.float64], *, order: str = "rgb", largest: int = 255
) -> bytes:
    """A PNG with a profile of a gamma, or of sRGB's curve."""
    light = _light(space, photo)
    signal = color_spaces.srgb(light) if exponent is None else light ** (1 / exponent)
    signal = signal[:, :, ["rgb".index(color) for color in order]]
    curve = color_spaces.SRGB_CURVE if exponent is None else color_spaces.gamma_curve(exponent)
    values = np.rint(signal * largest).astype(np.min_scalar_type(largest))
    return color_spaces.png(values, color_spaces.iccp(color_spaces.rgb_profile(space, curve, order=order)))


def _gamma(exponent: float) -> Writer:
    """A PNG of 16 bits with the chunk gAMA."""
    return partial(
        _in_png, 65535, lambda photo: color_spaces.linear(photo) ** exponent, color_spaces.gama(exponent)
    )


DECLARED_FORMS: dict[str, Writer] = {
    "PQ, 16-bit PNG": partial(_in_png, 65535, _pq, color_spaces.cicp(9, 16)),
    "PQ, 8-bit PNG": partial(_in_png, 255, _pq, color_spaces.cicp(9, 16)),
    "PQ, 8-bit AVIF": _in_avif,
    "PQ, 10-bit HEIC": partial(_in_heif, 16),
    "HLG, 16-bit PNG": partial(_in_png, 65535, _hlg, color_spaces.cicp(9, 18)),
    "HLG, 8-bit PNG": partial(_in_png, 255, _hlg, color_spaces.cicp(9, 18)),
    "HLG, 10-bit HEIC": partial(_in_heif, 18),
    "linear light, 16-bit PNG with gAMA": _gamma(1.0),
    "linear light, 16-bit PNG with a profile": partial(_with_profile, "sRGB", 1.0, largest=65535),
    "linear light, 8-bit PNG with a profile": partial(_with_profile, "sRGB", 1.0),
    "gamma 1.8, 16-bit PNG with gAMA": _gamma(1 / 1.8),
    "Display P3, 8-bit PNG with a profile": partial(_with_profile, "Display P3", None),
    "Adobe RGB, 8-bit PNG with a profile": partial(_with_profile, "Adobe RGB", 2.2),
    "ProPhoto RGB, 8-bit PNG with a profile": partial(_with_profile, "ProPhoto RGB", 1.8),
    "red and blue exchanged, 8-bit PNG with a profile": partial(_with_profile, "sRGB", None, order="bgr"),
    "channels rotated, 8-bit PNG with a profile": partial(_with_profile, "sRGB", None, order="gbr"),
}

COLOR_FORMS: dict[str, Writer] = {
    "8-bit PNG": _png,
    "8-bit TIFF in planes": _tiff(255, "u1", planar=True),
    "16-bit TIFF": _tiff(65535, "u2"),
    "16-bit TIFF in planes": _tiff(65535, "u2", planar=True),
    "16-bit TIFF in planes and tiles, deflated": _tiff(65535, "u2", planar=True, tile=(64, 64), compression="zlib"),
    "12 bits in a 16-bit TIFF": _tiff(4095, "u2"),
    "TIFF of floats": _tiff(1, "f4"),
}

GREY_FORMS: dict[str, Writer] = {
    "8-bit PNG, grey": _png,
    "16-bit PNG, grey": partial(_deep_png, 65535),
    "14 bits in a 16-bit PNG": partial(_deep_png, 16383),
    "12 bits in a 16-bit PNG": partial(_deep_png, 4095),
    "10 bits in a 16-bit PNG": partial(_deep_png, 1023),
    "12 bits in a 16-bit TIFF, grey": _tiff(4095, "u2"),
    "16-bit TIFF in which 0 is white": lambda photo: _tiff(65535, "u2", photometric="miniswhite")(1 - photo),
    "signed 16-bit TIFF, 0..32767": _tiff(32767, "i2"),
    "floats of 0..1": _tiff(1, "f4"),
    "floats of 0..1, one pixel of 1.0001": partial(_float_with_one_pixel, 1.0001),
    "floats of 0..1, one pixel of -9999": partial(_float_with_one_pixel, -9999),
    "floats of 0..1, one pixel of NaN": partial(_float_with_one_pixel, float("nan")),
    "floats of 0..4095": _tiff(4095, "f4"),
    "tomography, signed": lambda photo: _write_tiff(_tomography(photo).astype(np.int16)),
    "tomography plus 32768": lambda photo: _write_tiff((_tomography(photo) + 32768).astype(np.uint16)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0")
    options = parser.parse_args()
    classifier = Classifier(options.model)
    paths = sorted(options.photos.glob("n[0-9]*_*.JPEG"))
    print(f"| form | right of {len(paths)} | refused |\n|---|---|---|")
    for mode, forms in (("RGB", COLOR_FORMS), ("L", GREY_FORMS), ("RGB", DECLARED_FORMS)):
        for name, write in forms.items():
            right, refused = _count_right(classifier, _stored(paths, mode, write))
            print(f"| {name} | {right} | {refused} |", flush=True)


def _stored(paths: list[Path], mode: str, write: Writer) -> Iterator[Source]:
    for path in paths:
        with Image.open(path) as image:
            photo = np.asarray(image.convert("RGB").convert(mode)) / 255
        yield Source(path.name, partial(io.BytesIO, write(photo)))


def _count_right(classifier: Classifier, sources: Iterator[Source]) -> tuple[int, int]:
    right = refused = 0
    for result in classifier.predict(sources):
        if result.error:
            refused += 1
            print(f"{result.source}: {result.error.message}", file=sys.stderr)
        else:
            right += result.predictions[0].wnid == result.source.partition("_")[0]
    return right, refused


if __name__ == "__main__":
    main()
