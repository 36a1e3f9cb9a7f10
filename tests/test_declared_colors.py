"""Colours that files declare. The references are formulas of benchmarks/color_spaces.py, and LittleCMS."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from benchmarks import color_spaces as spaces
from imgclassify.catalog import PreprocessSpec
from imgclassify.images import decoding, icc_profiles
from imgclassify.images.decoding import decode_image, load_image
from imgclassify.images.inputs import input_from_source
from imgclassify.images.isolation import IsolatedPreprocessor
from imgclassify.images.rgb_conversion import to_rgb
from imgclassify.sources import Source, file_source

RANDOM = np.random.default_rng(13)
PHOTO = np.asarray(
    Image.fromarray(RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
)
"""sRGB, (48, 64, 3)."""
LIGHT = spaces.linear(PHOTO / 255)
WIDE = spaces.in_space(LIGHT, "BT.2020")
SIGNALS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    8: lambda light: light,
    16: lambda light: spaces.pq(light * spaces.WHITE_NITS),
    18: lambda light: spaces.hlg(light * spaces.WHITE_NITS),
}
"""By the TransferCharacteristics of ITU-T H.273."""
LINEAR = spaces.gamma_curve(1)


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(decode_image(io.BytesIO(content)), dtype=int)


def stored(signal: np.ndarray, bits: int = 16) -> np.ndarray:
    return np.rint(signal * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def saved(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def by_little_cms(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    # Not the perceptual intent, which would also make the darkest colour black.
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"), intent)
    return np.asarray(converted, dtype=int)


# Coding-independent code points -----------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [8, 16, 18])
def test_a_png_of_16_bits_is_converted_to_srgb(transfer: int) -> None:
    found = decoded(spaces.png(stored(SIGNALS[transfer](WIDE)), spaces.cicp(9, transfer)))
    assert np.abs(found - PHOTO).max() <= 1


@pytest.mark.parametrize("transfer", [8, 16, 18])
def test_a_png_of_8_bits_is_converted_to_srgb(transfer: int) -> None:
    found = decoded(spaces.png(stored(SIGNALS[transfer](WIDE), 8), spaces.cicp(9, transfer)))
    assert np.abs(found - PHOTO).mean() < 1.5


@pytest.mark.parametrize("space", ["sRGB", "Display P3"])
def test_the_primaries_are_those_of_the_code(space: str) -> None:
    signal = spaces.pq(spaces.in_space(LIGHT, space) * spaces.WHITE_NITS)
    code = {"sRGB": 1, "Display P3": 12}[space]
    assert np.abs(decoded(spaces.png(stored(signal), spaces.cicp(code, 16))) - PHOTO).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_the_narrow_range_of_video_is_widened(bits: int) -> None:
    samples = (SIGNALS[16](WIDE) * 219 + 16) * 2 ** (bits - 8)
    values = np.rint(samples).astype(np.uint16 if bits > 8 else np.uint8)
    found = decoded(spaces.png(values, spaces.cicp(9, 16, full=0)))
    assert np.abs(found - PHOTO).mean() < (0.5 if bits == 16 else 2)


@pytest.mark.parametrize("transfer", [8, 16, 18])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_is_converted(transfer: int, bits: int) -> None:
    grey = PHOTO[:, :, 1]
    light = np.repeat(spaces.linear(grey / 255)[:, :, None], 3, axis=2)
    signal = SIGNALS[transfer](light)[:, :, 0]
    found = decoded(spaces.png(stored(signal, bits), spaces.cicp(9, transfer)))
    assert np.abs(found - grey[:, :, None]).max() <= (1 if bits == 16 else 14)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_are_converted_before_alpha_lays_them_on_white(channels: int, bits: int) -> None:
    photo = PHOTO if channels == 4 else PHOTO[:, :, [1, 1, 1]]
    signal = SIGNALS[16](spaces.in_space(spaces.linear(photo / 255), "BT.2020"))[:, :, : channels - 1]
    alpha = np.zeros((48, 64, 1))
    alpha[:, :20], alpha[:, 20:40] = 1, 0.5
    content = spaces.png(stored(np.concatenate((signal, alpha), axis=2), bits), spaces.cicp(9, 16))
    assert np.abs(decoded(content) - (photo * alpha + 255 * (1 - alpha))).max() <= (2 if bits == 16 else 6)


def test_one_transparent_colour_of_16_bits_becomes_white() -> None:
    values = stored(SIGNALS[16](WIDE))
    clear = struct.pack(">3H", *values[3, 4])
    found = decoded(spaces.png(values, spaces.cicp(9, 16), (b"tRNS", clear)))
    assert (found[3, 4] == 255).all()
    assert np.abs(found - PHOTO)[10:].max() <= 1
    grey = values[:, :, 0]
    found = decoded(spaces.png(grey, spaces.cicp(9, 16), (b"tRNS", struct.pack(">H", grey[3, 4]))))
    assert (found[3, 4] == 255).all()


def test_a_palette_is_converted() -> None:
    image = Image.fromarray(PHOTO).quantize(64)
    colors = np.array(image.getpalette()).reshape(1, -1, 3)
    expected = np.asarray(image.convert("RGB"), dtype=int)
    image.putpalette(stored(spaces.linear(colors / 255), 8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    content = buffer.getvalue()
    _, data = spaces.gama(1)
    chunk = struct.pack(">I", len(data)) + b"gAMA" + data + struct.pack(">I", zlib.crc32(b"gAMA" + data))
    assert np.abs(decoded(content[:33] + chunk + content[33:]) - expected).max() <= 14


def test_dark_pq_is_not_taken_for_fewer_bits() -> None:
    light = LIGHT * 0.004
    found = decoded(spaces.png(stored(SIGNALS[16](spaces.in_space(light, "BT.2020"))), spaces.cicp(9, 16)))
    assert found.max() < 30


def test_declared_bits_of_pq_may_be_the_lowest() -> None:
    values = stored(SIGNALS[16](WIDE), 12)
    content = spaces.png(values, spaces.cicp(9, 16), (b"sBIT", b"\x0c\x0c\x0c"))
    assert np.abs(decoded(content) - PHOTO).max() <= 2


@pytest.mark.parametrize("transfer", [16, 18])
def test_what_is_brighter_than_white_keeps_its_order(transfer: int) -> None:
    ramp = np.repeat(np.linspace(0, 4, 256)[None, :, None], 3, axis=2).repeat(8, axis=0)
    found = decoded(spaces.png(stored(SIGNALS[transfer](ramp)), spaces.cicp(9, transfer)))[0, :, 0]
    assert (np.diff(found) >= 0).all()
    assert found[-1] >= 254
    assert 180 < found[64] < 250  # white, of which 255 would leave nothing for what is brighter
    dark = spaces.srgb(np.linspace(0, 4, 256)) * 255
    assert np.abs(found - dark)[:7].max() < 12


# Other declarations of PNG ----------------------------------------------------------------------------------


def test_linear_light_by_gama() -> None:
    assert np.abs(decoded(spaces.png(stored(LIGHT), spaces.gama(1))) - PHOTO).max() <= 1
    wide = [
        round(number * 100000) for pair in np.roll(spaces.CHROMATICITIES["BT.2020"], 1, axis=0) for number in pair
    ]
    primaries = (b"cHRM", struct.pack(">8I", *wide))
    assert np.abs(decoded(spaces.png(stored(WIDE), spaces.gama(1), primaries)) - PHOTO).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("gamma", [0.45455, 0.45, 0.5, 1 / 1.8, 0.38, 0, 1e-5, 2.2, 21474.8])
def test_usual_and_impossible_gammas_change_nothing(gamma: float, bits: int) -> None:
    values = RANDOM.integers(0, 2**bits, (20, 20, 3)).astype(np.uint16 if bits == 16 else np.uint8)
    expected = values >> (bits - 8)
    assert (decoded(spaces.png(values, spaces.gama(gamma))) == expected).all()
    damaged = (b"cHRM", struct.pack(">8I", *range(0, 40000, 5000)))
    assert (decoded(spaces.png(values, spaces.gama(gamma), damaged)) == expected).all()


@pytest.mark.parametrize("gamma", [0.25, 0.3, 0.7, 0.8])
def test_far_gammas_are_converted(gamma: float) -> None:
    assert np.abs(decoded(spaces.png(stored(LIGHT**gamma), spaces.gama(gamma))) - PHOTO).max() <= 1


PQ, P3 = spaces.cicp(9, 16), spaces.iccp(spaces.rgb_profile("Display P3", spaces.SRGB_CURVE))
SRGB_CHUNK, LINEAR_CHUNK = (b"sRGB", b"\0"), spaces.iccp(spaces.rgb_profile("sRGB", LINEAR))


@pytest.mark.parametrize(
    ("chunks", "reference"),
    [
        ((P3, PQ), 16),
        ((LINEAR_CHUNK, spaces.cicp(1, 13)), None),
        ((SRGB_CHUNK, spaces.gama(1), PQ), 16),
        ((spaces.gama(0.45455), LINEAR_CHUNK), 8),
        ((spaces.gama(1), P3), None),
        ((spaces.gama(1), SRGB_CHUNK), None),
        ((spaces.gama(1), spaces.cicp(2, 2)), 8),
        ((spaces.gama(1), spaces.iccp(b"damaged")), 8),
        ((spaces.gama(1), (b"cICP", b"\x09")), 8),
    ],
)
def test_the_order_of_the_chunks_that_count(chunks: tuple[tuple[bytes, bytes], ...], reference: int | None) -> None:
    """Of the third edition of PNG: cICP, iCCP, sRGB, gAMA."""
    light = WIDE if reference == 16 else LIGHT
    signal = SIGNALS[reference](light) if reference else PHOTO / 255
    values = stored(signal)
    found = decoded(spaces.png(values, *chunks))
    assert np.abs(found - (PHOTO if reference else values >> 8)).max() <= (reference is not None)


# ICC profiles -----------------------------------------------------------------------------------------------

FAR_PROFILES = {
    "linear": spaces.rgb_profile("sRGB", LINEAR),
    "linear, without a number": spaces.rgb_profile("BT.2020", b"curv" + bytes(8)),
    "a table": spaces.rgb_profile("Display P3", spaces.table_curve(np.linspace(0, 1, 500) ** 1.1)),
    "parametric": spaces.rgb_profile("sRGB", spaces.parametric_curve(4, 1.2, 0.95, 0.01, 0.9, 0.1, 0.02, 0.01)),
    "parametric, flat": spaces.rgb_profile("sRGB", spaces.parametric_curve(2, 1.2, 0.9, -0.05, 0.02)),
    "ProPhoto RGB": spaces.rgb_profile("ProPhoto RGB", spaces.gamma_curve(1.8)),
    **{
        order: spaces.rgb_profile("sRGB", spaces.SRGB_CURVE, order=order)
        for order in ("bgr", "gbr", "brg", "grb", "rbg")
    },
}
NEAR_PROFILES = {
    "sRGB": spaces.rgb_profile("sRGB", spaces.SRGB_CURVE),
    "Display P3": spaces.rgb_profile("Display P3", spaces.SRGB_CURVE),
    "Adobe RGB": spaces.rgb_profile("Adobe RGB", spaces.gamma_curve(2.19921875)),
    "BT.2020": spaces.rgb_profile("BT.2020", spaces.SRGB_CURVE),
    "gamma 1.8": spaces.rgb_profile("sRGB", spaces.gamma_curve(1.8)),
    "grey": spaces.grey_profile(LINEAR),
    "CMYK": spaces.profile(b"CMYK", {}),
    "black": spaces.rgb_profile("sRGB", spaces.table_curve(np.zeros(9))),
}
LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
}


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("name", FAR_PROFILES)
def test_profiles_far_from_srgb_are_applied_as_little_cms_does(name: str, form: str) -> None:
    pixels = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = decoded(saved(pixels, form, icc_profile=FAR_PROFILES[name], **LOSSLESS[form]))
    assert np.abs(found - by_little_cms(pixels, FAR_PROFILES[name])).max() <= 1


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("name", NEAR_PROFILES)
def test_other_profiles_change_nothing(name: str, form: str) -> None:
    pixels = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = decoded(saved(pixels, form, icc_profile=NEAR_PROFILES[name], **LOSSLESS[form]))
    assert (found == pixels).all()


@pytest.mark.parametrize("fast", [False, True])
def test_a_jpeg_whose_channels_are_exchanged(fast: bool) -> None:
    profile = FAR_PROFILES["bgr"]
    large = np.asarray(Image.fromarray(PHOTO).resize((640, 480)))
    plain, exchanged = (
        saved(large[:, :, ::step], "JPEG", quality=95, **more)
        for step, more in (
            (1, {}),
            (-1, {"icc_profile": profile}),
        )
    )
    if fast:
        found, reference = (
            np.asarray(decoding.decode_reduced_image(io.BytesIO(content), lambda size: (60, 80))[0], dtype=int)
            for content in (exchanged, plain)
        )
        assert found.shape == (120, 160, 3)
    else:
        found, reference = decoded(exchanged), decoded(plain)
    assert np.abs(found - reference).mean() < 3


@pytest.mark.parametrize("transfer", [16, 18])
@pytest.mark.parametrize("is_shown", [False, True])
def test_profiles_of_high_dynamic_range_are_known_by_their_curve(transfer: int, is_shown: bool) -> None:
    """Some have the curve of HLG with the display's gamma. Their white is the brightest light of the curve."""
    signal = np.linspace(0, 1, 4096)
    grid = np.linspace(0, 1, 200001) ** 3
    if transfer == 16:
        light = np.interp(signal, spaces.pq(grid * 10000), grid)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12) ** (
            1.2 if is_shown else 1
        )
    profile = spaces.rgb_profile("BT.2020", spaces.table_curve(light))
    found = decoded(spaces.png(stored(SIGNALS[transfer](WIDE)), spaces.iccp(profile)))
    assert np.abs(found - PHOTO).max() <= 2


