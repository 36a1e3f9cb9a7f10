"""PNG: damaged image data, chunks that stand in the wrong place, and animations."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgclassify.errors import CorruptImageError, ImageError
from imgclassify.images import decoding, opened_image
from imgclassify.images.frame_sources import expand_frames
from imgclassify.images.frames import FrameSelection
from imgclassify.sources import Source

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END_BYTES = 12


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def save(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def noise(mode: str, size: tuple[int, int] = (12, 9), seed: int = 0) -> Image.Image:
    """Noise on a slope: an image of which every filter of a PNG is used."""
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], len(mode))
    values = (np.arange(size[0])[None, :, None] * 12 + rng.integers(0, 60, shape)).astype(np.uint8)
    return Image.fromarray(values.squeeze(), mode)


def decode(content: bytes, **options: Any) -> Image.Image:
    return decoding.decode_image(io.BytesIO(content), **options)


def add(content: bytes, kind: bytes, data: bytes, where: str) -> bytes:
    """Adds a chunk after the header, or after the pixels."""
    place = 33 if where == "before" else len(content) - END_BYTES
    return content[:place] + chunk(kind, data) + content[place:]


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "LA", "L"])
def test_no_bit_of_the_image_data_may_be_another(mode: str) -> None:
    content = save(noise(mode))
    start = content.index(b"IDAT") + 4
    for place in range(start, len(content) - END_BYTES):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(CorruptImageError):
                decode(bytes(damaged))


@pytest.mark.parametrize("kind", [b"PLTE", b"tRNS"])
def test_no_bit_of_the_palette_may_be_another(kind: bytes) -> None:
    content = save(noise("RGB").quantize(16), transparency=bytes((255, 100) * 8))
    place = content.index(kind)
    for position in range(place, place + 8):  # the type, and the first of the data
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptImageError):
                decode(bytes(damaged))


def test_what_there_is_of_damaged_image_data_is_marked() -> None:
    content = bytearray(save(noise("RGB")))
    content[-END_BYTES - 1] ^= 1  # the checksum alone: all pixels are there
    image = decode(bytes(content), decode_damaged=True)
    assert image.info["damaged"]
    assert np.array_equal(np.asarray(image), np.asarray(noise("RGB")))


def test_a_png_without_its_last_bytes_is_read() -> None:
    image = noise("RGB")
    assert np.array_equal(np.asarray(decode(save(image)[: -END_BYTES - 2])), np.asarray(image))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"gAMA", struct.pack(">I", 100000)),
        (b"tRNS", struct.pack(">HHH", 200, 10, 10)),
        (b"cICP", bytes((9, 16, 0, 1))),
    ],
)
def test_what_follows_the_pixels_does_not_change_them(kind: bytes, data: bytes) -> None:
    plain = Image.new("RGB", (8, 6), (200, 10, 10))
    content = save(plain)
    assert decode(add(content, kind, data, "before")).getpixel((0, 0)) != (200, 10, 10)
    assert decode(add(content, kind, data, "after")).getpixel((0, 0)) == (200, 10, 10)


def test_an_orientation_after_the_pixels_counts_if_it_is_sound() -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = save(noise("RGB"))
    data = exif.tobytes()[6:]
    turned = add(content, b"eXIf", data, "after")
    assert decode(turned).size == (9, 12)
    damaged = bytearray(turned)
    damaged[-END_BYTES - 1] ^= 1
    assert decode(bytes(damaged)).size == (12, 9)


def test_the_first_of_two_gammas_counts() -> None:
    content = save(noise("RGB"))
    linear, usual = struct.pack(">I", 100000), struct.pack(">I", 45455)
    twice = add(add(content, b"gAMA", linear, "before"), b"gAMA", usual, "before")  # the usual one is first
    assert np.array_equal(np.asarray(decode(twice)), np.asarray(noise("RGB")))


def test_a_chunk_of_an_illegal_type_does_not_matter() -> None:
    for where in ("before", "after"):
        content = add(save(noise("RGB")), b"a\x80\x81b", b"something", where)
        assert np.array_equal(np.asarray(decode(content)), np.asarray(noise("RGB"))), where


# Animations -------------------------------------------------------------------------------------------------

SIZE = (12, 9)


class Part:
    """A frame of an animation: an image in mode RGBA at a place, and what is done before and after it."""

    def __init__(self, image: Image.Image, place: tuple[int, int] = (0, 0), disposal: int = 0, blending: int = 0):
        self.image, self.place, self.disposal, self.blending = image, place, disposal, blending


def animate(
    parts: list[Part],
    encode: Callable[[Image.Image], bytes] = save,
    *,
    still: Image.Image | None = None,
    stated: int | None = None,
) -> list[bytes]:
    """Returns the chunks of an animation, with the signature first.

    Args:
        still: an image outside the animation.
        stated: how many frames the file says it has.
    """
    number = iter(range(10**6))

    def control(part: Part) -> bytes:
        place = (*part.image.size, *part.place, 1, 10, part.disposal, part.blending)
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", next(number), *place))

    def pixels(content: bytes) -> bytes:
        found, place = b"", 8
        while place < len(content):
            (length,) = struct.unpack(">I", content[place : place + 4])
            if content[place + 4 : place + 8] == b"IDAT":
                found += content[place + 8 : place + 8 + length]
            place += 12 + length
        return found

    first = encode(still or parts[0].image)
    chunks = [first[: first.index(b"IDAT") - 4], chunk(b"acTL", struct.pack(">II", stated or len(parts), 0))]
    if still:
        chunks.append(chunk(b"IDAT", pixels(first)))
    for index, part in enumerate(parts):
        chunks.append(control(part))
        data = pixels(encode(part.image))
        if index == 0 and not still:
            chunks.append(chunk(b"IDAT", data))
        else:
            half = len(data) // 2
            chunks += [
                chunk(b"fdAT", struct.pack(">I", next(number)) + each) for each in (data[:half], data[half:])
            ]
    return [*chunks, chunk(b"IEND", b"")]


def shown(parts: list[Part], size: tuple[int, int] = SIZE) -> list[np.ndarray[Any, Any]]:
    """The frames as the specification composes them, in floating point, laid on white."""
    canvas = np.zeros((size[1], size[0], 4))
    frames = []
    for part in parts:
        x, y = part.place
        area = np.s_[y : y + part.image.height, x : x + part.image.width]
        before = canvas[area].copy()
        pixels = np.asarray(part.image.convert("RGBA")) / 255
        if part.blending:
            alpha, under = pixels[..., 3:], canvas[area]
            total = alpha + under[..., 3:] * (1 - alpha)
            mixed = pixels[..., :3] * alpha + under[..., :3] * under[..., 3:] * (1 - alpha)
            colors = np.divide(mixed, total, out=np.zeros_like(mixed), where=total > 0)
            pixels = np.concatenate((colors, total), axis=2)
        canvas[area] = pixels
        frames.append(255 * (canvas[..., :3] * canvas[..., 3:] + 1 - canvas[..., 3:]))
        if part.disposal == 1:
            canvas[area] = 0
        elif part.disposal == 2:
            canvas[area] = before
    return frames


def read(content: bytes) -> list[np.ndarray[Any, Any] | str]:
    """The frames that --frames all answers, and the types of the errors."""
    found: list[np.ndarray[Any, Any] | str] = []
    source = Source("a.png", lambda: io.BytesIO(content), in_memory=True)
    for each in expand_frames([source], FrameSelection()):
        try:
            found.append(np.asarray(decoding.load_image(each)).astype(float))
        except ImageError as error:
            found.append(error.type)
    return found


def random_parts(seed: int, count: int = 7) -> list[Part]:
    rng = np.random.default_rng(seed)
    parts = [Part(noise("RGBA", SIZE, seed), disposal=int(rng.integers(3)))]
    for _ in range(1, count):
        width, height = int(rng.integers(1, SIZE[0] + 1)), int(rng.integers(1, SIZE[1] + 1))
        place = int(rng.integers(SIZE[0] - width + 1)), int(rng.integers(SIZE[1] - height + 1))
        pixels = rng.integers(0, 256, (height, width, 4)).astype(np.uint8)
        image = Image.fromarray(pixels)
        parts.append(Part(image, place, int(rng.integers(3)), int(rng.integers(2))))
    return parts


@pytest.mark.parametrize("seed", range(12))
def test_frames_are_composed_as_the_specification_says(seed: int) -> None:
    parts = random_parts(seed)
    found = read(b"".join(animate(parts)))
    assert len(found) == len(parts)
    for frame, expected in zip(found, shown(parts), strict=True):
        assert isinstance(frame, np.ndarray)
        assert np.abs(frame - expected).max() < 3  # each step rounds to eight bits


def test_a_frame_is_composed_out_of_order() -> None:
    parts = random_parts(3)
    opened = opened_image.OpenedImage(io.BytesIO(b"".join(animate(parts))), decoding.MAX_PIXELS)
    for key in (5, 2, 6, 0, 1):
        assert np.abs(np.asarray(opened.decode(key)) - shown(parts)[key]).max() < 3


def test_transparent_entries_of_a_palette_are_laid_over() -> None:
    palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]

    def encode(image: Image.Image) -> bytes:
        return save(image, transparency=bytes((255, 0, 128, 255)))

    def image(*entries: int) -> Image.Image:
        found = Image.new("P", (len(entries), 1))
        found.putpalette(palette)
        found.putdata(entries)
        return found

    content = b"".join(animate([Part(image(0, 3, 0)), Part(image(1, 2, 2), blending=1)], encode))
    frames = read(content)
    assert np.abs(frames[1] - [[(255, 0, 0), (4, 4, 132), (127, 0, 128)]]).max() < 3  # type: ignore[operator]


def test_a_damaged_text_hides_no_frame() -> None:
    parts = random_parts(6, 3)
    chunks = animate(parts)
    text = bytearray(chunk(b"tEXt", b"Comment\0text"))
    text[-1] ^= 1
    found = read(b"".join([chunks[0], bytes(text), *chunks[1:]]))
    for frame, expected in zip(found, shown(parts), strict=True):
        assert np.abs(frame - expected).max() < 3  # type: ignore[operator]


def test_an_image_outside_the_animation_is_not_a_frame() -> None:
    parts = random_parts(1, 3)
    found = read(b"".join(animate(parts, still=noise("RGBA", SIZE, 9))))
    assert len(found) == 3
    assert np.abs(found[0] - shown(parts)[0]).max() < 3  # type: ignore[operator]


def test_a_profile_and_a_rotation_are_those_of_all_frames() -> None:
    parts = random_parts(2, 3)
    chunks = animate(parts)
    exif = Image.Exif()
    exif[274] = 3
    plain = read(b"".join(chunks))
    turned = read(b"".join([*chunks[:-1], chunk(b"eXIf", exif.tobytes()[6:]), chunks[-1]]))
    for before, after in zip(plain, turned, strict=True):
        assert np.array_equal(before[::-1, ::-1], after)  # type: ignore[index]


def damage_first_data(chunks: list[bytes]) -> None:
    index = next(place for place, each in enumerate(chunks) if each[4:8] == b"fdAT")
    chunks[index] = chunks[index][:-6] + bytes((chunks[index][-6] ^ 1,)) + chunks[index][-5:]


def test_a_damaged_frame_costs_those_that_are_laid_over_it() -> None:
    whole = [Part(noise("RGB", SIZE, seed)) for seed in range(4)]
    chunks = animate(whole)
    damage_first_data(chunks)
    frames = read(b"".join(chunks))
    assert frames[1] == "corrupt_image"
    for number in (0, 2, 3):
        assert np.array_equal(frames[number], np.asarray(whole[number].image))

    laid_over = random_parts(5)
    chunks = animate(laid_over)
    damage_first_data(chunks)
    assert read(b"".join(chunks))[1:] == ["corrupt_image"] * 6


@pytest.mark.parametrize("kind", [b"fcTL", b"fdAT"])
def test_a_control_that_is_damaged_ends_the_frames(kind: bytes) -> None:
    chunks = animate([Part(noise("RGB", SIZE, seed)) for seed in range(4)])
    index = [place for place, each in enumerate(chunks) if each[4:8] == kind][2]
    del chunks[index]
    found = read(b"".join(chunks))
    assert isinstance(found[0], np.ndarray)
    assert isinstance(found[1], np.ndarray) or kind == b"fdAT"
    assert found[-1] == "corrupt_image"


def test_a_count_that_is_not_true_is_reported() -> None:
    parts = [Part(noise("RGB", SIZE, seed)) for seed in range(3)]
    assert [type(each) for each in read(b"".join(animate(parts, stated=5)))][:3] == [np.ndarray] * 3
    assert read(b"".join(animate(parts, stated=5)))[3:] == ["corrupt_image"]
    assert len(read(b"".join(animate(parts, stated=2)))) == 2  # those beyond are not shown


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("content", [b"", struct.pack(">IIIIIHHBB", 7, 12, 9, 0, 0, 1, 10, 0, 0), b"\xff" * 26])
def test_a_control_without_an_animation_does_not_matter(content: bytes, where: str) -> None:
    image = noise("RGB")
    assert np.array_equal(np.asarray(decode(add(save(image), b"fcTL", content, where))), np.asarray(image))


def test_grey_of_16_bits_is_composed() -> None:
    def encode(image: Image.Image) -> bytes:
        return save(Image.fromarray(np.asarray(image).astype(np.uint16) * 257))

    parts = [Part(noise("L", SIZE, 1)), Part(noise("L", (5, 4), 2), (3, 2))]
    frames = read(b"".join(animate(parts, encode)))
    for frame, expected in zip(frames, shown(parts), strict=True):
        assert np.abs(frame - expected).max() < 2  # type: ignore[operator]


def test_the_limit_on_pixels_holds_before_a_canvas_is_made() -> None:
    chunks = animate([Part(noise("RGBA", (3, 2), 1), blending=1), Part(noise("RGBA", (3, 2), 2), blending=1)])
    header = struct.pack(">II", 60000, 60000) + chunks[0][24:29]
    chunks[0] = SIGNATURE + chunk(b"IHDR", header) + chunks[0][33:]
    assert read(b"".join(chunks)) == ["image_too_large", "image_too_large"]
