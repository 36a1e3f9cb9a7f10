"""Opens a TIFF: chooses its pages, and lets Pillow read them, or the modules beside this one.

Pillow reads pages of up to 8 bits whose samples lie together. It does not know, or gets wrong, many others.
"""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin

from imgclassify.errors import ImageError, ImageTooLargeError, TruncatedImageError, UnsupportedImageError
from imgclassify.images import camera_raw
from imgclassify.images.frames import NumberedFrames, check_pixels
from imgclassify.images.tiff.colors import read_declared_colors, to_image
from imgclassify.images.tiff.directories import (
    HEIGHT,
    MAX_PAGES,
    WIDTH,
    Directory,
    Page,
    choose_pages,
    read_pages,
    starting_at,
)
from imgclassify.images.tiff.layout import (
    BITS,
    COMPRESSION,
    DEPTH,
    EXTRA_SAMPLES,
    JPEG,
    NONE,
    OLD_JPEG,
    ORIENTATION,
    PHOTOMETRIC,
    PILLOW_CODECS,
    PLANAR,
    RGB,
    SAMPLE_FORMAT,
    SAMPLES,
    TILE_HEIGHT,
    TILE_WIDTH,
    UINT,
    YCBCR,
    read_layout,
)
from imgclassify.images.tiff.libtiff import has_codec, silence_libtiff
from imgclassify.images.tiff.samples import read_samples, unpacked_layout
from imgclassify.sources import MAX_BYTES

_RAW_DIRECTORIES = 8
"""How many directories are looked at to tell a camera RAW."""


def open_tiff(stream: BinaryIO, max_pixels: int) -> TiffPages | Image.Image:
    """Opens a TIFF.

    Args:
        stream: seekable.
        max_pixels: limit on width × height of a page, and of one of its tiles.

    Returns:
        The pages, or the image of a camera RAW.

    Raises:
        UnsupportedImageError: the file is a camera RAW and the extra that develops it is not installed.
        Exception: the file is damaged.
    """
    silence_libtiff()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size <= MAX_BYTES and not isinstance(stream, io.BytesIO):
        # libtiff would map a file into memory. If another program truncated the file meanwhile, this process
        # would be killed.
        stream = io.BytesIO(stream.read())
    first: list[Directory] = []
    with suppress(ImageError):  # of a later page; those before it are read
        first.extend(islice(read_pages(stream), _RAW_DIRECTORIES))
    if camera_raw.has_raw_directory([*first, *(inner for page in first for inner in page.read_inner())]):
        return camera_raw.open_raw(stream, max_pixels)
    return TiffPages(stream, max_pixels)


class TiffPages(NumberedFrames):
    """The pages of a TIFF that are not tagged as a reduced version or as the mask of another; see frames.Frames."""

    first = 0

    def __init__(self, stream: BinaryIO, max_pixels: int) -> None:
        self._stream = stream
        self._pages, self.missing = choose_pages(read_pages(stream))
        if len(self._pages) == 1:
            self._find_stack(self._pages[0])
        self._max_pixels = max_pixels
        self._image: TiffImagePlugin.TiffImageFile | None = None
        self.count = len(self._pages)

    def _find_stack(self, page: Page) -> None:
        """Replaces a page by the images that lie behind it, if it stands for a stack."""
        from imgclassify.images.tiff.stacks import find_stack

        with suppress(Exception):  # the page says what is wrong when it is opened
            stack = find_stack(self._stream, page.read(self._stream))
            if stack is None:
                return
            count = min(stack.images, MAX_PAGES)
            self._pages = [page._replace(shift=index * stack.image_bytes) for index in range(count)]
            if count < stack.images:
                self.missing = ImageTooLargeError(f"more than {MAX_PAGES} pages")
            elif count < stack.stated:
                self.missing = TruncatedImageError(
                    f"damaged TIFF file: {count} of its {stack.stated} images are there"
                )

    def open(self, key: int) -> Image.Image:
        """Opens a page.

        Returns:
            A Pillow file whose pixels are not decoded yet; or, for a layout that is not Pillow's, an image of 8
            bits per channel in one of Pillow's modes, with its levels as `info["levels"]`. Neither is upright.

        Raises:
            UnsupportedImageError: the layout or the compression is not supported.
            ImageTooLargeError: a limit is exceeded.
            TruncatedImageError: a strip or tile is beyond the end of the file.
            Exception: the file is damaged.
        """
        position, page = self._pages[key].position, self._pages[key].read(self._stream)
        check_pixels((page.number(WIDTH, 0), page.number(HEIGHT, 0)), self._max_pixels)
        check_pixels((page.number(TILE_WIDTH, 0), page.number(TILE_HEIGHT, 0)), self._max_pixels, "a tile of ")
        if page.number(DEPTH, 1) > 1:
            raise UnsupportedImageError("a TIFF of a volume (ImageDepth) is not supported")
        # Pillow opens one of the SubIFDs only in a copy of the file.
        if _is_plain(page) and (position is not None or isinstance(self._stream, io.BytesIO)):
            try:
                image = self._open_with_pillow(page, position)
            except SyntaxError:  # a combination of photometric interpretation and channels that it does not know
                pass
            else:
                if not isinstance(
                    image.info.get("xmp", b""), bytes
                ):  # which Pillow would search for an orientation
                    del image.info["xmp"]
                image.info |= {**read_declared_colors(page), **_assumed_alpha(page)}
                if page.number(COMPRESSION) == OLD_JPEG:
                    _load_old_jpeg(image)
                return image
        return _read_page(self._stream, page, self._max_pixels)

    def _open_with_pillow(self, page: Directory, position: int | None) -> TiffImagePlugin.TiffImageFile:
        if position is None:
            return TiffImagePlugin.TiffImageFile(starting_at(self._stream, page))
        # Pillow follows the directories one by one, so a later page is opened from the one before it.
        if self._image is None or self._image.tell() >= position:
            self._stream.seek(0)
            self._image = TiffImagePlugin.TiffImageFile(self._stream)
        if self._image.tell() != position:
            self._image.info.clear()  # of what the page before declares
            self._image.seek(position)
        return self._image


def _is_plain(page: Directory) -> bool:
    """Whether Pillow reads the page rightly, if it reads it at all."""
    compression = page.number(COMPRESSION, NONE)
    return (
        not page.shift
        and not (page.big and page.order == ">")  # which Pillow takes for a TIFF of another form
        # Before version 13, Pillow takes four bytes for each of its pixels.
        and not (compression == NONE and page.number(PHOTOMETRIC) == YCBCR)
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
    block_bytes = unpacked_layout(layout).row_bytes * layout.block_height
    if block_bytes > 8 * max_pixels:
        raise ImageTooLargeError(f"a strip or tile of {block_bytes} bytes, and the limit is {8 * max_pixels}")
    image = to_image(read_samples(stream, page, layout), layout, page)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = page.number(ORIENTATION, 1)
    image.info |= {"exif": exif.tobytes(), **_assumed_alpha(page)}
    return image


def _assumed_alpha(page: Directory) -> dict[Any, Any]:
    """Returns the mark for `image.info` of a page of RGB with a fourth channel that is not said to be alpha."""
    is_assumed = (page.number(PHOTOMETRIC), page.number(SAMPLES)) == (RGB, 4) and EXTRA_SAMPLES not in page.entries
    return {"assumed_alpha": True} if is_assumed else {}