@pytest.mark.parametrize("transfer", [8, 16, 18])
def test_the_code_points_in_a_profile_count(transfer: int) -> None:
    tag = b"cicp\0\0\0\0" + bytes([9, transfer, 0, 1])
    profile = spaces.rgb_profile("BT.2020", spaces.gamma_curve(2.2), more={b"cicp": tag})
    found = decoded(spaces.png(stored(SIGNALS[transfer](WIDE)), spaces.iccp(profile)))
    assert np.abs(found - PHOTO).max() <= 1


def table_profile(function: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """A profile whose table gives the Lab of a function of RGB (lut16Type)."""
    axis = np.linspace(0, 1, 9)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    xyz = spaces.linear(function(grid)) @ spaces.to_xyz("sRGB").T / np.array(spaces.D50_XYZ)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack(
        (116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])), axis=1
    )
    numbers = np.rint((lab + np.array([0, 128, 128])) * (652.8, 256, 256)).clip(0, 65535).astype(">u2").tobytes()
    ends = struct.pack(">6H", *[0, 65535] * 3)
    head = bytes([3, 3, 9, 0]) + struct.pack(">9i2H", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536, 2, 2)
    return spaces.profile(b"RGB ", {b"A2B0": b"mft2\0\0\0\0" + head + ends + numbers + ends}, encoding=b"Lab ")


