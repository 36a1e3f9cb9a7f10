"""Hostile images: every format that is opened, from real encoders, mutated, decoded and cropped in a worker."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pillow_heif
import tifffile
from conftest import AVAILABLE_FORMATS, dicom_dataset, encoded
from fuzz.harness import FindingError, Input, Target, main
from fuzz.mutations import Field, mutated
from PIL import Image, ImageCms, PngImagePlugin

from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import DecoderCrashedError, DecoderTimeoutError, ImageError
from imgclassify.images import inputs
from imgclassify.images.frame_sources import expand_frames
from imgclassify.images.frames import FrameSelection
from imgclassify.images.isolated_listing import IsolatedListing
from imgclassify.images.isolation import IsolatedPreprocessor
from imgclassify.sources import Source

MAX_PIXELS = 2**22
TIME_LIMIT = 10.0
_MOST_FRAMES = 5
SPEC = PreprocessSpec(40, (32, 32), "bicubic", True, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def seeds() -> dict[str, bytes]:
    """Small files of every format, by format and what is special about each."""
    generator = np.random.default_rng(7)
    colour = Image.fromarray(generator.integers(0, 256, (4, 5, 3), np.uint8)).resize((29, 23))
    other = colour.rotate(180)
    grey, palette, bits = colour.convert("L"), colour.quantize(16), colour.convert("1")
    clear = colour.copy()
    clear.putalpha(grey)
    deep = Image.fromarray(generator.integers(0, 65536, (23, 29), dtype=np.uint16))
    real = Image.fromarray(generator.random((23, 29), dtype=np.float32))
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x8769: {0x9003: "2024:01:01 00:00:00"}})
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "words" * 20, zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    many = {"save_all": True, "append_images": [colour.rotate(180), colour.rotate(90)]}
    profile = bytes(range(256)) * 2
    made = {
        "JPEG": [(colour, {}), (colour, {"progressive": True}), (grey, {}), (colour.convert("CMYK"), {})],
        "MPO": [(colour, many)],
        "PNG": [(colour, {}), (palette, {"transparency": 3}), (clear, {}), (deep, {}), (bits, {}), (grey, many)],
        "WEBP": [(colour, {}), (colour, {"lossless": True}), (clear, {}), (clear, many)],
        "GIF": [(palette, {}), (palette, {"transparency": 1, **many}), (grey, {"interlace": 0})],
        "TIFF": [(colour, {}), (deep, {}), (real, {}), (palette, {}), (clear, {}), (colour, many)],
        "BMP": [(colour, {}), (palette, {}), (bits, {}), (clear, {})],
        "PPM": [(colour, {}), (grey, {}), (bits, {}), (deep, {}), (real, {})],
        "AVIF": [(colour, {}), (clear, {"lossless": True}), (colour, many)],
        "JPEG2000": [(colour, {}), (clear, {"no_jp2": True}), (deep, {}), (colour, {"tile_size": (16, 16)})],
    }
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        made[kind].append((colour, {"exif": exif.tobytes(), "icc_profile": profile}))
    made["PNG"].append((colour, {"pnginfo": text}))
    coded = PngImagePlugin.PngInfo()
    coded.add(b"cICP", bytes([9, 16, 0, 1]))
    made["PNG"] += [(each, {"pnginfo": coded}) for each in (colour, clear, deep)]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        made[kind].append((clear if kind != "JPEG" else colour, {"icc_profile": srgb}))
    made["JPEG"].append((colour, {"restart_marker_blocks": 1, "optimize": True, "comment": "words"}))
    for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd"):
        made["TIFF"].append((colour, {"compression": kind}))
    made["TIFF"] += [(bits, {"compression": "group4"}), (colour, {"big_tiff": True})]
    found = {
        f"{kind} {index}": _encoded(image, kind, **options)
        for kind, variants in made.items()
        for index, (image, options) in enumerate(variants)
    }
    found |= _deep_tiffs(generator) | _videos([colour, other, colour, other])
    found |= {"BMP RLE": _rle_bitmap(), "PPM plain": b"P3 # words\n2 2 255\n1 2 3 4 5 6 7 8 9 10 11 12\n"}
    heifs = [([colour], {"exif": exif.tobytes()}), ([clear], {}), ([grey], {}), ([colour, other], {})]
    for index, (pages, options) in enumerate(heifs):
        container, buffer = pillow_heif.HeifFile(), io.BytesIO()
        for page in pages:
            container.add_from_pillow(page)
        container.save(buffer, **options)
        found[f"HEIF {index}"] = buffer.getvalue()
    if "JPEGXL" in AVAILABLE_FORMATS:
        found |= {f"JPEGXL {index}": encoded(image, "JPEGXL") for index, image in enumerate((colour, clear, grey))}
    if "DICOM" in AVAILABLE_FORMATS:
        found["DICOM 0"] = encoded(colour, "DICOM")
        buffer = io.BytesIO()
        window = {"WindowCenter": [30000, 1], "WindowWidth": [9000, 1], "RescaleSlope": 2, "RescaleIntercept": -9}
        dicom_dataset(np.asarray(deep), **window).save_as(buffer, enforce_file_format=True)
        found["DICOM 1"] = buffer.getvalue()
    return found


def _videos(frames: list[Image.Image]) -> dict[str, bytes]:
    """Videos of a few frames, if PyAV is installed."""
    if find_spec("av") is None:
        return {}
    import av

    found = {}
    for kind, codec in (("mp4", "libx264"), ("matroska", "libvpx-vp9"), ("avi", "mpeg4"), ("mpegts", "mpeg2video")):
        stream = io.BytesIO()
        with av.open(stream, "w", format=kind) as container:
            track = container.add_stream(codec, rate=25)
            track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
            for image in frames:
                container.mux(track.encode(av.VideoFrame.from_image(image.resize((48, 32)))))
            container.mux(track.encode())
        found[f"video {kind}"] = stream.getvalue()
    return found


def _deep_tiffs(generator: np.random.Generator) -> dict[str, bytes]:
    """TIFFs that Pillow does not read."""
    deep = generator.integers(0, 4096, (23, 29, 3), dtype=np.uint16)
    planes, real = np.moveaxis(deep, 2, 0), generator.random((23, 29), dtype=np.float32)
    rgb = {"photometric": "rgb"}
    text = b"-9999\0"
    pages = {
        "planes": [(planes, {**rgb, "planarconfig": "separate", "rowsperstrip": 4})],
        "tiles": [(deep, {**rgb, "tile": (16, 16), "compression": "zlib"})],
        "LZMA": [(deep, {**rgb, "compression": "lzma", "rowsperstrip": 7})],
        "alpha": [(deep[:, :, :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]})],
        "float": [(real, {"photometric": "miniswhite", "extratags": [(42113, "s", 6, text, True)]})],
        "signed": [(deep[:, :, 0].astype(np.int16) - 1000, {"extratags": [(341, "H", 1, 3000, True)]})],
        "CMYK": [(np.dstack([deep, deep])[:, :, :5], {"photometric": "separated", "extrasamples": ["assocalpha"]})],
        "Lab": [(deep, {"photometric": "cielab"})],
        "palette": [(deep[:, :, 0] % 256, {"photometric": "palette", "colormap": np.zeros((3, 65536), np.uint16)})],
        "SubIFD": [(deep[::2, ::2], {**rgb, "subfiletype": 1, "subifds": 1}), (deep, rgb)],
    }
    found = {}
    for index, (name, written) in enumerate(pages.items()):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer, byteorder="<>"[index % 2], bigtiff=index % 5 == 0) as writer:
            for values, options in written:
                writer.write(values, metadata=None, **options)
        found[f"TIFF {name}"] = buffer.getvalue()
    return found


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    # Saving leaves its traces on an image.
    options = {
        name: [page.copy() for page in more] if name == "append_images" else more for name, more in options.items()
    }
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def _rle_bitmap() -> bytes:
    data = b"\x05\x01\0\x03\x01\x02\x03\0\0\0" * 3 + b"\0\x02\0\x02" + b"\0\x01"  # runs, single pixels, a leap
    header = struct.pack("<IiiHHIIiiII", 40, 8, 5, 1, 8, 1, len(data), 0, 0, 4, 0)
    return b"BM" + struct.pack("<IHHI", 70 + len(data), 0, 0, 70) + header + bytes(range(16)) + data


# Lengths and sizes ------------------------------------------------------------------------------------------


def fields(content: bytes) -> list[Field]:
    """Where the format, told by its first bytes, has its lengths, counts, offsets and sizes."""
    for signature, find in _FINDERS:
        if content.startswith(signature) or (signature == b"ftyp" and content[4:8] == signature):
            return [field for field in find(content) if field.position + field.width <= len(content)]
    return []


def _png(content: bytes) -> list[Field]:
    found = [Field(16, 4, "big"), Field(20, 4, "big"), *(Field(place, 1, "big") for place in range(24, 29))]
    position = 8
    while position + 8 <= len(content) and len(found) < 100:
        found.append(Field(position, 4, "big"))
        position += 12 + int.from_bytes(content[position : position + 4])
    return found


def _jpeg(content: bytes) -> list[Field]:
    found = []
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and len(found) < 100:
        found.append(Field(position + 2, 2, "big"))
        if content[position + 1] in (0xC0, 0xC1, 0xC2):
            found += [Field(position + 5, 2, "big"), Field(position + 7, 2, "big"), Field(position + 9, 1, "big")]
        if content[position + 1] == 0xDA:
            found += [Field(position + place, 1, "big") for place in range(4, 14)]
        position += 2 + int.from_bytes(content[position + 2 : position + 4])
    return found


def _riff(content: bytes) -> list[Field]:
    found = [Field(4, 4, "little"), Field(24, 3, "little"), Field(27, 3, "little")]
    position = 12
    while position + 8 <= len(content) and len(found) < 100:
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        found += [
            Field(position + 4, 4, "little"),
            Field(position + 14, 2, "little"),
            Field(position + 16, 2, "little"),
        ]
        position += 8 + length + length % 2
    return found


def _gif(content: bytes) -> list[Field]:
    frames = [place for place in range(13, len(content)) if content[place] == 0x2C][:20]
    return [
        *(Field(place, 2, "little") for place in (6, 8)),
        Field(10, 1, "little"),
        *(Field(place + 1 + 2 * side, 2, "little") for place in frames for side in range(4)),
        *(Field(place + part, 1, "little") for place in frames for part in (9, 10, 11)),
    ]


def _tiff(content: bytes) -> list[Field]:
    order = "little" if content[:1] == b"I" else "big"
    start = int.from_bytes(content[4:8], order)  # type: ignore[arg-type]
    count = int.from_bytes(content[start : start + 2], order)  # type: ignore[arg-type]
    found = [Field(4, 4, order), Field(start, 2, order)]
    for entry in range(min(count, 40)):
        place = start + 2 + 12 * entry
        found += [Field(place, 2, order), Field(place + 2, 2, order)]
        found += [Field(place + 4, 4, order), Field(place + 8, 2, order), Field(place + 8, 4, order)]
    return found


def _boxes(content: bytes) -> list[Field]:
    """Every box, found by its name wherever it stands, and the numbers in those that hold sizes and places."""
    found = []
    for name, numbers in _BOXES.items():
        place = content.find(name)
        while place >= 4 and len(found) < 300:
            found += [Field(place - 4, 4, "big"), *(Field(place + at, width, "big") for at, width in numbers)]
            place = content.find(name, place + 4)
    return found


_BOXES: dict[bytes, list[tuple[int, int]]] = {
    **{name: [] for name in (b"ftyp", b"meta", b"mdat", b"iprp", b"ipco", b"jp2h", b"jp2c", b"colr", b"moov")},
    b"ispe": [(8, 4), (12, 4)],
    b"iloc": [
        (8, 1),
        (9, 1),
        *((place, 2) for place in range(10, 40, 2)),
        *((place, 4) for place in range(10, 40, 4)),
    ],
    b"iinf": [(8, 2)],
    b"ipma": [(8, 4), *((place, 1) for place in range(12, 30))],
    b"pixi": [(8, 1), (9, 1)],
    b"iref": [(place, 2) for place in range(8, 24, 2)],
    b"stsz": [(8, 4), (12, 4), (16, 4)],
    b"stco": [(8, 4), (12, 4)],
    b"stsc": [(8, 4), (12, 4)],
    b"stts": [(8, 4), (12, 4)],
    b"tkhd": [(place, 4) for place in range(8, 92, 4)],
    b"ihdr": [(4, 4), (8, 4), (12, 2), (14, 1)],
    b"hvcC": [(place, 1) for place in range(4, 40)],
    b"av1C": [(place, 1) for place in range(4, 8)],
    b"irot": [(4, 1)],
}


def _jpeg2000(content: bytes) -> list[Field]:
    start = max(0, content.find(b"\xff\x4f\xff\x51"))
    sizes = [Field(start + place, 4, "big") for place in range(8, 40, 4)]
    rest = [Field(start + 40, 2, "big"), *(Field(start + place, 1, "big") for place in range(42, 80))]
    return [*sizes, *rest, *_boxes(content)]


def _bitmap(content: bytes) -> list[Field]:
    four = [Field(place, 4, "little") for place in (2, 10, 14, 18, 22, 30, 34, 46)]
    return [*four, Field(26, 2, "little"), Field(28, 2, "little")]


def _dicom(content: bytes) -> list[Field]:
    """The length of every element, and the value of those that are numbers."""
    found = []
    position = 132
    while position + 12 <= len(content) and len(found) < 100:
        kind = content[position + 4 : position + 6]
        place, width = (position + 8, 4) if kind in (b"OB", b"OW", b"SQ", b"UN") else (position + 6, 2)
        found.append(Field(place, width, "little"))
        position = place + width + int.from_bytes(content[place : place + width], "little")
        if kind == b"US":
            found.append(Field(place + width, 2, "little"))
    return found


_FINDERS: tuple[tuple[bytes, Callable[[bytes], list[Field]]], ...] = (
    (b"\x89PNG", _png),
    (b"\xff\xd8", _jpeg),
    (b"RIFF", _riff),
    (b"GIF8", _gif),
    (b"II", _tiff),
    (b"MM", _tiff),
    (b"ftyp", _boxes),
    (b"\xff\x4f", _jpeg2000),
    (b"\0\0\0\x0c", _jpeg2000),
    (b"BM", _bitmap),
    (bytes(128) + b"DICM", _dicom),
)


def repair(content: bytes) -> bytes:
    """A PNG with the checksums of what is in it, so that more than its first chunk is read."""
    if not content.startswith(b"\x89PNG"):
        return content
    repaired = bytearray(content)
    position = 8
    while position + 12 <= len(repaired):
        end = position + 8 + int.from_bytes(repaired[position : position + 4])
        if end + 4 > len(repaired):
            break
        repaired[end : end + 4] = struct.pack(">I", zlib.crc32(repaired[position + 4 : end]))
        position = end + 4
    return bytes(repaired)


# The target -------------------------------------------------------------------------------------------------


def target() -> Target:
    """One worker at a time; each input is decoded in both ways, exact and fast, and with what is damaged or not.

    Its first frames are decoded too.
    """
    listing = IsolatedListing(max_pixels=MAX_PIXELS, time_limit=TIME_LIMIT)
    croppers = {
        (decode, damaged): IsolatedPreprocessor(
            decode, SPEC, max_pixels=MAX_PIXELS, time_limit=TIME_LIMIT, decode_damaged=damaged
        )
        for decode in ("exact", "fast")
        for damaged in (False, True)
    }

    def attempt(given_input: Input) -> str:
        source = Source(given_input.kind, partial(io.BytesIO, given_input.content))
        found = {way: _outcome(cropper, source) for way, cropper in croppers.items()}
        for frame in islice(expand_frames([source], FrameSelection(), listing), _MOST_FRAMES):
            _outcome(croppers["exact", False], frame)
        for damaged in (False, True):
            words = {found[decode, damaged].words for decode in ("exact", "fast")}
            if len(words) > 1:
                raise FindingError(f"exact and fast differ: {', '.join(sorted(words))}")
        strict, tolerant = found["exact", False], found["exact", True]
        if strict.words == "answered":
            if tolerant.words != "answered" or (strict.crop != tolerant.crop).any():
                raise FindingError("decode_damaged changes a whole image")
        elif strict.words not in ("truncated_image", "corrupt_image") and strict.words != tolerant.words:
            raise FindingError(f"decode_damaged makes {tolerant.words} of {strict.words}")
        return strict.words if strict.words == tolerant.words else f"{strict.words}, then {tolerant.words}"

    def peak_bytes() -> int:
        workers = [worker for cropper in croppers.values() for worker in cropper.idle_workers()]
        return max(map(_peak, workers), default=0)

    def close() -> None:
        listing.close()
        for cropper in croppers.values():
            cropper.close()

    return Target("images", mutated(seeds(), fields=fields, repair=repair), attempt, peak_bytes, close)


class _Outcome(NamedTuple):
    words: str
    """"answered", "damaged", or the type of the error."""
    crop: np.ndarray


def _outcome(cropper: IsolatedPreprocessor, source: Source) -> _Outcome:
    out = np.zeros((*SPEC.crop_size, 3), np.uint8)
    try:
        info = cropper(inputs.input_from_source(source), out)
    except (DecoderCrashedError, DecoderTimeoutError) as error:
        raise FindingError(f"{error.type}: {error}") from error
    except ImageError as error:
        return _Outcome(error.type, out)
    if not 1 <= info.width * info.height <= MAX_PIXELS:
        raise FindingError(f"answered as {info.width}×{info.height}")
    return _Outcome("damaged" if info.damaged else "answered", out)


def _peak(process: int) -> int:
    """The most memory that a process has had resident, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main(target())
