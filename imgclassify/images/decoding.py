"""Decodes an image to RGB, upright, within limits that protect against hostile files.

Nothing is resized here, except that a JPEG can be decoded at a smaller scale on request. Every function may be
called from many threads at once.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import struct
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, cast

from PIL import ExifTags, Image

from imgclassify.errors import (
    CorruptImageError,
    ImageEmptyError,
    ImageError,
    ImageTooLargeError,
    ImageUnreadableError,
    NotAnImageError,
    TruncatedImageError,
    UnsupportedImageError,
    describe_error,
    name_type,
    with_article,
)
from imgclassify.images import MAX_PIXELS, camera_raw
from imgclassify.images.frames import MAX_BLANK_FRAMES, Frames, FrameSelection, PillowFrames, is_blank
from imgclassify.images.info import COLOR_KEYS, NOTES, Note
from imgclassify.images.truncation import is_truncated
from imgclassify.sources import MAX_BYTES, Source

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from imgclassify.catalog import Size

logger = logging.getLogger("imgclassify")

T = TypeVar("T")

MAX_SCANS = 100
"""Limit on the scans of a JPEG. Encoders write ten. Each scan takes as long to decode as the whole image, but
needs only a few bytes."""


class _Decoder(NamedTuple):
    """One image format: how its files begin, and the class that reads them.

    The class is called directly. `Image.open` would import every Pillow plugin to find a rare format. It would
    also apply Pillow's own pixel limit, which can only be lifted through Pillow's globals.
    """

    format: str
    signature: re.Pattern[bytes]
    module: str
    reader: str
    missing: str = "the installed Pillow was built without this format"
    """The error message if the class cannot be used."""
    reads_whole_file: bool = False
    """Whether the class reads the whole file before it looks at the header."""
    checks_pixels: bool = False
    """Whether `reader` is a function of this package, which takes the limit on pixels as its second argument."""


def _define_decoder(format_name: str, signature: bytes, module: str, reader: str, **more: Any) -> _Decoder:
    return _Decoder(format_name, re.compile(signature, re.DOTALL), module, reader, **more)


_RAW_DECODER = _define_decoder(
    "camera RAW", camera_raw.SIGNATURES, "imgclassify.images.camera_raw", "open_raw", checks_pixels=True
)
"""Checked before _DECODERS, because some camera RAW files begin as a TIFF does."""

# AVIF comes before HEIF: files of both may have the brand "mif1", and only AVIF's own brands tell them apart.
_DECODERS = (
    # Also matches MPO files, of which this class reads the first image.
    _define_decoder("JPEG", rb"\xff\xd8\xff", "PIL.JpegImagePlugin", "JpegImageFile"),
    _define_decoder("PNG", rb"\x89PNG\r\n\x1a\n", "imgclassify.images.png", "open_png"),
    _define_decoder("WEBP", rb"RIFF.{4}WEBP", "PIL.WebPImagePlugin", "WebPImageFile", reads_whole_file=True),
    _define_decoder("GIF", rb"GIF8[79]a", "PIL.GifImagePlugin", "GifImageFile"),
    _define_decoder(
        "TIFF", rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", "imgclassify.images.tiff", "open_tiff", checks_pixels=True
    ),
    # Includes the length of the second header. Otherwise every text that begins with "BM" would be a damaged
    # bitmap.
    _define_decoder("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "PIL.BmpImagePlugin", "BmpImageFile"),
    _define_decoder("PPM", rb"P[1-6f]\s+[#\d]", "PIL.PpmImagePlugin", "PpmImageFile"),
    _define_decoder(
        "AVIF", rb".{4}ftyp(.{4}){0,13}?avi[fs]", "PIL.AvifImagePlugin", "AvifImageFile", reads_whole_file=True
    ),
    _define_decoder(
        "HEIF",
        rb".{4}ftyp(.{4}){0,13}?(he[iv][cxms]|mif[12]|msf1)",
        "pillow_heif",
        "HeifImageFile",
        reads_whole_file=True,
        missing="HEIC needs the extra imgclassify[heif]: pip install pillow-heif",
    ),
    _define_decoder(
        "JPEG2000", rb"\xff\x4f\xff\x51|\0{3}\x0cjP  \r\n\x87\n", "PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"
    ),
    _define_decoder(
        "JPEGXL",
        rb"\xff\x0a|\0{3}\x0cJXL \r\n\x87\n",
        "imgclassify.images.jpeg_xl",
        "JpegXlImageFile",
        reads_whole_file=True,
        missing="JPEG XL needs the extra imgclassify[jxl]: pip install pillow-jxl-plugin",
    ),
    _define_decoder(
        "DICOM",
        rb".{128}DICM",
        "imgclassify.images.dicom",
        "DicomImageFile",
        reads_whole_file=True,
        missing="DICOM needs the extra imgclassify[dicom]: pip install pydicom",
    ),
)

IMAGE_FORMATS = tuple(decoder.format for decoder in _DECODERS)
"""The formats that are opened, by Pillow's names. Formats that run a program, contain scripts or have no
signature are not opened."""

JPEG_SCALES = (8, 4, 2)
"""Divisors of the size at which libjpeg can decode a JPEG. A smaller scale takes less work, because
frequencies are left out."""

REDUCED_MARGIN = 2
"""The smallest size of a reduced image, as a multiple of the size to which it is resized. With 2, the resize
still averages over several pixels, as it does with the full image."""

_MAX_BLANK_PIXELS = 2**29
"""How many pixels of blank frames are decoded before the search for a frame that is not blank ends."""
_HEADER_BYTES = 132
"""How many of the first bytes the signatures need. A DICOM file has its own after 128 others."""
_START_OF_SCAN = b"\xff\xda"
_LIBHEIF_LIMIT = "Security limit exceeded: "
"""Part of libheif's error messages for files beyond its own limits."""
_OUT_OF_MEMORY = re.compile(r"out of memory|memory allocation|error -9$", re.IGNORECASE)
"""Error messages of decoders that cannot allocate memory and raise something other than MemoryError. For
libtiff, Pillow reports only the number."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition for each EXIF orientation. Orientation 1 and values outside the eight need none."""

