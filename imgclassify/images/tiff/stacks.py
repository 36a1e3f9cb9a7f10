"""Finds the images of a TIFF that has one directory for all of them, one behind the other.

ImageJ writes files of more than 4 GiB so, and tifffile with `truncate=True`.
"""

from __future__ import annotations

import io
import json
import math
import re
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from imgclassify.images.tiff.directories import STRIP_OFFSETS, Directory
from imgclassify.images.tiff.layout import COMPRESSION, NONE, TILE_OFFSETS, read_layout

_DESCRIPTION = 270
_IMAGEJ = re.compile(rb"ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)


class Stack(NamedTuple):
    """Images that lie one behind the other."""

    images: int
    """How many there are."""
    stated: int
    """How many there are said to be."""
    image_bytes: int


def find_stack(stream: BinaryIO, page: Directory) -> Stack | None:
    """Returns the stack of which a page is the first image.

    Returns:
        None if the page is a single image. So it is if the description says otherwise, but nothing follows the
        first one, or the directory does: programs copy descriptions.
    """
    if page.number(COMPRESSION, NONE) != NONE or TILE_OFFSETS in page.entries or STRIP_OFFSETS not in page.entries:
        return None
    description = page.content(_DESCRIPTION)
    if not description.startswith((b"ImageJ=", b"{")):
        return None
    layout = read_layout(page)
    planes = layout.samples if layout.planar else 1
    image_bytes = layout.row_bytes * layout.height * planes
    stated = _read_count(description, layout.height * layout.width * layout.samples)
    first = int(page.array(STRIP_OFFSETS, 1)[0])
    room = stream.seek(0, io.SEEK_END) - first
    if stated < 2 or room <= image_bytes or page.offset > first:
        return None
    return Stack(min(room // image_bytes, stated), stated, image_bytes)


def _read_count(description: bytes, image_samples: int) -> int:
    """Returns how many images a description names, 1 if it names none."""
    if found := _IMAGEJ.match(description):
        return int(found[1])
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        described = json.loads(description.rstrip(b"\0"))
        if described.get("truncated"):
            samples = math.prod(int(side) for side in described["shape"])
            return max(1, samples // image_samples)
    return 1