def test_profiles_of_tables_are_applied_by_little_cms() -> None:
    exchanged = table_profile(lambda rgb: rgb[:, ::-1])
    found = decoded(spaces.png(PHOTO[:, :, ::-1], spaces.iccp(exchanged)))
    assert np.abs(found - PHOTO).mean() < 3
    deep = decoded(spaces.png(stored(PHOTO[:, :, ::-1] / 255), spaces.iccp(exchanged)))
    assert np.abs(deep - PHOTO).mean() < 3
    same = table_profile(lambda rgb: rgb)
    assert (decoded(spaces.png(PHOTO, spaces.iccp(same))) == PHOTO).all()


def test_damaged_profiles_change_nothing() -> None:
    profile = FAR_PROFILES["a table"]
    start = profile.index(b"curv")
    damaged = [profile[:length] for length in range(0, start + 12, 7)]
    damaged += [profile[:128] + b"\xff" * 400, profile.replace(b"rXYZ", b"zzzz"), profile.replace(b"curv", b"????")]
    damaged += [profile.replace(b"acsp", b"scap"), bytes(1000)]
    tables = table_profile(lambda rgb: rgb[:, ::-1])
    damaged += [tables.replace(b"mft2", b"????"), tables[: len(tables) // 2]]
    for content in damaged:
        assert (decoded(saved(PHOTO, "TIFF", icc_profile=content or b"\0")) == PHOTO).all()


def test_a_changed_byte_of_a_profile_never_refuses_the_image() -> None:
    profiles = [table_profile(lambda rgb: rgb[:, ::-1]), FAR_PROFILES["parametric"], FAR_PROFILES["a table"]]
    for _ in range(150):
        content = bytearray(profiles[RANDOM.integers(len(profiles))])
        for place in RANDOM.integers(0, min(len(content), 600), RANDOM.integers(1, 6)):
            content[place] = RANDOM.integers(256)
        assert decoded(saved(PHOTO[:8, :8], "PNG", icc_profile=bytes(content))).shape == (8, 8, 3)


def test_a_huge_profile_is_ignored_and_named(caplog: pytest.LogCaptureFixture) -> None:
    profile = FAR_PROFILES["bgr"].ljust(icc_profiles.MAX_BYTES + 1, b"\0")
    content = saved(PHOTO, "JPEG", icc_profile=profile)
    with caplog.at_level(logging.INFO, "imgclassify"):
        found = load_image(Source("huge.jpg", partial(io.BytesIO, content)))
    assert (np.asarray(found) == np.asarray(Image.open(io.BytesIO(content)))).all()
    assert "huge.jpg: its ICC profile is ignored, because it is larger than 4 MiB" in caplog.messages


def test_grey_profiles() -> None:
    grey = PHOTO[:, :, 1]
    linear = stored(spaces.linear(grey / 255), 8)
    for form in ("PNG", "TIFF"):
        found = decoded(saved(linear, form, icc_profile=spaces.grey_profile(LINEAR)))
        assert np.abs(found - grey[:, :, None]).max() <= 14
        assert np.abs(found - grey[:, :, None]).mean() < 1.5
        usual = saved(grey, form, icc_profile=spaces.grey_profile(spaces.gamma_curve(2.2)))
        assert (decoded(usual) == grey[:, :, None]).all()


# TIFF -------------------------------------------------------------------------------------------------------


def tiff(values: np.ndarray, *tags: tuple[Any, ...], **options: Any) -> bytes:
    buffer = io.BytesIO()
    options.setdefault("photometric", "rgb" if values.ndim == 3 else "minisblack")
    tifffile.imwrite(buffer, values, extratags=[(*tag, True) for tag in tags], metadata=None, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_a_tiff_with_a_linear_profile(kind: str, planar: bool) -> None:
    values = WIDE.astype("f4") if kind == "f4" else stored(WIDE, 8 * int(kind[1]))
    layout: dict[str, Any] = {"planarconfig": "separate"} if planar else {}
    planes = np.moveaxis(values, 2, 0) if planar else values
    found = decoded(tiff(planes, iccprofile=spaces.rgb_profile("BT.2020", LINEAR), **layout))
    assert np.abs(found - PHOTO).max() <= (14 if kind == "u1" else 1)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_a_grey_tiff_with_a_linear_profile(photometric: str) -> None:
    grey = PHOTO[:, :, 1]
    values = stored(spaces.linear(grey / 255))
    values = 65535 - values if photometric == "miniswhite" else values
    found = decoded(tiff(values, photometric=photometric, iccprofile=spaces.grey_profile(LINEAR)))
    assert np.abs(found - grey[:, :, None]).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("exponent", [1.0, 2.2])
def test_the_transfer_function_of_a_tiff(bits: int, channels: int, exponent: float) -> None:
    table = np.tile(np.rint(np.linspace(0, 1, 2**bits) ** exponent * 65535).astype(int), channels)
    values = stored(LIGHT ** (1 / exponent), bits)
    found = decoded(tiff(values, (301, "H", len(table), table.tolist())))
    if exponent == 1:
        assert np.abs(found - PHOTO).max() <= (14 if bits == 8 else 1)
    else:
        assert np.abs(found - values / (2 ** (bits - 8)) * (1 if bits == 8 else 256 * 255 / 65535)).max() <= 1


# Other formats ----------------------------------------------------------------------------------------------


def avif(signal: np.ndarray, primaries: int, transfer: int, **options: Any) -> bytes:
    """What Pillow writes, with other code points in its box."""
    content = bytearray(saved(stored(signal, 8), "AVIF", quality=100, subsampling="4:4:4", **options))
    place = content.index(b"colrnclx") + 8
    content[place : place + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(content)


@pytest.mark.parametrize("transfer", [8, 16, 18])
def test_an_avif_is_converted(transfer: int) -> None:
    found = decoded(avif(SIGNALS[transfer](WIDE), 9, transfer))
    assert np.abs(found - PHOTO).mean() < 4
    raw = decoded(avif(PHOTO / 255, 1, 13))
    assert np.abs(raw - PHOTO).mean() < 2
    assert (decoded(avif(PHOTO / 255, 12, 13)) == raw).all()


@pytest.mark.parametrize("transfer", [8, 16, 18])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_heic_is_converted_from_all_of_its_bits(transfer: int, alpha: bool) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    values = stored(SIGNALS[transfer](WIDE))
    if alpha:
        values = np.concatenate((values, np.full((48, 64, 1), 65535, np.uint16)), axis=2)
    buffer = io.BytesIO()
    pillow_heif.encode(
        "RGBA;16" if alpha else "RGB;16",
        (64, 48),
        values.tobytes(),
        buffer,
        quality=-1,
        chroma=444,
        color_primaries=9,
        transfer_characteristics=transfer,
        matrix_coefficients=0,
        full_range_flag=1,
    )
    found = decoded(buffer.getvalue())
    assert np.abs(found - PHOTO).mean() < 0.8  # from 8 bits, it is 1.1 for PQ


def test_a_jpeg_xl_with_a_profile(tmp_path: Path) -> None:
    """The plugin writes profiles only of JPEGs that it packs."""
    pytest.importorskip("pillow_jxl")
    path = tmp_path / "photo.jpg"
    Image.fromarray(PHOTO[:, :, ::-1]).save(path, icc_profile=FAR_PROFILES["bgr"])
    with Image.open(path) as image:
        image.save(tmp_path / "photo.jxl", lossless_jpeg=True)
    packed = decoded((tmp_path / "photo.jxl").read_bytes())
    assert (packed == decoded(path.read_bytes())).all()
    assert np.abs(packed - PHOTO).mean() < 5


def test_a_jpeg_2000_with_a_profile() -> None:
    content = saved(PHOTO[:, :, ::-1], "JPEG2000", irreversible=False)
    place = content.index(b"colr") - 4
    (length,) = struct.unpack_from(">I", content, place)
    profile = FAR_PROFILES["bgr"]
    grown = struct.pack(">I", 11 + len(profile)) + b"colr\2\0\0" + profile
    head = content.index(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", content, head)
    content = content[:place] + grown + content[place + length :]
    content = content[:head] + struct.pack(">I", size + len(grown) - length) + content[head + 4 :]
    assert np.abs(decoded(content) - PHOTO).max() <= 1


# Images without a file, workers, notes ----------------------------------------------------------------------


def test_an_image_in_memory_is_converted_alike() -> None:
    content = saved(PHOTO[:, :, ::-1], "PNG", icc_profile=FAR_PROFILES["bgr"])
    with Image.open(io.BytesIO(content)) as image:
        assert np.abs(np.asarray(to_rgb(image), dtype=int) - PHOTO).max() <= 1
        assert (np.asarray(image) == PHOTO[:, :, ::-1]).all()
        turned = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])), ImageCms.createProfile("sRGB")
        )
        assert turned
        assert (np.asarray(to_rgb(turned)) == np.asarray(turned)).all()


def test_a_note_says_what_was_converted(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "hdr.png"
    path.write_bytes(spaces.png(stored(SIGNALS[16](WIDE)), spaces.cicp(9, 16)))
    note = "hdr.png: colours converted to sRGB (PQ, BT.2020)"
    spec = PreprocessSpec(32, (32, 32), "bilinear", True, (0.5,) * 3, (0.5,) * 3, "center")
    out = np.empty((32, 32, 3), np.uint8)
    with caplog.at_level(logging.INFO, "imgclassify"):
        whole = load_image(file_source(str(path)))
        assert any(message.endswith(note) for message in caplog.messages)
        caplog.clear()
        preprocess = IsolatedPreprocessor("exact", spec)
        preprocess(input_from_source(file_source(str(path))), out)
        preprocess.close()
    assert any(message.endswith(note) for message in caplog.messages)
    from imgclassify.images.preprocessing import resize_and_crop

    assert (out == resize_and_crop(whole, spec)).all()


def test_an_ordinary_jpeg_imports_nothing_for_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(PHOTO, "JPEG"))
    code = "import sys; from imgclassify.sources import file_source; "
    code += "from imgclassify.images.decoding import load_image; "
    code += f"load_image(file_source({str(path)!r})); "
    code += "print([name for name in sys.modules if 'color' in name or 'icc' in name or name == 'PIL.ImageCms'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in eval(done.stdout) if name.startswith(("imgclassify", "PIL.ImageCms"))]  # noqa: S307


# Alpha that is none -----------------------------------------------------------------------------------------


def bitmap(pixels: np.ndarray, *, header: int, masks: tuple[int, ...]) -> bytes:
    """A BMP of 32 bits with masks, from (H, W, 4) of red, green, blue and alpha."""
    values = np.zeros(pixels.shape[:2], np.uint32)
    for channel, mask in enumerate(masks):
        if mask:
            values |= pixels[:, :, channel].astype(np.uint32) << np.uint32((mask & -mask).bit_length() - 1)
    data = values[::-1].astype("<u4").tobytes()
    height, width = values.shape
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, 3, len(data), 2835, 2835, 0, 0)
    info = (info + struct.pack("<4I", *masks)).ljust(header, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + len(info) + len(data), 0, 0, 14 + len(info)) + info + data


