"""Writes images in other colour spaces than sRGB, from formulas of the standards."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WHITE_NITS = 203.0
"""cd/m² of diffuse white (ITU-R BT.2408)."""
D50_XYZ = (0.9642, 1.0, 0.8249)
"""The white of ICC profiles."""
_D65, _D50 = (0.3127, 0.329), (0.3457, 0.3585)
CHROMATICITIES = {
    "sRGB": ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), _D65),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65),
    "BT.2020": ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), _D65),
    "ProPhoto RGB": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), _D50),
}
"""CIE (x, y) of red, green, blue and white."""


def linear(signal: Floats) -> Floats:
    """Light, 0..1, from sRGB (IEC 61966-2-1)."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def srgb(light: Floats) -> Floats:
    """sRGB, 0..1, from light, which is clipped."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq(nits: Floats) -> Floats:
    """The signal, 0..1, of light in cd/m² (SMPTE ST 2084)."""
    root = (nits.clip(0, 10000) / 10000) ** 0.1593017578125
    signal: Floats = ((0.8359375 + 18.8515625 * root) / (1 + 18.6875 * root)) ** 78.84375
    return signal


def hlg(nits: Floats) -> Floats:
    """The signal, 0..1, of light in cd/m² of a display of 1000 cd/m², (..., 3).

    From ITU-R BT.2100: the inverse OOTF, then the OETF.
    """
    shown = nits / 1000
    luminance = (shown @ np.array([0.2627, 0.678, 0.0593])).clip(1e-6, None)[..., None]
    scene = shown * luminance ** (-0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log((12 * scene - b).clip(1e-9, None)) + c)


def to_xyz(space: str) -> Floats:
    """The matrix from light in a space's primaries to XYZ, adapted to D50 with Bradford's matrix."""
    *primaries, white = ((x / y, 1.0, (1 - x - y) / y) for x, y in CHROMATICITIES[space])
    columns = np.array(primaries).T
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gains = (bradford @ np.array(D50_XYZ)) / (bradford @ np.array(white))
    adapted: Floats = np.linalg.inv(bradford) @ np.diag(gains) @ bradford @ columns
    return adapted * np.linalg.solve(adapted, np.array(D50_XYZ))


def in_space(light: Floats, space: str) -> Floats:
    """Light in a space's primaries from light in those of sRGB, (..., 3), clipped to 0..1."""
    converted: Floats = light @ (np.linalg.inv(to_xyz(space)) @ to_xyz("sRGB")).T
    return converted.clip(0, 1)


# ICC profiles (ICC.1:2022) ----------------------------------------------------------------------------------


def gamma_curve(exponent: float) -> bytes:
    """A curveType: light is the signal to this power."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def table_curve(light: Floats) -> bytes:
    """A curveType: light, 0..1, at evenly spaced signals."""
    return b"curv\0\0\0\0" + struct.pack(f">I{len(light)}H", len(light), *np.rint(light * 65535).astype(int))


def parametric_curve(form: int, *parameters: float) -> bytes:
    """A parametricCurveType."""
    numbers = [round(number * 65536) for number in parameters]
    return b"para\0\0\0\0" + struct.pack(f">HH{len(numbers)}i", form, 0, *numbers)


SRGB_CURVE = parametric_curve(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def xyz_tag(xyz: Floats) -> bytes:
    """An XYZType."""
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(number) * 65536) for number in xyz))


def rgb_profile(space: str, curve: bytes, *, order: str = "rgb", more: dict[bytes, bytes] | None = None) -> bytes:
    """A profile of primaries and a curve. `order` says of which colour the first, second and third channel are."""
    columns = dict(zip("rgb", to_xyz(space).T, strict=True))
    tags = {f"{name}XYZ".encode(): xyz_tag(columns[color]) for name, color in zip("rgb", order, strict=True)}
    return profile(b"RGB ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve), **(more or {})})


def grey_profile(curve: bytes) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve})


def profile(space: bytes, tags: dict[bytes, bytes], *, encoding: bytes = b"XYZ ") -> bytes:
    """A profile of a display, with tags."""
    text = "test".encode("utf-16-be")
    words = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {b"desc": words, b"cprt": words, b"wtpt": xyz_tag(np.array(D50_XYZ)), **tags}
    start = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag + b"\0" * (-len(tag) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x", start + len(data), 0x04400000, b"mntr", space, encoding, b"acsp")
    return (header + xyz_tag(np.array(D50_XYZ))[8:]).ljust(128, b"\0") + table + data


# PNG --------------------------------------------------------------------------------------------------------


def png(values: NDArray[np.unsignedinteger], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of uint8 or uint16, (H, W) or (H, W, 2 to 4), with chunks before the pixels."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    size = values.dtype.itemsize
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8 * size, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{size}").tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def cicp(primaries: int, transfer: int, *, full: int = 1) -> tuple[bytes, bytes]:
    """The chunk cICP (ITU-T H.273)."""
    return b"cICP", bytes([primaries, transfer, 0, full])


def gama(exponent: float) -> tuple[bytes, bytes]:
    """The chunk gAMA: samples are light to this power."""
    return b"gAMA", struct.pack(">I", round(exponent * 100000))


def iccp(content: bytes) -> tuple[bytes, bytes]:
    """The chunk iCCP."""
    return b"iCCP", b"test\0\0" + zlib.compress(content)
