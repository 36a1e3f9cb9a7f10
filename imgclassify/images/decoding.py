"""Source → RGB image: decoding, EXIF orientation, colour modes, and the limits that hostile files meet.

Nothing is resized here, but for what a JPEG decoder does by itself where it is asked to. Every function may be
called from many threads at once.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import ExifTags, Image, ImageFile

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
)
from imgclassify.images import MAX_PIXELS
from imgclassify.images.truncation import is_truncated
from imgclassify.sources import MAX_BYTES, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from imgclassify.catalog import Size

MAX_SCANS = 100
"""Limit on the scans of a JPEG. Encoders make ten; each takes the time of the whole picture, and a few bytes."""


@dataclass(frozen=True, slots=True)
class _Decoder:
    """One format: what its files begin with, and the class that reads them.

    The class is called directly. `Image.open` would import every plugin of Pillow to find a rare one, and
    would impose Pillow's own pixel limit, which only a change to Pillow's globals could lift.
    """

    format: str
    signature: re.Pattern[bytes]
    module: str
    reader: str
    missing: str = "the installed Pillow was built without this format"
    reads_whole_file: bool = False
    """Whether it reads a file whole before it looks at it."""


def _define_decoder(format_name: str, signature: bytes, module: str, reader: str, **more: Any) -> _Decoder:
    return _Decoder(format_name, re.compile(signature, re.DOTALL), module, reader, **more)


# AVIF stands before HEIF: both call themselves "mif1", and only AVIF's brands settle it.
_DECODERS = (
    # Also MPO, whose first picture it reads.
    _define_decoder("JPEG", rb"\xff\xd8\xff", "PIL.JpegImagePlugin", "JpegImageFile"),
    _define_decoder("PNG", rb"\x89PNG\r\n\x1a\n", "PIL.PngImagePlugin", "PngImageFile"),
    _define_decoder("WEBP", rb"RIFF.{4}WEBP", "PIL.WebPImagePlugin", "WebPImageFile", reads_whole_file=True),
    _define_decoder("GIF", rb"GIF8[79]a", "PIL.GifImagePlugin", "GifImageFile"),
    _define_decoder("TIFF", rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", "PIL.TiffImagePlugin", "TiffImageFile"),
    # The length of the second header, lest every text that begins with BM be a damaged bitmap.
    _define_decoder("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "PIL.BmpImagePlugin", "BmpImageFile"),
    _define_decoder("PPM", rb"P[1-6f]\s+[#\d]", "PIL.PpmImagePlugin", "PpmImageFile"),
    _define_decoder(
        "AVIF", rb".{4}ftyp(.{4})*?avi[fs]", "PIL.AvifImagePlugin", "AvifImageFile", reads_whole_file=True
    ),
    _define_decoder(
        "HEIF",
        rb".{4}ftyp(.{4})*?(he[iv][cxms]|mif[12]|msf1)",
        "pillow_heif",
        "HeifImageFile",
        reads_whole_file=True,
        missing="HEIC needs an extra package: pip install 'imgclassify[heif]'",
    ),
    _define_decoder(
        "JPEG2000", rb"\xff\x4f\xff\x51|\0{3}\x0cjP  \r\n\x87\n", "PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"
    ),
)

IMAGE_FORMATS = tuple(decoder.format for decoder in _DECODERS)
"""What is opened, under Pillow's names, and nothing else: no format that runs a program, carries a script, or
has no signature."""

JPEG_SCALES = (8, 4, 2)
"""The parts of its size at which libjpeg decodes a JPEG for less work, by leaving frequencies out."""

REDUCED_MARGIN = 2
"""How many times larger than the size it is resized to a reduced picture is at least: enough for the resize to be
a mean over pixels, as it is from the whole picture."""

_HEADER_BYTES = 64
_START_OF_SCAN = b"\xff\xda"
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_DECODERS_LIMIT = "Security limit exceeded: "
_OUT_OF_MEMORY = re.compile(r"out of memory|memory allocation|error -9$", re.IGNORECASE)
"""What decoders say beyond limits of their own (libheif), and where an allocation fails without a MemoryError;
libtiff has a number alone."""
_BLOCK_VALUES = 2**20

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each EXIF orientation asks for; 1, and whatever is not among the eight, asks for nothing."""