SWAPS_AXES = tuple(_TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8))
"""The transpositions that swap width and height."""

_GREY_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
"""Pillow's modes for grey of more than 8 bits."""

_UNSUPPORTED = re.compile(r"unsupported (BMP|feature)|unable to determine J2K image mode", re.IGNORECASE)
"""Error messages of Pillow and libheif for files that are whole, but of a kind that they do not decode."""
_DISK_FAILURES = {errno.EIO, errno.ESTALE}

FAILURES = (CorruptImageError, TruncatedImageError, UnsupportedImageError, NotAnImageError, ImageEmptyError)
"""Errors of a file that was made of a damaged one. The error of the damaged one is reported instead."""

_WARNING_MODULES = r"(PIL|pillow_heif|pillow_jxl|pydicom|imgclassify\.images\.dicom)\b"
# The entry that `warnings.filterwarnings` adds to `warnings.filters`. It shows whether the filter is still
# there.
_WARNING_FILTER = ("ignore", None, Warning, re.compile(_WARNING_MODULES), 0)
_silencing = threading.Lock()


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
    """Decodes the image of a source: the frame that it names, or the first that is not blank.

    Args:
        max_pixels: limit on width × height.
        decode_damaged: whether to decode what there is of a damaged image (docs/images.md). If a part of it is
            missing, its `info["damaged"]` is True. A frame that the source names is never decoded in part.

    Returns:
        The image, upright, in mode RGB, with 8 bits per channel and at least 1×1 pixels.

    Raises:
        ImageError: one of its subclasses. No other exception is raised.
    """
    if source.frame is not None and source.frame.reader is not None:
        image = source.frame.reader.read(source.frame.name, max_pixels)
    elif source.frame is not None:
        name = source.frame.name
        with source.open() as stream:
            image = _use_image(stream, max_pixels, False, lambda opened: opened.decode(opened.find(name)))
    else:
        with source.open() as stream:
            image = decode_image(stream, max_pixels=max_pixels, decode_damaged=decode_damaged)
    _report_notes(source, image)
    return cast(Image.Image, image)


