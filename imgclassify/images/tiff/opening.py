"""Opens a TIFF: chooses its page, and lets Pillow read it, or the modules beside this one.

Pillow reads pages of up to 8 bits whose samples lie together. It does not know, or gets wrong, many others.
"""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin

from imgclassify.errors import ImageTooLargeError, UnsupportedImageError
from imgclassify.images import camera_raw
from imgclassify.images.tiff.colors import to_image
from imgclassify.images.tiff.directories import HEIGHT, WIDTH, Directory, choose_page, read_pages, starting_at
from imgclassify.images.tiff.layout import (
    BITS,
    COMPRESSION,
    JPEG,
    NONE,
    OLD_JPEG,
    ORIENTATION,
    PHOTOMETRIC,
    PILLOW_CODECS,
    PLANAR,
    SAMPLE_FORMAT,
    SAMPLES,
    TILE_HEIGHT,
    TILE_WIDTH,
    UINT,
    YCBCR,
    has_whole_chroma,
    read_layout,
)
from imgclassify.images.tiff.libtiff import has_codec, silence_libtiff
from imgclassify.images.tiff.samples import read_samples
from imgclassify.sources import MAX_BYTES


def open_tiff(stream: BinaryIO, max_pixels: int) -> Image.Image:
    """Opens a TIFF at the first page that is not tagged as reduced.

    Args:
        stream: seekable.
        max_pixels: limit on width × height of the page, and of one of its tiles.

    Returns:
        A Pillow file whose pixels are not decoded yet; or, for a layout that is not Pillow's, an image of 8 bits
        per channel in one of Pillow's modes, with its levels as `info["levels"]`. Neither is upright.

    Raises:
        UnsupportedImageError: the layout or the compression is not supported, or the file is a camera RAW and
            the extra that develops it is not installed.
        ImageTooLargeError: a limit is exceeded.
        TruncatedImageError: a strip or tile is beyond the end of the file.
        Exception: the file is damaged.
    """
    silence_libtiff()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size <= MAX_BYTES:
        # libtiff would map a file into memory. If another program truncated the file meanwhile, this process
        # would be killed.
        stream = io.BytesIO(stream.read())
    pages = _read_first_pages(stream)
    if camera_raw.has_raw_directory([*pages, *(inner for page in pages for inner in page.read_inner())]):
        return camera_raw.open_raw(stream, max_pixels)
    page = choose_page(pages)
    _check_pixels(page, max_pixels)
    if _is_plain(page) and (page is pages[0] or size <= MAX_BYTES):
        if page is not pages[0]:
            stream = starting_at(stream, page)
        stream.seek(0)
        try:
            image = TiffImagePlugin.TiffImageFile(stream)
        except SyntaxError:  # a combination of photometric interpretation and channels that Pillow does not know
            pass
        else:
            if not isinstance(image.info.get("xmp", b""), bytes):  # which Pillow would search for an orientation
                del image.info["xmp"]
            if page.number(COMPRESSION) == OLD_JPEG:
                _load_old_jpeg(image)
            return image
    return _read_page(stream, page, max_pixels)


def _read_first_pages(stream: BinaryIO) -> list[Directory]:
    """Reads the directories up to the first page that is not reduced, and two more: a RAW's may come later."""
    pages, more = [], 2
    for page in read_pages(stream):
        pages.append(page)
        if not pages[0].is_reduced or not page.is_reduced:
            more -= 1
        if more < 0:
            break
    return pages


def _check_pixels(page: Directory, max_pixels: int) -> None:
    for what, width, height in (
        ("", page.number(WIDTH, 0), page.number(HEIGHT, 0)),
        ("a tile of ", page.number(TILE_WIDTH, 0), page.number(TILE_HEIGHT, 0)),
    ):
        if width * height > max_pixels:
            raise ImageTooLargeError(
                f"{what}{width} × {height} is {width * height} pixels, and the limit is {max_pixels}"
            )


def _is_plain(page: Directory) -> bool:
    """Whether Pillow reads the page rightly, if it reads it at all."""
    compression = page.number(COMPRESSION, NONE)
    return (
        not (page.big and page.order == ">")  # which Pillow takes for a TIFF of another form
        and not (compression == NONE and page.number(PHOTOMETRIC) == YCBCR and not has_whole_chroma(page))
        and max(page.numbers(BITS, (1,))) <= 8
        and set(page.numbers(SAMPLE_FORMAT)) <= {UINT, 4}  # 4: undefined
        and (page.number(PLANAR, 1) != 2 or page.number(SAMPLES, 1) == 1 or compression in (OLD_JPEG, JPEG))
        and compression in PILLOW_CODECS
        and has_codec(compression)
    )


def _load_old_jpeg(image: Image.Image) -> None:
    """Decodes a page of TIFF 6.0's JPEG compression, which was never specified fully."""
    try:
        image.load()
    except OSError as error:
        raise UnsupportedImageError("the old-style JPEG compression of this TIFF is not supported") from error


def _read_page(stream: BinaryIO, page: Directory, max_pixels: int) -> Image.Image:
    layout = read_layout(page)
    block_bytes = layout.row_bytes * layout.block_height
    if block_bytes > 8 * max_pixels:
        raise ImageTooLargeError(f"a strip or tile of {block_bytes} bytes, and the limit is {8 * max_pixels}")
    image = to_image(read_samples(stream, page, layout), layout, page)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = page.number(ORIENTATION, 1)
    image.info["exif"] = exif.tobytes()
    return image
