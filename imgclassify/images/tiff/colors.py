"""Converts the samples of a TIFF's page to one of Pillow's modes of 8 bits per channel."""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Any

from PIL import Image

from imgclassify.errors import UnsupportedImageError
from imgclassify.images.declared_colors import Conversion, convert_samples, find_conversion, make_notes
from imgclassify.images.icc_profiles import MAX_BYTES
from imgclassify.images.tiff.directories import Directory
from imgclassify.images.tiff.layout import (
    BLACK_IS_ZERO,
    COLOR_MAP,
    FLOAT,
    ICC_LAB,
    ICC_PROFILE,
    INT,
    LAB,
    MAX_VALUE,
    MIN_VALUE,
    NO_DATA,
    PALETTE,
    PREMULTIPLIED,
    RGB,
    S_MAX_VALUE,
    S_MIN_VALUE,
    SEPARATED,
    STORED_BITS,
    TRANSFER_FUNCTION,
    UINT,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
)
from imgclassify.images.white_level import UNDECLARED, DeclaredLevels, Levels, scale, scale_to_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def to_image(samples: NDArray[Any], layout: Layout, page: Directory) -> Image.Image:
    """Converts samples, (height, width, channels), to an image of 8 bits per channel in one of Pillow's modes."""
    declared = read_declared_colors(page)
    levels: Levels | None
    if conversion := _find_conversion(declared, layout):
        colors, levels = convert_samples(
            samples[:, :, : layout.colors],
            _declared_levels(page, layout),
            conversion,
            is_negative=layout.photometric == WHITE_IS_ZERO,
        )
        notes = make_notes(conversion, levels)
    else:
        colors, levels = _TO_BYTES.get(layout.photometric, _scaled_colors)(samples, layout, page)
        if layout.photometric == WHITE_IS_ZERO:
            colors = 255 - colors
        notes = {**declared, "levels": levels}
    mode = _MODES.get(layout.photometric, "RGB" if colors.shape[2] == 3 else "L")
    image = _image_of(mode, colors)
    if layout.alpha is not None:
        if mode not in ("L", "RGB"):
            image, mode = image.convert("RGB"), "RGB"
        premultiplied = layout.extras[layout.alpha - layout.colors] == PREMULTIPLIED
        alpha = _image_of("L", _alpha_bytes(samples[:, :, -1:], layout, levels))
        bands = {"L": ("LA", "La"), "RGB": ("RGBA", "RGBa")}[mode][premultiplied]
        image = Image.merge(bands, (*image.split(), alpha))
    image.info = notes
    return image


def read_declared_colors(page: Directory) -> dict[Any, Any]:
    """Reads in which colours a page says that its samples are, with the keys that they have in `image.info`."""
    found: dict[Any, Any] = {}
    with suppress(EOFError, ValueError):
        if profile := page.content(ICC_PROFILE, MAX_BYTES + 1):
            found["icc_profile"] = profile
        if TRANSFER_FUNCTION in page.entries:
            found["transfer_function"] = page.array(TRANSFER_FUNCTION, 3 * 2**16)
    return found


def _find_conversion(declared: dict[Any, Any], layout: Layout) -> Conversion | None:
    """Returns the conversion of samples of more than 8 bits. Those of 8 bits are converted later."""
    if layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or (layout.bits, layout.sample_format) == (
        8,
        UINT,
    ):
        return None
    return find_conversion(declared, "L" if layout.colors == 1 else "RGB")


def _image_of(mode: str, channels: NDArray[np.uint8]) -> Image.Image:
    height, width = channels.shape[:2]
    return Image.frombytes(mode, (width, height), channels.tobytes())


def _full_scale(layout: Layout) -> float:
    """Returns the largest value of the samples' type, which is white where levels are not chosen."""
    return 1.0 if layout.sample_format == FLOAT else float(2 ** (layout.bits - (layout.sample_format == INT)) - 1)


def _scaled_colors(
    samples: NDArray[Any], layout: Layout, page: Directory
) -> tuple[NDArray[np.uint8], Levels | None]:
    colors = samples[:, :, : layout.colors]
    declared = _declared_levels(page, layout)
    scaled, levels = scale_to_bytes(colors[:, :, 0] if layout.colors == 1 else colors, declared)
    return scaled.reshape(colors.shape), levels