def decode_image(stream: BinaryIO, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
    """Decodes the image of a stream, as `load_image` does.

    Args:
        stream: seekable and at its start. It stays open.
        max_pixels: limit on width × height.
        decode_damaged: as in `load_image`.

    Raises:
        ImageEmptyError: the stream contains no bytes.
        NotAnImageError: the stream does not begin like any of IMAGE_FORMATS.
        TruncatedImageError: the stream begins like one of them, but ends before its format says that it does.
        CorruptImageError: the stream begins like one of them, but cannot be decoded to its end.
        ImageTooLargeError: the image has more than `max_pixels` pixels, which is found before any pixel is
            decoded, or it exceeds another limit (docs/images.md).
        ImageUnreadableError: the disk failed.
        UnsupportedImageError: a package for the format is missing, or its colours cannot be converted to RGB.
    """
    return _use_image(stream, max_pixels, decode_damaged, OpenedImage.decode_first)


def load_reduced_image(
    source: Source,
    resized_size: Callable[[Size], Size],
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes the first image of a source, and a JPEG at the smallest scale that is large enough.

    Other formats are decoded as by `load_image`.

    Args:
        resized_size: takes the upright size of the full image and returns the size to which it will be resized,
            both (height, width).
        max_pixels: limit on width × height of the full image.
        decode_damaged: as in `load_image`.

    Returns:
        (image, (width, height) of the full image, upright). The image is the full one, or it is reduced to a
        half, a quarter or an eighth of its size, rounded up. Both sides of a reduced image are at least
        REDUCED_MARGIN times the sides that `resized_size` returns.

    Raises:
        ImageError: one of its subclasses. No other exception is raised.
    """
    if source.frame is not None:  # a JPEG has only one
        image = load_image(source, max_pixels=max_pixels)
        return image, image.size
    with source.open() as stream:
        image, full_size = decode_reduced_image(
            stream, resized_size, max_pixels=max_pixels, decode_damaged=decode_damaged
        )
    _report_notes(source, image)
    return image, full_size


def _report_notes(source: Source, image: Image.Image) -> None:
    """Says what was done with an image's samples that is not the same for all. Shown with --verbose."""
    for key in NOTES:
        if note := image.info.get(key):
            logger.info("%s: %s", source.name, note)
    if left_out := image.info.get("left_out"):
        logger.info("%s: not read, because it is damaged, too large or not needed: %s", source.name, left_out)


def decode_reduced_image(
    stream: BinaryIO,
    resized_size: Callable[[Size], Size],
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes the first image of a stream, as `load_reduced_image` does.

    Args:
        stream: seekable and at its start. It stays open.
        resized_size: as in `load_reduced_image`.
        max_pixels: limit on width × height of the full image.
        decode_damaged: as in `load_image`.

    Raises:
        ImageError: as in `decode_image`.
    """
    return _use_image(stream, max_pixels, decode_damaged, lambda opened: opened.decode_reduced(resized_size))


def read_orientation(source: Source, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> int:
    """Returns the EXIF orientation that the decoding functions apply, 1 to 8. 1 means upright.

    The image is decoded, because some formats have their EXIF data at the end.

    Raises:
        ImageError: as in `decode_image`.
    """

    def find(opened: OpenedImage) -> Image.Transpose | None:
        return opened.read_transposition(None if source.frame is None else opened.find(source.frame.name))

    with source.open() as stream:
        transposition = _use_image(stream, max_pixels, decode_damaged, find)
    return next((number for number, each in _TRANSPOSITIONS.items() if each == transposition), 1)


def image_from_memory(image_like: Image.Image | ArrayLike) -> Image.Image:
    """Converts a PIL image or an array to an image such as `load_image` returns.

    Args:
        image_like: a PIL image, or a uint8 array of shape (H, W, 3) in RGB or (H, W) in grey.

    Raises:
        UnsupportedImageError: the array has another shape or dtype, or Pillow cannot convert the colours.
        ImageError: the PIL image is not loaded yet and cannot be decoded, as in `decode_image`.
    """
    if isinstance(image_like, Image.Image):
        with _translate_errors(image_like.format or "image"):
            if not image_like.width * image_like.height:
                raise CorruptImageError(f"an image of {image_like.width}×{image_like.height} has no pixels")
            return to_rgb(image_like)
    import numpy as np

    try:
        array = np.asarray(image_like).copy()  # a copy, because the image may share the array's memory
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedImageError(
            f"{name_type(image_like)} cannot be converted to an array: {describe_error(error)}"
        ) from error
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (3,)) or array.ndim < 2 or not array.size:
        raise UnsupportedImageError(
            f"an array must be (H, W, 3) or (H, W) uint8, but this one is {array.shape} {array.dtype}"
        )
    return to_rgb(Image.fromarray(array))


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
        rgb = _convert_mode(image)
    except (ValueError, ImportError) as error:
        raise UnsupportedImageError(f"colour mode {image.mode} cannot be converted to RGB: {error}") from error
    notes: dict[Any, Any] = {key: note for key in NOTES if (note := rgb.info.get(key) or image.info.get(key))}
    if transposition is not None:
        rgb = rgb.transpose(transposition)
    if rgb is not image:
        # The orientation has been applied; left here, it would be applied a second time.
        rgb.info = notes
    return rgb


# Decoding ---------------------------------------------------------------------------------------------------


def _use_image(stream: BinaryIO, max_pixels: int, decode_damaged: bool, use: Callable[[OpenedImage], T]) -> T:
    """Opens an image and returns what a function returns for it.

    If the file is damaged, the function is called again, with the image of a file without what is damaged beside
    the pixels, or, if `decode_damaged` is True, with what there is of the pixels.

    Args:
        use: must decode the image.
    """
    try:
        return use(OpenedImage(stream, max_pixels))
    except (CorruptImageError, TruncatedImageError) as error:
        _release_frames(error)
        for open_repaired in repairs(stream, max_pixels, decode_damaged=decode_damaged):
            with suppress(*FAILURES):
                return use(open_repaired())
        raise


def _release_frames(error: BaseException | None) -> None:
    """Releases what was held when an exception was raised, such as the pixels decoded by then."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def repairs(
    stream: BinaryIO, max_pixels: int | None, *, decode_damaged: bool
) -> Iterator[Callable[[], OpenedImage]]:
    """Yields functions that open what may be decoded in place of a damaged image. They may raise FAILURES.

    Args:
        max_pixels: as in `OpenedImage`.
        decode_damaged: must be False if `max_pixels` is None.
    """
    # Not at the top of the file, because a whole image needs neither.
    from imgclassify.images.damaged import find_repairs
    from imgclassify.images.notes import leave_out_notes

    stream.seek(0)
    format_name = _identify_format(stream).format
    facts: dict[str, Any] = {}
    if cleaned := leave_out_notes(stream, format_name):
        stream, facts = cleaned.stream, {"left_out": cleaned.left_out}
        stream.seek(0)
        yield partial(OpenedImage, stream, max_pixels, facts=facts, missing=cleaned.missing)
    for repaired in find_repairs(stream, format_name, max_pixels or 0) if decode_damaged else ():
        repaired.stream.seek(0)
        yield partial(
            OpenedImage, repaired.stream, max_pixels, facts={**facts, "damaged": True}, fill=repaired.fill
        )


class OpenedImage:
    """An image file of which only the header has been read, if Pillow knows its layout.

    Any exception of a decoder becomes an ImageError. Only one thread at a time may use it.
    """

    def __init__(
        self,
        stream: BinaryIO,
        max_pixels: int | None,
        *,
        facts: Mapping[str, Any] = MappingProxyType({}),
        missing: ImageError | None = None,
        fill: Callable[[Image.Image, Callable[[Image.Image], Image.Image]], Image.Image] | None = None,
    ) -> None:
        """Opens the file; see `decode_image`.

        Args:
            stream: must stay open as long as this object is used.
            max_pixels: as in `decode_image`. None if nothing will be decoded, only `frames` be counted.
            facts: what the `info` of the decoded image says besides what is found.
            missing: the error of frames that have been left out of the file.
            fill: damaged.Repaired.fill, which is applied to the first frame.
        """
        silence_decoders()
        self._stream, self._max_pixels = stream, max_pixels or 0
        self._facts, self._fill = facts, fill
        decoder = _identify_format(stream)
        self._format, self._read = decoder.format, _find_reader(decoder)
        with self._translated_errors():
            size = _stream_size(stream)
            if decoder.reads_whole_file and size > MAX_BYTES:
                raise ImageTooLargeError(
                    f"the file is larger than {MAX_BYTES // 2**20} MiB, and its format must be read as a whole"
                )
            opened = self._read(stream, self._max_pixels) if decoder.checks_pixels else self._read(stream)
            if isinstance(opened, Image.Image):
                if max_pixels is not None:
                    _check_pixels(opened, max_pixels)
                opened = PillowFrames(opened, stream)
            self.frames: Frames = opened
            self.frames.missing = missing or self.frames.missing

    def names(self, selection: FrameSelection) -> Iterator[str]:
        """Yields the names of the frames that are selected; see frames.Frames.

        Raises:
            ImageError: at the end, if frames may be missing.
        """
        with self._translated_errors():
            yield from self.frames.names(selection)
        if self.frames.missing is not None:
            raise copy(self.frames.missing)  # one that was raised refers to this object: it would never be freed

    def find(self, name: str) -> int:
        """Returns the key of the frame of a name. Raises ImageNotFoundError if there is none."""
        with self._translated_errors():
            return self.frames.find(name)

    def decode_first(self) -> Image.Image:
        """Decodes the first frame that is not blank. If all are blank, decodes the first."""
        frames = self.frames
        first = self.decode(frames.first)
        if frames.count == 1 or "damaged" in self._facts or not is_blank(first):
            return first
        key, pixels = frames.first, first.width * first.height
        with suppress(ImageError), self._translated_errors():  # a damaged frame ends the search
            for _ in range(MAX_BLANK_FRAMES - 1):
                following = frames.following(key)
                if following is None or pixels > _MAX_BLANK_PIXELS:
                    break
                key, image = following, self.decode(following)
                if not is_blank(image):
                    return image
                pixels += image.width * image.height
        return first

    def decode(self, key: int) -> Image.Image:
        """Decodes one of the frames.

        Args:
            key: of one of `frames`.

        Returns:
            The image, as from `decode_image`. If the file has several frames, a later call does not change it.
        """
        with self._translated_errors():
            image = self._open_frame(key)
            rgb = self._to_rgb(image)
            if self.frames.count != 1 or self.frames.missing:
                if rgb is image:
                    rgb = image.copy()
                position = self.frames.position(key)
                rgb.info["frames"] = None if self.frames.missing else self.frames.count
                rgb.info["frame"] = None if position is None else position + 1
            return rgb

    def decode_reduced(self, resized_size: Callable[[Size], Size]) -> tuple[Image.Image, tuple[int, int]]:
        """Decodes a JPEG at a smaller scale, and any other file as `decode_first`; see `decode_reduced_image`."""
        if self._format != "JPEG":
            image = self.decode_first()
            return image, image.size
        with self._translated_errors():
            image = self._open_frame(0)
            full_size = _choose_scale(image, resized_size)
            return self._to_rgb(image), full_size

    def read_transposition(self, key: int | None) -> Image.Transpose | None:
        """Returns the transposition that turns one of the frames, or the first one, upright. Decodes it."""
        with self._translated_errors():
            image = self._open_frame(self.frames.first if key is None else key)
            image.load()
            return exif_transposition(image)

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        """Decodes a frame to one such as `load_image` returns. Its `info` has notes and facts alone.

        A text in the file may have any key.
        """
        image.load()
        rgb = to_rgb(image)
        notes = {key: rgb.info[key] for key in NOTES if isinstance(rgb.info.get(key), Note | tuple)}
        rgb.info = dict[Any, Any]({**notes, **self._facts})
        # libjpeg puts grey in place of what is missing.
        if "damaged" in self._facts and image.format == "JPEG" and is_blank(rgb, tolerance=0):
            raise CorruptImageError("nothing of its pixels is left")
        return rgb

    def _open_frame(self, key: int) -> Image.Image:
        """Returns a frame that is not decoded yet, or to which the file's declarations have been applied."""
        image = self.frames.open(key)
        _check_pixels(image, self._max_pixels)
        if image.format == "JPEG":
            _limit_scans(image, self._stream)
            return image
        image = _apply_declarations(image, self._stream)
        return self._fill(image, _convert_mode) if self._fill else image

    def _translated_errors(self) -> AbstractContextManager[None]:
        return _translate_errors(self._format, self._stream)


def _apply_declarations(image: Any, stream: BinaryIO) -> Image.Image:
    """Applies what a file says about the pixels of a frame that has been opened, if Pillow does not."""
    # Not at the top of the file, because an ordinary JPEG needs none of it.
    from imgclassify.images.declared_colors import declare_colors
    from imgclassify.images.deep_samples import declare_levels, load_deep_heif, load_low_bits

    declare_colors(image, stream)
    if image.mode in _GREY_MODES:
        declare_levels(image, stream)
    elif image.format == "PNG":
        image = load_low_bits(image) or image
    elif image.format == "HEIF":
        image = load_deep_heif(image, stream) or image
    elif image.format == "AVIF":
        image = _apply_clean_aperture(image, stream)
    return cast(Image.Image, image)


def _apply_clean_aperture(image: Image.Image, stream: BinaryIO) -> Image.Image:
    from imgclassify.images.clean_aperture import find_clean_aperture
    from imgclassify.images.iso_boxes import read_item_properties

    shown = find_clean_aperture(read_item_properties(stream), image.size)
    if shown is None:
        return image
    cropped = image.crop(shown)
    cropped.info = image.info  # with the orientation, which is applied after the crop
    return cropped


def _choose_scale(image: Image.Image, resized_size: Callable[[Size], Size]) -> tuple[int, int]:
    """Makes a JPEG that is not decoded yet decode at a smaller scale, if one is large enough.

    Returns:
        The upright (width, height) of the full image.
    """
    swaps_axes = exif_transposition(image) in SWAPS_AXES
    width, height = image.size[::-1] if swaps_axes else image.size
    least_height, least_width = (REDUCED_MARGIN * side for side in resized_size((height, width)))
    for scale in JPEG_SCALES:
        # libjpeg rounds the sides up.
        if -(-height // scale) >= least_height and -(-width // scale) >= least_width:
            # Pillow decodes at the smallest scale that leaves at least this size.
            image.draft(None, (image.width // scale, image.height // scale))
            break
    return width, height


def _identify_format(stream: BinaryIO) -> _Decoder:
    header = _read_start(stream, _HEADER_BYTES)
    if not header:
        raise ImageEmptyError("the file is empty")
    for decoder in (_RAW_DECODER, *_DECODERS):
        if decoder.signature.match(header):
            return decoder
    return _identify_foreign(stream)


def _identify_foreign(stream: BinaryIO) -> _Decoder:
    # Imported only now, because a run over images needs neither table.
    from imgclassify.file_kinds import HEAD_BYTES
    from imgclassify.images.foreign_formats import describe_foreign, find_video

    head = _read_start(stream, HEAD_BYTES)
    video = find_video(head)
    if video is None:
        raise describe_foreign(head)
    missing = f"a video ({video.name}), which needs the extra imgclassify[video]: pip install av"
    return _define_decoder(
        "video", video.signature, "imgclassify.images.video", "open_video", missing=missing, checks_pixels=True
    )


def _read_start(stream: BinaryIO, size: int) -> bytes:
    """Reads the first bytes of a stream that is at its start, and leaves it there."""
    try:
        start = stream.read(size)
        stream.seek(0)
    except OSError as error:
        raise ImageUnreadableError(f"cannot read the file: {error.strerror or error}") from error
    return start


def _find_reader(decoder: _Decoder) -> Callable[..., Any]:
    try:
        module = import_module(decoder.module)
    except ImportError as error:
        raise UnsupportedImageError(decoder.missing) from error
    if not getattr(module, "SUPPORTED", True):
        raise UnsupportedImageError(decoder.missing)
    reader: Callable[..., Any] = getattr(module, decoder.reader)
    return reader


def _stream_size(stream: BinaryIO) -> int:
    """Returns the size in bytes, and leaves the stream at its start."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(f"{width} × {height} is {width * height} pixels, and the limit is {max_pixels}")


def _limit_scans(image: Image.Image, stream: BinaryIO) -> None:
    """Makes a JPEG fail at the first scan beyond MAX_SCANS, while its data is read for decoding.

    Otherwise a progressive image of a few kilobytes could take hours.
    """
    header_bytes, scans, last = stream.tell(), 0, b""

    def read(size: int) -> bytes:
        nonlocal scans, last
        # A marker may begin with the last byte of the previous read.
        position = stream.tell() - len(last)
        data = stream.read(size)
        # Markers in the header are not counted: a thumbnail has scans of its own. The image's first scan starts
        # at the end of the header, so the image has one scan more than are counted here.
        scans += (last + data).count(_START_OF_SCAN, max(0, header_bytes - position))
        last = data[-1:]
        if scans >= MAX_SCANS:
            raise ImageTooLargeError(f"more than {MAX_SCANS} scans; each takes as long as a whole image")
        return data

    image.load_read = read  # type: ignore[attr-defined]


@contextmanager
def _translate_errors(format_name: str, stream: BinaryIO | None = None) -> Iterator[None]:
    """Turns any exception of a decoder into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # on hostile bytes, decoders raise any exception
        raise _to_image_error(error, format_name, stream) from error


def _to_image_error(error: Exception, format_name: str, stream: BinaryIO | None) -> ImageError:
    """Returns the ImageError for an exception that a decoder raised.

    Args:
        stream: the stream that was decoded. None if the image was in memory.
    """
    if isinstance(error, Image.DecompressionBombError):  # some readers check Pillow's own pixel limit
        return ImageTooLargeError(f"more pixels than Pillow allows in {with_article(format_name)} file")
    words = describe_error(error)
    if _LIBHEIF_LIMIT in words:
        return ImageTooLargeError(f"exceeds a limit of its decoder: {words.rpartition(_LIBHEIF_LIMIT)[2]}")
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(words):
        return ImageTooLargeError("not enough memory to decode it", out_of_memory=True)
    if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
        return ImageUnreadableError(f"cannot read the file: {error.strerror}")
    if stream is not None and format_name == "JPEG" and (process := _name_process(stream)):
        return UnsupportedImageError(
            f"{process} per sample is not supported, only JPEG of 8 bits that is not lossless"
        )
    if _UNSUPPORTED.search(words):
        return UnsupportedImageError(f"{with_article(format_name)} file of a kind that is not supported: {words}")
    if stream is not None and is_truncated(stream, format_name, words):
        return TruncatedImageError(f"damaged {format_name} file: it ends too early")
    return CorruptImageError(f"damaged {format_name} file: {_describe_failure(error)}")


def _name_process(stream: BinaryIO) -> str | None:
    from imgclassify.images.jpeg_process import name_unsupported_process

    return name_unsupported_process(stream)


def _describe_failure(error: Exception) -> str:
    words = describe_error(error)
    # At the end of the data Pillow's parsers raise one of these, which Pillow wraps in a SyntaxError.
    if isinstance(error.__cause__ or error, struct.error | IndexError | EOFError) or "runcated" in words:
        return "a part of it ends too early"
    # Pillow's message for a header without a mode, or with a side of 0 pixels.
    return "its header gives no size" if words == "not identified by this driver" else words


def silence_decoders() -> None:
    """Keeps Pillow's warnings about damaged metadata off the terminal, where they would not name the image.

    Adds one filter to the process's warning filters, for warnings raised in Pillow's modules. Adds it again if
    other code has restored the filters since. `warnings.catch_warnings` is not used, because it is not
    thread-safe.
    """
    if _WARNING_FILTER not in warnings.filters:
        with _silencing:
            if _WARNING_FILTER not in warnings.filters:
                warnings.filterwarnings("ignore", module=_WARNING_MODULES)
                logging.getLogger("PIL").addHandler(logging.NullHandler())


# Orientation and colour -------------------------------------------------------------------------------------


def exif_transposition(image: Image.Image) -> Image.Transpose | None:
    """Returns the transposition that turns the image upright.

    Returns None if the image is upright, or if its EXIF data is damaged.
    """
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (damaged EXIF counts as none, and fails in many ways)
        return None


def has_far_colors(image: Image.Image) -> bool:
    """Whether the colours of an image are declared to be so far from sRGB that they are converted."""
    if COLOR_KEYS.isdisjoint(image.info):
        return False
    from imgclassify.images.declared_colors import find_conversion

    return find_conversion(image.info, image.mode) is not None


def _convert_mode(image: Image.Image) -> Image.Image:
    """Returns the same pixels in mode RGB, and in sRGB if they are declared to be far from it."""
    if image.mode == "RGBA" and (image.format == "BMP" or "assumed_alpha" in image.info):
        image = _drop_unused_alpha(image)
    if not COLOR_KEYS.isdisjoint(image.info):
        from imgclassify.images.declared_colors import to_srgb

        image = to_srgb(image)
    if image.mode in _GREY_MODES:
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
