"""Defines what is known of a decoded image besides its pixels."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image


class ImageInfo(NamedTuple):
    """What is known of a decoded image besides its pixels."""

    width: int
    """Pixels, of the upright image."""
    height: int
    frames: int | None = None
    """How many frames or pages the file has. None if that cannot be known, or the image was in memory."""
    frame: int | None = None
    """Which of them this is, from 1. None if the image was in memory."""
    damaged: bool = False
    """Whether a part of the pixels is missing."""

    @classmethod
    def of(cls, image: Image.Image, size: tuple[int, int] | None = None) -> ImageInfo:
        """Describes an image that `decoding` has decoded.

        Args:
            image: its `info` has "frames" and "frame", unless it is the only one, and "damaged" if it is so.
            size: (width, height), if they are not those of `image`.
        """
        known = image.info
        width, height = size or image.size
        return cls(width, height, known.get("frames", 1), known.get("frame", 1), "damaged" in known)


class Note(str):
    """A text for people about what was done with an image. A text that the file contains is not one."""

    __slots__ = ()


COLOR_KEYS = frozenset({"cicp", "icc_profile", "nclx_profile", "gamma", "transfer_function"})
"""The keys of `image.info` that declare colours. Pillow sets "icc_profile" and "gamma", pillow_heif "nclx_profile",
and this package the others."""

NOTES = ("levels", "colors", "alpha")
"""The keys of `image.info` that say, for people, what was done with the samples."""
