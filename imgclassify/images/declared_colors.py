"""Finds in which colours a file declares its samples to be, and converts them to sRGB where it matters.

The networks were trained on samples as they are in the files, most of which are sRGB or near it. So only declared
colours that are far from it are converted (docs/images.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

from imgclassify.images.color_spaces import (
    LightConversion,
    coded_conversion,
    curves_conversion,
    gamma_conversion,
    table_light,
)
from imgclassify.images.icc_profiles import MAX_BYTES, TableConversion, read_conversion
from imgclassify.images.info import Note
from imgclassify.images.white_level import UNDECLARED, DeclaredLevels, Levels, choose_levels, scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from imgclassify.images.color_spaces import Chromaticities

Conversion: TypeAlias = "LightConversion | TableConversion"

_DEEP_GREY_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_GREY_MODES = _DEEP_GREY_MODES | {"1", "L", "LA", "La"}
_RGB_MODES = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr"})

LEAST_CHANGE = 20.0
"""Colours are converted if that changes _TEST_COLORS by more than this, of 255, on average of all channels. PQ and
HLG always are. Display P3 changes them by 7, Adobe RGB by 8, ProPhoto RGB by 25, linear light by 55, and two
exchanged channels by 28 or more."""
_TEST_COLORS = bytes.fromhex(
    "735244 c29682 627a9d 576c43 8580b1 67bdaa d67e2c 505ba6 c15a63 5e3c6c 9dbc40 e0a32e "
    "383d96 469449 af363c e7c71f bb5695 0885a1 c8c8c8 a0a0a0 7a7a79 555555 343434 f3f3f2"
)
"""sRGB of the 24 patches of the ColorChecker (X-Rite), which stand for colours of photographs. White is last."""
_LEAST_WHITE = 128
"""What is declared is damaged if it makes the last of _TEST_COLORS darker than this, in some channel."""
_LEAST_AREA = 0.02
"""Twice the smallest area of a triangle of primaries. Smaller ones are damaged; that of sRGB is 0.22."""

_MOST_GAMMA, _LEAST_GAMMA = 1.3, 0.2
"""Values of gAMA outside are errors, such as 2.2 for 1/2.2."""


def declare_colors(image: Image.Image, stream: BinaryIO) -> None:
    """Stores what Pillow does not read of the colours that a file declares in `image.info`.

    Args:
        image: as Pillow has opened it.
        stream: the file. Its position is kept.
    """
    if image.format == "PNG":
        from imgclassify.images.png_chunks import read_png_chunk

        if len(code := read_png_chunk(stream, b"cICP") or b"") == 4:
            image.info["cicp"] = code
        if "gamma" in image.info and len(first := read_png_chunk(stream, b"gAMA") or b"") == 4:
            image.info["gamma"] = int.from_bytes(first, "big") / 100000  # Pillow takes the last one
    elif image.format == "AVIF":
        from imgclassify.images.iso_boxes import read_item_properties

        _declare_nclx(image, [content for kind, content in read_item_properties(stream) if kind == b"colr"])
    elif image.format == "JPEG2000":
        from imgclassify.images.iso_boxes import iter_boxes, read_box

        boxes = iter_boxes(read_box(stream, b"jp2h"))
        first = next((content for kind, content in boxes if kind == b"colr"), b"")
        if first[:1] in (b"\2", b"\3"):  # ISO/IEC 15444-1, I.5.3.3, and 15444-2: an ICC profile
            image.info["icc_profile"] = first[3:]


def _declare_nclx(image: Image.Image, boxes: list[bytes]) -> None:
    """Stores the code points of a box "colr" (ISO/IEC 14496-12, 12.1.5) as pillow_heif does."""
    for content in boxes:
        if content[:4] == b"nclx" and len(content) >= 8:
            primaries, transfer = struct.unpack_from(">HH", content, 4)
            image.info["nclx_profile"] = {"color_primaries": primaries, "transfer_characteristics": transfer}


class _Found(NamedTuple):
    """What is declared."""

    conversion: Conversion | None
    """None if the colours stay as they are."""


def find_conversion(info: Mapping[Any, Any], mode: str) -> Conversion | None:
    """Returns the conversion to sRGB of an image's colours. None if they stay as they are.

    Args:
        info: `image.info`. Of what a file declares, Pillow stores a part there, and `declare_colors` another one.
        mode: Pillow's, of the image as it is in the file.
    """
    if mode not in _GREY_MODES and mode not in _RGB_MODES:
        return None
    is_grey = mode in _GREY_MODES
    # The order is that of PNG (third edition, 4.3). In HEIF, the profile counts before nclx.
    found = (
        _find_coded(info.get("cicp"), is_grey)
        or _find_profile(info.get("icc_profile"), is_grey)
        or _find_nclx(info.get("nclx_profile"), is_grey)
        or _find_table(info.get("transfer_function"), is_grey)
        or (None if "srgb" in info else _find_gamma(info.get("gamma"), info.get("chromaticity"), is_grey))
    )
    return found.conversion if found else None


def to_srgb(image: Image.Image) -> Image.Image:
    """Converts an image whose colours are declared to be far from sRGB.

    Returns:
        `image` itself if its colours stay as they are. Else an image in sRGB with a note as `info["colors"]`: in
        mode RGB, or RGBA if some of it may be transparent.
    """
    import numpy as np
    from PIL import Image

    conversion = find_conversion(image.info, image.mode)
    if conversion is None:
        return _note_large_profile(image)
    levels = None
    if image.mode in _DEEP_GREY_MODES:
        values = np.asarray(image)
        colors, levels = convert_samples(values, image.info.get("declared", UNDECLARED), conversion)
        if isinstance(transparent := image.info.get("transparency"), int):
            colors[values == transparent] = 255
    else:
        mode = "RGBA" if image.has_transparency_data else "RGB"
        if image.mode == "La":  # Pillow converts it only to LA
            image = image.convert("LA")
        samples = np.asarray(image.convert(mode))
        colors = conversion.to_srgb(samples[:, :, :3])
        if mode == "RGBA":
            colors = np.concatenate((colors, samples[:, :, 3:]), axis=2)
    converted = Image.fromarray(colors)
    converted.info = make_notes(conversion, levels)
    return converted


def _note_large_profile(image: Image.Image) -> Image.Image:
    if len(image.info.get("icc_profile") or b"") > MAX_BYTES:
        image = image.copy()
        image.info["colors"] = Note(
            f"its ICC profile is ignored, because it is larger than {MAX_BYTES // 2**20} MiB"
        )
    return image


def convert_samples(
    values: NDArray[Any], declared: DeclaredLevels, conversion: Conversion, *, is_negative: bool = False
) -> tuple[NDArray[np.uint8], Levels]:
    """Scales samples of any depth as `white_level.scale_to_bytes` does, and converts them to sRGB.

    Args:
        values: (height, width), or (height, width, channels) of grey or RGB.
        is_negative: whether black is white.

    Returns:
        (sRGB, (height, width, 3), the levels). PQ and HLG have the whole scale of the type if no other is declared,
        because dark images do not reach its higher half.
    """
    import numpy as np

    if conversion.is_hdr and values.dtype.kind == "u" and declared == UNDECLARED:
        declared = DeclaredLevels(white=float(np.iinfo(values.dtype).max))
    levels = choose_levels(values[:, :, 0] if values.shape[2:] == (1,) else values, declared)
    samples = scale(values, levels, declared.no_data, largest=65535).reshape(*values.shape[:2], -1)
    if is_negative:
        samples = 65535 - samples
    return conversion.to_srgb(np.broadcast_to(samples, (*samples.shape[:2], 3))), levels


def make_notes(conversion: Conversion, levels: Levels | None) -> dict[Any, Any]:
    """Returns the notes for `image.info` on a conversion. PQ and HLG say themselves which light is white."""
    return {
        "levels": None if conversion.is_hdr else levels,
        "colors": Note(f"colours converted to sRGB ({conversion.name})"),
    }


# What is declared -------------------------------------------------------------------------------------------


def _find_coded(code: object, is_grey: bool) -> _Found | None:
    if not isinstance(code, bytes) or len(code) != 4:
        return None
    conversion = coded_conversion(code[0], code[1], is_narrow=not code[3])
    return _judge(conversion, is_grey) if conversion else None


def _find_nclx(nclx: object, is_grey: bool) -> _Found | None:
    if not isinstance(nclx, dict):
        return None
    primaries, transfer = nclx.get("color_primaries"), nclx.get("transfer_characteristics")
    if not isinstance(primaries, int) or not isinstance(transfer, int):
        return None
    conversion = coded_conversion(primaries, transfer)  # the decoder has dealt with the range
    return _judge(conversion, is_grey) if conversion else None


def _find_profile(profile: object, is_grey: bool) -> _Found | None:
    if not isinstance(profile, bytes) or not profile:
        return None
    return _judge_profile(profile, is_grey)


@lru_cache(maxsize=16)  # the photographs of one camera have the same profile
def _judge_profile(profile: bytes, is_grey: bool) -> _Found | None:
    try:
        conversion = read_conversion(profile, is_grey=is_grey)
        return _judge(conversion, is_grey) if conversion else None
    except Exception:  # noqa: BLE001  (a damaged profile counts as none, and fails in many ways)
        return None


def _find_table(table: object, is_grey: bool) -> _Found | None:
    """Judges the TransferFunction of a TIFF (TIFF 6.0, section 20): light, 0..65535, for each value."""
    import numpy as np

    if not isinstance(table, np.ndarray):
        return None
    channels = 1 if len(table).bit_count() == 1 else 3
    if (len(table) // channels).bit_count() != 1 or len(table) % channels:
        return None
    curves = [partial(table_light, light) for light in table.reshape(channels, -1) / 65535]
    return _judge(curves_conversion("TransferFunction", curves * (3 // channels)), is_grey)


def _find_gamma(gamma: object, chromaticity: object, is_grey: bool) -> _Found | None:
    if not isinstance(gamma, float) or not _LEAST_GAMMA <= gamma <= _MOST_GAMMA:
        return None
    return _judge(gamma_conversion(gamma, None if is_grey else _read_chromaticities(chromaticity)), is_grey)


def _read_chromaticities(values: object) -> Chromaticities | None:
    """Returns (x, y) of red, green, blue and white from those that cHRM has, with white first. None if damaged."""
    if not isinstance(values, tuple) or len(values) != 8:
        return None
    white, red, green, blue = zip(values[::2], values[1::2], strict=True)
    if not all(x >= 0 and y > 0 and x + y <= 1 for x, y in (white, red, green, blue)):
        return None
    area = (green[0] - red[0]) * (blue[1] - red[1]) - (blue[0] - red[0]) * (green[1] - red[1])
    return (red, green, blue, white) if abs(area) > _LEAST_AREA else None


def _judge(conversion: Conversion, is_grey: bool) -> _Found | None:
    """Decides whether colours are converted. Returns None if what is declared is damaged."""
    import numpy as np

    if conversion.is_hdr:
        return _Found(conversion)
    colors = np.frombuffer(_TEST_COLORS, np.uint8).reshape(1, -1, 3)
    if is_grey:
        colors = np.repeat(colors[:, :, 1:2], 3, axis=2)
    converted = conversion.to_srgb(colors)
    if converted[0, -1].min() < _LEAST_WHITE:
        return None
    change = np.abs(converted.astype(np.float64) - colors).mean()
    return _Found(conversion if change > LEAST_CHANGE else None)
