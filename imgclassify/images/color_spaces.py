"""Converts samples of a declared colour space to sRGB: by its transfer function and its primaries, in NumPy.

Light is linear, and 1 is white. Matrices are those of ICC profiles: to CIE XYZ adapted to D50.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from imgclassify.images.white_level import row_blocks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Curve: TypeAlias = Callable[[Floats], Floats]
    """Takes signals, 0..1, of shape (values,), and returns light: (values,), or (3, values) for each channel."""

HDR_WHITE = 203.0
"""cd/m² of diffuse white in high dynamic range (ITU-R BT.2408-7, 2.1)."""
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2
"""cd/m² and system gamma of the display for which HLG is meant (ITU-R BT.2100-2, table 5)."""

LINEAR, PQ, HLG = 8, 16, 18
"""TransferCharacteristics of ITU-T H.273."""
_D65, _D50, _DCI = (0.3127, 0.329), (0.3457, 0.3585), (0.314, 0.351)

Chromaticities: TypeAlias = "tuple[tuple[float, float], ...]"
"""CIE 1931 (x, y) of red, green, blue and white."""
_BT709: Chromaticities = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), _D65)
_BT2020: Chromaticities = ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), _D65)
_PRIMARIES: dict[int, tuple[str, Chromaticities]] = {
    1: ("BT.709", _BT709),
    4: ("BT.470 M", ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.31, 0.316))),
    5: ("BT.601 of 625 lines", ((0.64, 0.33), (0.29, 0.6), (0.15, 0.06), _D65)),
    6: ("BT.601", ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65)),
    7: ("SMPTE 240M", ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65)),
    9: ("BT.2020", _BT2020),
    11: ("DCI-P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _DCI)),
    12: ("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65)),
}
"""Names and chromaticities of the ColourPrimaries of ITU-T H.273, table 2."""

_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
"""The chromatic adaptation of ICC profiles (ICC.1:2022, annex E)."""
_LUMINANCE_BT2020 = (0.2627, 0.678, 0.0593)

_PEAK_SHARE = 0.999
"""The share of pixels that lie at or below the brightest light that is mapped to white."""
_PEAK_PIXELS = 2**20
"""How many pixels, about, are looked at to find it."""


class LightConversion(NamedTuple):
    """From signals through light to sRGB."""

    name: str
    curve: Curve
    matrix: Floats
    """(3, 3), from light in the space's primaries to light in those of sRGB."""
    is_hdr: bool = False
    """Whether light may be brighter than white."""
    is_scene: bool = False
    """Whether the curve's light is that of the scene, as in HLG."""
    is_narrow: bool = False
    """Whether black is 16 and white 235 of 255, as in video."""

    def to_srgb(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Converts (height, width, 3) samples, uint8 or uint16, to sRGB of the same shape, uint8.

        What is outside sRGB is clipped. If light is brighter than white, it is compressed: Reinhard et al.,
        "Photographic Tone Reproduction for Digital Images" (2002), equation 4, for the largest channel.
        """
        import numpy as np

        table = self._table(samples.dtype)
        step = max(1, int((samples.shape[0] * samples.shape[1] / _PEAK_PIXELS) ** 0.5))
        peak = 1.0
        if self.is_hdr:
            peak = float(np.quantile(self._light(samples[::step, ::step], table).max(axis=2), _PEAK_SHARE))
        encoded = np.empty(samples.shape, np.uint8)
        matrix = self.matrix.T.astype(np.float32)
        for rows in row_blocks(samples):
            light = self._light(samples[rows], table)
            if peak > 1:
                largest = light.max(axis=2, keepdims=True)
                light *= (1 + largest / peak**2) / (1 + largest)
            encoded[rows] = _encode(light @ matrix)
        return encoded

    def _table(self, dtype: np.dtype[Any]) -> NDArray[np.float32]:
        """Returns the light of every value of a type, for each channel, (3, values)."""
        import numpy as np

        largest = np.iinfo(dtype).max
        values = np.arange(largest + 1, dtype=np.float64)
        # ITU-T H.273, equations 21 and 27: more bits multiply the numbers.
        signal = (values * (256 / (largest + 1)) - 16) / 219 if self.is_narrow else values / largest
        with np.errstate(all="ignore"):
            light = np.nan_to_num(self.curve(signal.clip(0, 1)))
        return np.broadcast_to(light.clip(0, 1e4), (3, len(values))).astype(np.float32)

    def _light(self, samples: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np

        light = np.stack([table[channel][samples[:, :, channel]] for channel in range(3)], axis=2)
        if self.is_scene:  # BT.2100-2, table 5: the OOTF
            luminance = (light @ np.array(_LUMINANCE_BT2020, np.float32)).clip(1e-9, None)
            light *= luminance[:, :, None] ** np.float32(HLG_GAMMA - 1) * np.float32(HLG_PEAK / HDR_WHITE)
        return light


def coded_conversion(
    primaries: int, transfer: int, *, is_narrow: bool = False, matrix: Floats | None = None
) -> LightConversion | None:
    """Returns the conversion from coding-independent code points (ITU-T H.273). None if they say nothing.

    Args:
        primaries: ColourPrimaries. Those that are unknown or unspecified are taken for BT.2020 with PQ and HLG, and
            else for BT.709.
        transfer: TransferCharacteristics.
        matrix: from light to XYZ, in place of that of the primaries.
    """
    if transfer not in _TRANSFERS:
        return None
    transfer_name, curve = _TRANSFERS[transfer]
    is_hdr = transfer in (PQ, HLG)
    name, chromaticities = _PRIMARIES.get(primaries, ("BT.2020", _BT2020) if is_hdr else ("BT.709", _BT709))
    return LightConversion(
        f"{transfer_name}, {name}" if matrix is None else transfer_name,
        curve,
        xyz_to_srgb() @ (rgb_to_xyz(chromaticities) if matrix is None else matrix),
        is_hdr=is_hdr,
        is_scene=transfer == HLG,
        is_narrow=is_narrow,
    )


def gamma_conversion(gamma: float, chromaticities: Chromaticities | None = None) -> LightConversion:
    """Returns the conversion from samples that are light to the power of `gamma`."""
    name = "linear light" if gamma == 1 else f"gamma {gamma:g}"
    matrix = xyz_to_srgb() @ rgb_to_xyz(chromaticities or _BT709)
    return LightConversion(name, partial(power_light, 1 / gamma), matrix)


def curves_conversion(name: str, curves: Sequence[Curve], matrix: Floats | None = None) -> LightConversion:
    """Returns the conversion of a space with a curve for each channel.

    Args:
        matrix: from light to XYZ. None means the primaries of BT.709.
    """
    matrix = rgb_to_xyz(_BT709) if matrix is None else matrix
    return LightConversion(name, partial(_apply_curves, curves), xyz_to_srgb() @ matrix)


def _apply_curves(curves: Sequence[Curve], signal: Floats) -> Floats:
    import numpy as np

    return np.stack([curve(signal) for curve in curves])


# Matrices ---------------------------------------------------------------------------------------------------


def rgb_to_xyz(chromaticities: Chromaticities) -> Floats:
    """Returns the matrix, (3, 3), from light to XYZ adapted to D50.

    Raises:
        numpy.linalg.LinAlgError, ZeroDivisionError: there is none for these chromaticities.
    """
    import numpy as np

    *primaries, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in chromaticities)
    columns = np.stack(primaries, axis=1)
    matrix: Floats = _adaptation(white) @ (columns * np.linalg.solve(columns, white))
    return matrix


def _adaptation(white: Floats) -> Floats:
    import numpy as np

    bradford = np.array(_BRADFORD)
    x, y = _D50
    scale = (bradford @ np.array([x / y, 1, (1 - x - y) / y])) / (bradford @ white)
    matrix: Floats = np.linalg.inv(bradford) @ (scale[:, None] * bradford)
    return matrix


@cache
def xyz_to_srgb() -> Floats:
    """Returns the matrix, (3, 3), from XYZ adapted to D50 to light in the primaries of sRGB."""
    import numpy as np

    return np.linalg.inv(rgb_to_xyz(_BT709))


# Transfer functions -----------------------------------------------------------------------------------------


def pq_light(signal: Floats) -> Floats:
    """The EOTF of PQ (SMPTE ST 2084; ITU-R BT.2100-2, table 4)."""
    root = signal ** (32 / 2523)
    light: Floats = ((root - 0.8359375).clip(0, None) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
    return light * (10000 / HDR_WHITE)


def hlg_light(signal: Floats) -> Floats:
    """The inverse OETF of HLG, which gives light of the scene (ITU-R BT.2100-2, table 5)."""
    import numpy as np

    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def srgb_light(signal: Floats) -> Floats:
    """The inverse transfer function of sRGB (IEC 61966-2-1)."""
    import numpy as np

    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def table_light(table: Floats, signal: Floats) -> Floats:
    """A curve of which the light at evenly spaced signals is known, interpolated."""
    import numpy as np

    return np.interp(signal, np.linspace(0, 1, len(table)), table)


def power_light(exponent: float, signal: Floats) -> Floats:
    raised: Floats = signal**exponent
    return raised


def _logarithm(decades: float, signal: Floats) -> Floats:
    import numpy as np

    return np.where(signal > 0, 10.0 ** (decades * (signal - 1)), 0)


_VIDEO: tuple[str, Curve] = ("sRGB's curve", srgb_light)
"""BT.709 and its relatives are shown with about the curve of sRGB."""
_TRANSFERS: dict[int, tuple[str, Curve]] = {
    **dict.fromkeys((1, 6, 7, 11, 12, 13, 14, 15), _VIDEO),
    4: ("gamma 2.2", partial(power_light, 2.2)),
    5: ("gamma 2.8", partial(power_light, 2.8)),
    LINEAR: ("linear light", partial(power_light, 1.0)),
    9: ("logarithmic light", partial(_logarithm, 2.0)),
    10: ("logarithmic light", partial(_logarithm, 2.5)),
    PQ: ("PQ", pq_light),
    17: ("SMPTE ST 428", lambda signal: signal**2.6 * (52.37 / 48)),
    HLG: ("HLG", hlg_light),
}
"""Names and curves of the TransferCharacteristics of ITU-T H.273, table 3."""


def _encode(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Applies the transfer function of sRGB to light, clipped to 0..1."""
    import numpy as np

    encoded: NDArray[np.uint8] = _srgb_bytes()[np.rint(light.clip(0, 1) * 65535).astype(np.uint16)]
    return encoded


@cache
def _srgb_bytes() -> NDArray[np.uint8]:
    """Returns the byte of sRGB for each light, 0..65535. Bytes lie at least 20 of these apart."""
    import numpy as np

    light = np.arange(65536) / 65535
    signal = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    encoded: NDArray[np.uint8] = np.rint(signal * 255).astype(np.uint8)
    return encoded
