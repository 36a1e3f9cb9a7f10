"""Turns an image upright, and converts it to RGB of 8 bits per channel."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image

from imgclassify.errors import UnsupportedImageError
from imgclassify.images.decoder_errors import silence_decoders
from imgclassify.images.info import COLOR_KEYS, NOTES, Note

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition for each EXIF orientation. Orientation 1 and values outside the eight need none."""

SWAPS_AXES = tuple(TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8))
"""The transpositions that swap width and height."""

GREY_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
"""Pillow's modes for grey of more than 8 bits."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns an image upright and converts it to mode RGB.

    Transparent pixels are laid on white. Grey of more than 8 bits is scaled to 0..255. Colours that are declared
    to be far from sRGB are converted to it. Everything else is Pillow's own conversion (docs/images.md).

    Returns:
        A new image, or `image` itself, not copied, if it is already upright and in mode RGB.

    Raises:
        UnsupportedImageError: Pillow cannot convert the colour mode.
    """
    silence_decoders()
    image.load()
    transposition = exif_transposition(image)
    try:
        rgb = convert_mode(image)
    except (ValueError, ImportError) as error:
        raise UnsupportedImageError(f"colour mode {image.mode} cannot be converted to RGB: {error}") from error
    notes: dict[Any, Any] = {key: note for key in NOTES if (note := rgb.info.get(key) or image.info.get(key))}
    if transposition is not None:
        rgb = rgb.transpose(transposition)
    if rgb is not image:
        # The orientation has been applied; left here, it would be applied a second time.
        rgb.info = notes
    return rgb


def exif_transposition(image: Image.Image) -> Image.Transpose | None:
    """Returns the transposition that turns the image upright.

    Returns None if the image is upright, or if its EXIF data is damaged.
    """
    try:
        return TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (damaged EXIF counts as none, and fails in many ways)
        return None


def has_far_colors(image: Image.Image) -> bool:
    """Whether the colours of an image are declared to be so far from sRGB that they are converted."""
    if COLOR_KEYS.isdisjoint(image.info):
        return False
    from imgclassify.images.declared_colors import find_conversion

    return find_conversion(image.info, image.mode) is not None


def convert_mode(image: Image.Image) -> Image.Image:
    """Returns the same pixels in mode RGB, and in sRGB if they are declared to be far from it."""
    if image.mode == "RGBA" and (image.format == "BMP" or "assumed_alpha" in image.info):
        image = _drop_unused_alpha(image)
    if not COLOR_KEYS.isdisjoint(image.info):
        from imgclassify.images.declared_colors import to_srgb

        image = to_srgb(image)
    if image.mode in GREY_MODES:
        return _scale_grey(image)
    if image.has_transparency_data:
        return _composite_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _drop_unused_alpha(image: Image.Image) -> Image.Image:
    """Makes an image opaque if its alpha is 0 everywhere. Many programs leave the fourth byte of a pixel at 0."""
    if image.getchannel("A").getextrema() != (0, 0):
        return image
    opaque = image.convert("RGB")
    opaque.info["alpha"] = Note("opaque, because its alpha is 0 everywhere")
    return opaque


def _composite_on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # Pillow converts it only to LA
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(image, mask=image)
    canvas.info = image.info
    return canvas


def _scale_grey(image: Image.Image) -> Image.Image:
    """Converts deep grey to RGB, as `white_level.choose_levels` says. One colour may be declared transparent."""
    import numpy as np

    from imgclassify.images.white_level import UNDECLARED, scale_to_bytes

    values = np.asarray(image)
    grey, levels = scale_to_bytes(values, image.info.get("declared", UNDECLARED))
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    rgb = Image.fromarray(grey).convert("RGB")
    rgb.info["levels"] = levels
    return rgb
