"""JPEG XL: the pixels that were written, within the limits. Needs pillow-jxl-plugin."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from conftest import encoded, noise
from PIL import Image

from imgclassify.errors import CorruptImageError, ImageTooLargeError
from imgclassify.images import decoding

pytest.importorskip("pillow_jxl")

from imgclassify.images.jpeg_xl import read_size


def decoded(content: bytes, **options: int) -> np.ndarray:
    return np.asarray(decoding.decode_image(io.BytesIO(content), **options))


@pytest.mark.parametrize("use_container", [False, True])
@pytest.mark.parametrize(
    "size",
    [(1, 1), (8, 8), (256, 256), (300, 200), (640, 480), (999, 3), (2, 1000), (512, 256), (600, 500), (9000, 1)],
)
def test_lossless_pixels_are_kept_and_the_header_gives_the_size(size: tuple[int, int], use_container: bool) -> None:
    image = noise(*size)
    content = encoded(image, "JPEGXL", lossless=True, use_container=use_container)
    assert read_size(content) == size
    assert (decoded(content) == np.asarray(image)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_modes_become_what_they_become_as_png(mode: str) -> None:
    image = noise(40, 30).convert(mode)
    if "A" in mode:
        image.putalpha(noise(40, 30, seed=1).convert("L"))
    assert (decoded(encoded(image, "JPEGXL", lossless=True)) == decoded(encoded(image, "PNG"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_inside_is_turned_once(orientation: int, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(noise(64, 40), "JPEG", exif=exif, quality=95))
    with Image.open(path) as jpeg:
        content = encoded(jpeg, "JPEGXL", lossless_jpeg=True)
    assert b"jbrd" in content
    assert np.abs(decoded(content).astype(int) - decoded(path.read_bytes())).max() <= 2


def test_too_many_pixels_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from imgclassify.images import jpeg_xl

    def fail(_stream: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(jpeg_xl, "JXLImageFile", fail)
    for use_container in (False, True):
        content = encoded(noise(100, 101), "JPEGXL", use_container=use_container)
        with pytest.raises(ImageTooLargeError, match="100 × 101"):
            decoded(content, max_pixels=10_000)


def test_a_codestream_in_small_parts_has_its_size() -> None:
    naked = encoded(noise(300, 200), "JPEGXL", use_container=False)
    content = b"\0\0\0\x0cJXL \r\n\x87\n"
    for index in range(5):
        part = naked[3 * index : 3 * index + 3] if index < 4 else naked[12:]
        content += struct.pack(">I4sI", 12 + len(part), b"jxlp", index | (index == 4) << 31) + part
    assert read_size(content) == (300, 200)


def test_damage_and_truncation_are_errors() -> None:
    content = encoded(noise(200, 200), "JPEGXL", lossless=True)
    for length in (2, 3, 10, 100, len(content) // 2, len(content) - 100):
        with pytest.raises(CorruptImageError, match="codestream"):
            decoded(content[:length])
    generator = np.random.default_rng(3)
    for _ in range(50):
        damaged = bytearray(content)
        damaged[generator.integers(2, len(content))] ^= 0xFF
        with suppress(CorruptImageError, ImageTooLargeError):
            decoded(bytes(damaged))