def _scaled_inks(samples: NDArray[Any], layout: Layout, page: Directory) -> tuple[NDArray[np.uint8], Levels | None]:
    return scale(samples[:, :, : layout.colors], Levels(0, _full_scale(layout), "")), None


def _palette_colors(
    samples: NDArray[Any], layout: Layout, page: Directory
) -> tuple[NDArray[np.uint8], Levels | None]:
    import numpy as np

    table = page.array(COLOR_MAP, 3 * 2**16)
    if layout.sample_format != UINT or layout.bits > 16 or len(table) != 3 * 2**layout.bits:
        raise ValueError(f"a palette of {len(table) // 3} colours for {layout.bits} bits")
    # A palette of 16 bits a channel; some programs write one of 8.
    table = (table >> 8 if table.max() > 255 else table).astype(np.uint8).reshape(3, -1)
    return table.T[samples[:, :, 0]], None


def _lab_colors(samples: NDArray[Any], layout: Layout, page: Directory) -> tuple[NDArray[np.uint8], Levels | None]:
    """Returns L* 0..255 and a*, b* in two's complement, as Pillow has them in mode LAB.

    CIELab has a* and b* signed. ICCLab has 128, or in 16 bits 32768, added. 16 bits are 256 times 8 bits, but L* of
    100 is 65535 in CIELab, and 0xFF00 in ICCLab (TIFF 6.0, section 23; Adobe Photoshop TIFF Technical Notes).
    """
    import numpy as np

    if layout.bits not in (8, 16) or layout.sample_format == FLOAT:
        raise UnsupportedImageError(f"a TIFF whose colours are Lab of {layout.bits} bits is not supported")
    lab = samples[:, :, :3].astype(f"u{samples.dtype.itemsize}")
    if layout.bits == 16:
        lightness = lab[:, :, :1] * np.float32(255 / (65535 if layout.photometric == LAB else 0xFF00))
        lab = np.concatenate((np.rint(lightness.clip(0, 255)).astype(np.uint16), lab[:, :, 1:] >> 8), axis=2)
    colors = lab.astype(np.uint8)
    if layout.photometric == ICC_LAB:
        colors[:, :, 1:] ^= 0x80
    return colors, None


def _plain_bytes(samples: NDArray[Any], layout: Layout, page: Directory) -> tuple[NDArray[np.uint8], Levels | None]:
    return samples[:, :, :3], None


_TO_BYTES = {
    SEPARATED: _scaled_inks,
    PALETTE: _palette_colors,
    LAB: _lab_colors,
    ICC_LAB: _lab_colors,
    YCBCR: _plain_bytes,
}
_MODES = {SEPARATED: "CMYK", LAB: "LAB", ICC_LAB: "LAB", YCBCR: "YCbCr"}


def _alpha_bytes(alpha: NDArray[Any], layout: Layout, levels: Levels | None) -> NDArray[np.uint8]:
    """Scales alpha: by the levels of the colours if it fits them, else by what its type holds."""
    full = _full_scale(layout)
    if levels and levels.black == 0 and alpha.max() <= levels.white:
        full = levels.white
    return scale(alpha, Levels(0, full, ""))


def _declared_levels(page: Directory, layout: Layout) -> DeclaredLevels:
    """Reads what a page says about its values.

    A depth that is no size of a NumPy type is declared as well: 12 bits are never stored in 12 bits by chance.
    """
    if (layout.bits, layout.sample_format) == (8, UINT):
        return UNDECLARED
    no_data = None
    with suppress(ValueError):
        no_data = float(page.content(NO_DATA).rstrip(b"\0 ") or b"nan")
    declared = DeclaredLevels(no_data=no_data if no_data == no_data else None)
    for low, high in ((S_MIN_VALUE, S_MAX_VALUE), (MIN_VALUE, MAX_VALUE)):
        whites = page.numbers(high)[: layout.colors]
        blacks = page.numbers(low)[: layout.colors]
        black, white = float(min(blacks, default=0)), float(max(whites, default=0))
        if black < white and isfinite(white - black):
            return declared._replace(black=black, white=white)
    if layout.bits not in STORED_BITS[layout.sample_format]:
        return declared._replace(white=_full_scale(layout))
    return declared