SWAPS_AXES = tuple(_TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8))
"""Those that make height of width."""

_WHITE_LEVELS: dict[str, tuple[float, ...]] = {
    "I;16": (65535,),
    "I;16L": (65535,),
    "I;16B": (65535,),
    "I;16N": (65535,),
    "I": (65535,),
    "F": (1, 255, 65535),
}
"""The grey modes of more than 8 bits, and what may stand for white in each: the first no pixel exceeds."""

_DISK_FAILURES = {errno.EIO, errno.ESTALE}

_WARNING_MODULES = r"(PIL|pillow_heif)\b"
_WARNING_FILTER = ("ignore", None, Warning, re.compile(_WARNING_MODULES), 0)
_silencing = threading.Lock()


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The source's first picture, upright: mode RGB, 8 bits a channel, at least 1×1.

    Raises:
        ImageError: whichever of its kinds applies; no other exception leaves here.
    """
    with source.open() as stream:
        return decode_image(stream, max_pixels=max_pixels)


def decode_image(stream: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """What `load` does, from a seekable binary stream at its start, which stays open.

    Raises:
        ImageEmptyError: the stream holds nothing.
        NotAnImageError: it begins like none of FORMATS.
        TruncatedImageError: it begins like one of them, and ends before its format says that it does.
        CorruptImageError: it begins like one of them, and cannot be decoded to its end.
        ImageTooLargeError: more than `max_pixels`, found before any pixel is decoded, or beyond another limit
            (docs/images.md).
        ImageUnreadableError: the disk failed.
        UnsupportedImageError: a package for its format, or a way to turn its colours into RGB, is missing.
    """
    with _open_image(stream, max_pixels) as image:
        return _decode_opened(image)


def load_reduced_image(
    source: Source, resized: Callable[[Size], Size], *, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, tuple[int, int]]:
    """The source's first picture as `load` gives it, but a JPEG at the smallest scale that is still large enough.

    Args:
        resized: the size that a picture of this size, upright, is to have in the end; both (height, width).

    Returns:
        (the picture, the (width, height) of the whole one, upright). The picture is the whole one, or a half, a
        quarter or an eighth of it, rounded up, and on both sides at least REDUCED_MARGIN times what `resized` says.

    Raises:
        ImageError: whichever of its kinds applies; no other exception leaves here.
    """
    with source.open() as stream:
        return decode_reduced_image(stream, resized, max_pixels=max_pixels)


def decode_reduced_image(
    stream: BinaryIO, resized: Callable[[Size], Size], *, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, tuple[int, int]]:
    """What `load_reduced_image` does, from a seekable binary stream at its start. The stream stays open.

    Raises:
        ImageError: as in `decode`; the limit is on the whole picture's pixels.
    """
    with _open_image(stream, max_pixels) as image:
        whole = _choose_scale(image, resized)
        rgb = _decode_opened(image)
        return rgb, whole or rgb.size


def image_from_memory(picture: Image.Image | ArrayLike) -> Image.Image:
    """What `load` would hand over, from a Pillow image, or an array of (H, W, 3) RGB or (H, W) grey, uint8.

    Raises:
        UnsupportedImageError: an array of another shape or dtype, or colours that Pillow cannot convert.
        ImageError: a Pillow image not yet loaded that cannot be decoded, as in `decode`.
    """
    if isinstance(picture, Image.Image):
        with _translate_errors(picture.format or "image"):
            if not picture.width * picture.height:
                raise CorruptImageError(f"{picture.width}×{picture.height} pixels are no image")
            return to_rgb(picture)
    import numpy as np

    try:
        array = np.asarray(picture).copy()  # whose pixels the image may share
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedImageError(f"a {type(picture).__name__} is no array: {describe_error(error)}") from error
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (3,)) or array.ndim < 2 or not array.size:
        raise UnsupportedImageError(
            f"an array must be (H, W, 3) or (H, W) uint8, and this is {array.shape} {array.dtype}"
        )
    return to_rgb(Image.fromarray(array))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright and in mode RGB; one that is both already is returned itself, not copied.

    Whatever is transparent is laid on white. Grey of more than 8 bits is scaled to 0..255. All else is
    Pillow's own conversion (docs/images.md).

    Raises:
        UnsupportedImageError: Pillow cannot convert its colour mode.
    """
    silence_decoders()
    image.load()
    transposition = exif_transposition(image)
    try:
        rgb = _convert_mode(image)
    except (ValueError, ImportError) as error:
        raise UnsupportedImageError(f"colour mode {image.mode} cannot be converted to RGB: {error}") from error
    if transposition is not None:
        rgb = rgb.transpose(transposition)
    if rgb is not image:
        rgb.info = {}  # an orientation left behind would be applied a second time
    return rgb


