"""Describes how the samples of a TIFF's page are stored, and names what is not supported."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from imgclassify.errors import UnsupportedImageError
from imgclassify.images.tiff.directories import HEIGHT, WIDTH, Directory
from imgclassify.images.tiff.libtiff import has_codec

BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION = 258, 259, 262, 266, 274
SAMPLES, PLANAR, PREDICTOR, COLOR_MAP = 277, 284, 317, 320
STRIP_BYTES, STRIP_ROWS = 279, 278
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
MIN_VALUE, MAX_VALUE, S_MIN_VALUE, S_MAX_VALUE, NO_DATA = 280, 281, 340, 341, 42113
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING = 332, 338, 339, 347, 530
DEPTH = 32997
TRANSFER_FUNCTION, ICC_PROFILE = 301, 34675

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
COLOR_CHANNELS = {
    WHITE_IS_ZERO: 1,
    BLACK_IS_ZERO: 1,
    RGB: 3,
    PALETTE: 1,
    SEPARATED: 4,
    YCBCR: 3,
    LAB: 3,
    ICC_LAB: 3,
}
PHOTOMETRIC_NAMES = {
    4: "a transparency mask",
    SEPARATED: "separated inks other than CMYK",
    YCBCR: "YCbCr",
    10: "ITU Lab",
    32844: "LogL",
    32845: "LogLuv",
}

UINT, INT, FLOAT = 1, 2, 3
FORMAT_NAMES = {5: "complex integers", 6: "complex numbers"}
STORED_BITS = {UINT: (8, 16, 32, 64), INT: (8, 16, 32, 64), FLOAT: (16, 32, 64)}
"""The sizes that NumPy has of each sample format. Unsigned integers may have any other number up to 32."""

PREMULTIPLIED, STRAIGHT = 1, 2
"""The values of ExtraSamples for an alpha channel."""

NONE, OLD_JPEG, JPEG, PNG, LERC = 1, 6, 7, 34933, 34887
LERC_PARAMETERS = 50674
BYTE_CODECS = {5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "Zstandard"}
"""Compressions whose strips and tiles are streams of bytes, so that libtiff unpacks them without knowing what the
samples are."""
BILEVEL_CODECS = {2: "CCITT", 3: "CCITT group 3", 4: "CCITT group 4", 32771: "CCITT", 32809: "ThunderScan"}
IMAGE_CODECS = {
    PNG: ("PNG", "PIL.PngImagePlugin", "PngImageFile"),
    50001: ("WebP", "PIL.WebPImagePlugin", "WebPImageFile"),
    **dict.fromkeys((33003, 33004, 33005, 34712), ("JPEG 2000", "PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile")),
}
"""Compressions whose strips and tiles are files of another format, which Pillow opens."""
_JPEG2000 = ("JPEG 2000", "jpeg2k_decode")
ARRAY_CODECS = {
    LERC: ("LERC", "lerc_decode"),
    **dict.fromkeys((50002, 52546), ("JPEG XL", "jpegxl_decode")),
    **dict.fromkeys((22610, 34934), ("JPEG XR", "jpegxr_decode")),
    **dict.fromkeys((33003, 33004, 33005, 34712), _JPEG2000),
    PNG: ("PNG", "png_decode"),
}
"""Compressions that imagecodecs unpacks to samples of any depth, by its function. Those that are also in
IMAGE_CODECS need it only for samples that are not of 8 bits."""
COMPRESSION_NAMES = {
    **{code: name for code, (name, _) in ARRAY_CODECS.items()},
    **BYTE_CODECS,
    **BILEVEL_CODECS,
    **{code: name for code, (name, *_) in IMAGE_CODECS.items()},
    OLD_JPEG: "old-style JPEG",
    JPEG: "JPEG",
    32766: "NeXT",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv of 24 bits",
    34892: "lossy DNG JPEG",
}
PILLOW_CODECS = {NONE, OLD_JPEG, JPEG, *BYTE_CODECS, *BILEVEL_CODECS}


class Layout(NamedTuple):
    """How the samples of a page are stored."""

    width: int
    height: int
    samples: int
    """Channels of the page, extra ones included."""
    bits: int
    sample_format: int
    photometric: int
    planar: bool
    compression: int
    predictor: int
    fill_order: int
    order: str
    block_width: int
    block_height: int
    tiled: bool
    extras: tuple[int, ...]

    @property
    def stored(self) -> int:
        """Channels that lie together in a strip or tile."""
        return 1 if self.planar else self.samples

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a strip or tile."""
        return -(-self.block_width * self.stored * self.bits // 8)

    @property
    def colors(self) -> int:
        return COLOR_CHANNELS[self.photometric]

    @property
    def alpha(self) -> int | None:
        """The index of the alpha channel."""
        return next((self.colors + at for at, kind in enumerate(self.extras) if kind in (1, 2)), None)

    def channels(self) -> list[int]:
        """The channels that are read: those of the colour, and alpha."""
        return [*range(self.colors), *([self.alpha] if self.alpha is not None else [])]


def read_layout(page: Directory) -> Layout:
    """Reads the layout of a page.

    Raises:
        UnsupportedImageError: it is not supported; the message names what is not.
        ValueError: it is impossible.
    """
    width, height = page.number(WIDTH, 0), page.number(HEIGHT, 0)
    bits = page.numbers(BITS, (1,))
    samples = page.number(SAMPLES, len(bits))
    formats = page.numbers(SAMPLE_FORMAT, (UINT,))
    photometric = page.number(PHOTOMETRIC, RGB if samples >= 3 else BLACK_IS_ZERO)
    compression = page.number(COMPRESSION, NONE)
    if min(width, height, samples) < 1:
        raise ValueError(f"an image of {width}×{height} has no pixels")
    _check_compression(page, compression, bits[0])
    _check_samples(page, bits, formats, samples)
    if photometric not in COLOR_CHANNELS or not _has_known_colors(page, photometric):
        name = PHOTOMETRIC_NAMES.get(photometric, f"photometric interpretation {photometric}")
        raise UnsupportedImageError(f"a TIFF whose colours are {name}, in this layout, is not supported")
    if samples < COLOR_CHANNELS[photometric]:
        raise UnsupportedImageError(
            f"a TIFF of photometric interpretation {photometric} with {samples} channels is not supported"
        )
    tiled = TILE_OFFSETS in page.entries
    rows = min(page.number(TILE_HEIGHT, 0) if tiled else page.number(STRIP_ROWS, height), 2**31)
    across = page.number(TILE_WIDTH, 0) if tiled else width
    if min(rows, across) < 1:
        raise ValueError(f"tiles of {across}×{rows}" if tiled else f"strips of {rows} rows")
    extras = page.numbers(EXTRA_SAMPLES)
    if not extras and (photometric, samples) == (RGB, 4):  # as Pillow does
        extras = (STRAIGHT,)
    return Layout(
        width=width,
        height=height,
        samples=samples,
        bits=bits[0],
        sample_format=UINT if formats[0] == 4 else formats[0],
        photometric=photometric,
        planar=page.number(PLANAR, 1) == 2 and samples > 1,
        compression=compression,
        predictor=page.number(PREDICTOR, 1) if compression in BYTE_CODECS else 1,
        fill_order=page.number(FILL_ORDER, 1),
        order=page.order,
        block_width=across,
        block_height=rows if tiled else min(rows, height),
        tiled=tiled,
        extras=extras[: samples - COLOR_CHANNELS[photometric]],
    )


def _check_compression(page: Directory, compression: int, bits: int) -> None:
    name = COMPRESSION_NAMES.get(compression, f"compression {compression}")
    known = compression == NONE or (compression in BYTE_CODECS and has_codec(compression))
    known |= compression in IMAGE_CODECS and bits == 8
    known |= compression == JPEG and bits == 8 and page.number(SAMPLES, 1) == 1
    if not known and compression in ARRAY_CODECS:
        if find_spec("imagecodecs") is None:
            raise UnsupportedImageError(
                f"a TIFF with {name} compression of {bits} bits needs the extra imgclassify[tiff]: "
                "pip install imagecodecs"
            )
        known = True
    if not known:
        form = "BigTIFF" if page.big else "TIFF"
        channels = f"{page.number(SAMPLES, 1)} channels of {bits} bits"
        raise UnsupportedImageError(f"a {form} with {name} compression of {channels} is not supported")
    predictor = page.number(PREDICTOR, 1)
    if compression in BYTE_CODECS and predictor not in (1, 2, 3):
        raise UnsupportedImageError(f"a TIFF with predictor {predictor} of {name} compression is not supported")


def _check_samples(page: Directory, bits: tuple[int, ...], formats: tuple[int, ...], samples: int) -> None:
    if len(set(bits[:samples])) > 1 or len(set(formats[:samples])) > 1:
        raise UnsupportedImageError(f"a TIFF whose channels differ in bits ({bits[:8]}) is not supported")
    kind = UINT if formats[0] == 4 else formats[0]
    if kind not in STORED_BITS:
        name = FORMAT_NAMES.get(kind, f"sample format {kind}")
        raise UnsupportedImageError(f"a TIFF of {name} is not supported")
    if bits[0] not in STORED_BITS[kind] and not (kind == UINT and 0 < bits[0] < 32):
        name = {UINT: "integers", INT: "signed integers", FLOAT: "floats"}[kind]
        raise UnsupportedImageError(f"a TIFF of {name} of {bits[0]} bits is not supported")


def _has_known_colors(page: Directory, photometric: int) -> bool:
    if photometric == YCBCR:
        return has_whole_chroma(page) and page.number(BITS) == 8
    if photometric == SEPARATED:
        return bool(page.number(INK_SET, 1) == 1)
    return True


def has_whole_chroma(page: Directory) -> bool:
    """Whether a page in YCbCr has as many samples of the colour differences as of the luma."""
    return page.numbers(SUBSAMPLING, (2, 2)) == (1, 1)
