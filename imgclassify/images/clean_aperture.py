"""Reads the clean aperture of an AVIF: the part of the stored image that is to be shown.

Pillow applies the rotation and the mirroring of the container, but not this (ISO/IEC 14496-12, 12.1.4.1;
ISO/IEC 23008-12, 6.5.9). libheif applies it, so HEIF files need nothing here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress


def find_clean_aperture(
    properties: Iterable[tuple[bytes, bytes]], size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Returns the box (left, top, right, bottom) that is to be shown of an image, in its pixels.

    Args:
        properties: of the image, as from `iso_boxes.read_item_properties`.
        size: (width, height) of the stored image.

    Returns:
        None if there is no clean aperture, or one that is damaged, empty or not inside the image.
    """
    for kind, content in properties:
        if kind == b"clap":
            with suppress(ValueError, struct.error, ZeroDivisionError):
                return _to_box(struct.unpack_from(">IIIIiIiI", content), size)
    return None


def _to_box(aperture: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    shown = [aperture[at] / aperture[at + 1] for at in range(0, 8, 2)]
    box = []
    for side, extent, offset in zip(size, shown[:2], shown[2:], strict=True):
        # The offset is that of the centres of the two.
        start = offset + (side - 1) / 2 - (extent - 1) / 2
        box.append((round(start), round(start + extent)))
    (left, right), (top, bottom) = box
    if 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]:
        return left, top, right, bottom
    return None