# Decoding ---------------------------------------------------------------------------------------------------


@contextmanager
def _open_image(stream: BinaryIO, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """The image, of which only the header is read yet. What is raised while it is open becomes an ImageError."""
    silence_decoders()
    decoder = _identify_format(stream)
    read = _find_reader(decoder)
    with _translate_errors(decoder.format, stream):
        size = _stream_size(stream)
        if decoder.reads_whole_file and size > MAX_BYTES:
            raise ImageTooLargeError(f"larger than {MAX_BYTES // 2**20} MiB, in a format that is read whole")
        # From a file libtiff would map it into memory, and whoever cuts the file meanwhile kill the process.
        held = decoder.format == "TIFF" and size <= MAX_BYTES
        image = read(io.BytesIO(stream.read()) if held else stream)
        _check_pixels(image, max_pixels)
        if image.format == "JPEG":
            _limit_scans(image, stream)
        yield image


def _decode_opened(image: ImageFile.ImageFile) -> Image.Image:
    image.load()
    return to_rgb(image)


def _choose_scale(image: ImageFile.ImageFile, resized: Callable[[Size], Size]) -> tuple[int, int] | None:
    """Has a JPEG that is not yet decoded decoded at a smaller scale, where that suffices.

    Returns:
        (width, height) of the whole picture, upright; None for another format, which is not touched.
    """
    if image.format != "JPEG":
        return None
    turned = exif_transposition(image) in SWAPS_AXES
    width, height = image.size[::-1] if turned else image.size
    least_height, least_width = (REDUCED_MARGIN * side for side in resized((height, width)))
    for scale in JPEG_SCALES:
        # libjpeg rounds up.
        if -(-height // scale) >= least_height and -(-width // scale) >= least_width:
            # Pillow takes the smallest scale that leaves at least these.
            image.draft(None, (image.width // scale, image.height // scale))
            break
    return width, height


def _identify_format(stream: BinaryIO) -> _Decoder:
    try:
        header = stream.read(_HEADER_BYTES)
        stream.seek(0)
    except OSError as error:
        raise ImageUnreadableError(f"the disk failed: {error.strerror or error}") from error
    if not header:
        raise ImageEmptyError("the file is empty")
    for decoder in _DECODERS:
        if decoder.signature.match(header):
            return decoder
    raise NotAnImageError(f"not an image, or of a format that is not opened; it begins {header[:12]!r}")


def _find_reader(decoder: _Decoder) -> Callable[[BinaryIO], ImageFile.ImageFile]:
    try:
        module = import_module(decoder.module)
    except ImportError as error:
        raise UnsupportedImageError(decoder.missing) from error
    if not getattr(module, "SUPPORTED", True):
        raise UnsupportedImageError(decoder.missing)
    reader: Callable[[BinaryIO], ImageFile.ImageFile] = getattr(module, decoder.reader)
    return reader


def _stream_size(stream: BinaryIO) -> int:
    """In bytes; the stream is left at its start."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


def _check_pixels(image: ImageFile.ImageFile, max_pixels: int) -> None:
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles may be larger than the picture
    for what, width, height in (
        ("", image.width, image.height),
        ("a tile of ", tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)),
    ):
        if width * height > max_pixels:
            raise ImageTooLargeError(
                f"{what}{width} × {height} is {width * height} pixels, and the limit is {max_pixels}"
            )


def _limit_scans(image: ImageFile.ImageFile, stream: BinaryIO) -> None:
    """Has a JPEG fail at the scan beyond MAX_SCANS, when its data are read for decoding.

    A progressive picture of a few kilobytes could otherwise take hours.
    """
    header_bytes, scans = stream.tell(), 0

    def read(size: int) -> bytes:
        nonlocal scans
        position = stream.tell()
        data = stream.read(size)
        # A thumbnail in the header has scans of its own.
        scans += data.count(_START_OF_SCAN, max(0, header_bytes - position))
        if scans >= MAX_SCANS:
            raise ImageTooLargeError(f"more than {MAX_SCANS} scans, each of which takes the time of a picture")
        return data

    image.load_read = read  # type: ignore[attr-defined]


@contextmanager
def _translate_errors(format_name: str, stream: BinaryIO | None = None) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # over hostile bytes decoders raise whatever they like
        raise _to_image_error(error, format_name, stream) from error


def _to_image_error(error: Exception, format_name: str, stream: BinaryIO | None) -> ImageError:
    """The image error that stands for what a decoder raised over the stream, if it was over one."""
    if isinstance(error, Image.DecompressionBombError):  # raised inside some readers
        return ImageTooLargeError(f"more pixels than Pillow opens in a {format_name} file")
    words = describe_error(error)
    if _DECODERS_LIMIT in words:
        return ImageTooLargeError(f"beyond a limit of its decoder: {words.rpartition(_DECODERS_LIMIT)[2]}")
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(words):
        return ImageTooLargeError("not enough memory to decode it")
    if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
        return ImageUnreadableError(f"the disk failed: {error.strerror}")
    if stream is not None and is_truncated(stream, format_name, words):
        return TruncatedImageError(f"damaged {format_name} file: it ends too early")
    return CorruptImageError(f"damaged {format_name} file: {_describe_failure(error)}")


def _describe_failure(error: Exception) -> str:
    words = describe_error(error)
    # Pillow wraps what its parsers raise at the end of the data in a SyntaxError.
    if isinstance(error.__cause__ or error, struct.error | IndexError | EOFError) or "runcated" in words:
        return "a part of it ends too early"
    return "its header gives no size" if words == "not identified by this driver" else words


def silence_decoders() -> None:
    """Keeps Pillow's remarks on damaged metadata off the terminal, where no image is named beside them.

    Adds one filter to the process's, for warnings that arise in Pillow, and does so again when someone has
    since restored the filters. `warnings.catch_warnings` is no way: it is not safe among threads.
    """
    if _WARNING_FILTER not in warnings.filters:
        with _silencing:
            if _WARNING_FILTER not in warnings.filters:
                warnings.filterwarnings("ignore", module=_WARNING_MODULES)
                logging.getLogger("PIL").addHandler(logging.NullHandler())


# Orientation and colour -------------------------------------------------------------------------------------


def exif_transposition(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (broken EXIF says nothing, and fails in many ways)
        return None


def _convert_mode(image: Image.Image) -> Image.Image:
    """The same pixels in mode RGB."""
    if image.mode in _WHITE_LEVELS:
        return _scale_grey(image)
    if image.has_transparency_data:
        return _composite_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(image, mask=image)
    return canvas


def _scale_grey(image: Image.Image) -> Image.Image:
    """Grey in one of the modes of _WHITES, as RGB: 0 is black; white is the mode's, or values are stretched.

    They are stretched, lowest to black and highest to white, where they fit no white of the mode's. NaN and
    infinities count as 0.
    """
    import numpy as np

    values = np.asarray(image)
    low, high = _value_range(values)
    white = next((white for white in _WHITE_LEVELS[image.mode] if low >= 0 and high <= white), None)
    black = 0.0
    if white is None:
        black, white = low, (high - low) or 1
    grey = np.empty(values.shape, np.uint8)
    transparent = image.info.get("transparency")
    for rows in _row_blocks(values):
        part = _finite_values(values[rows])
        grey[rows] = np.rint((part - black) * (255 / white))
        if isinstance(transparent, int):
            grey[rows][values[rows] == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _row_blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Rows in portions, since float64 takes eight times the room of the bytes that come out."""
    rows = max(1, _BLOCK_VALUES // values.shape[1])
    return (slice(start, start + rows) for start in range(0, len(values), rows))


def _value_range(values: NDArray[Any]) -> tuple[float, float]:
    extremes = [(part.min(), part.max()) for part in (_finite_values(values[rows]) for rows in _row_blocks(values))]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def _finite_values(values: NDArray[Any]) -> NDArray[np.float64]:
    import numpy as np

    with np.errstate(invalid="ignore"):  # a signalling NaN would warn
        exact = values.astype(np.float64)
    exact[~np.isfinite(exact)] = 0
    return exact