@pytest.mark.parametrize("header", [56, 108, 124])
@pytest.mark.parametrize("masks", [(0xFF0000, 0xFF00, 0xFF, 0xFF << 24), (0xFF, 0xFF00, 0xFF0000, 0xFF << 24)])
def test_a_bitmap_whose_alpha_is_0_everywhere_is_opaque(header: int, masks: tuple[int, ...]) -> None:
    clear = np.zeros((48, 64, 1), np.uint8)
    content = bitmap(np.concatenate((PHOTO, clear), axis=2), header=header, masks=masks)
    assert (decoded(content) == PHOTO).all()
    partly = clear.copy()
    partly[0, 0] = 1
    found = decoded(bitmap(np.concatenate((PHOTO, partly), axis=2), header=header, masks=masks))
    assert (found[1:] == 255).all()


def test_a_fourth_channel_of_a_tiff_that_is_not_said_to_be_alpha() -> None:
    """0 everywhere, it is unused; else it is alpha, as in Pillow. What is said to be alpha always is."""
    for kind in ("u1", "u2"):
        whole = stored(PHOTO / 255, 8 * int(kind[1]))
        values = np.concatenate((whole, np.zeros((48, 64, 1), whole.dtype)), axis=2)
        said = tiff(values, photometric="rgb", extrasamples=["unassalpha"])
        assert (decoded(said) == 255).all()
        unsaid = said.replace(struct.pack("<HH", 338, 3), struct.pack("<HH", 65000, 3))
        assert unsaid != said
        assert (decoded(unsaid) == PHOTO).all()


def test_a_png_that_is_transparent_everywhere_is_white() -> None:
    values = np.concatenate((PHOTO, np.zeros((48, 64, 1), np.uint8)), axis=2)
    assert (decoded(spaces.png(values)) == 255).all()
