"""Reads what an ICC profile says about colours (ICC.1:2022), as a conversion to sRGB.

Profiles of curves and a matrix are converted in NumPy, at the depth of the samples. LittleCMS applies
those of tables.
"""

from __future__ import annotations

import io
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.images.color_spaces import (
    HLG,
    HLG_GAMMA,
    PQ,
    LightConversion,
    coded_conversion,
    curves_conversion,
    hlg_light,
    power_light,
    pq_light,
    table_light,
    xyz_to_srgb,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.images.color_spaces import Curve, Floats

MAX_BYTES = 2**22
"""Limit on a profile. Those of cameras take some kilobytes, those of printers up to two million bytes."""
_MOST_TAGS = 2**8
_MOST_VALUES = 2**16
"""Limit on the values of a curve."""

_HEADER_BYTES = 128
_COLORANTS = (b"rXYZ", b"gXYZ", b"bXYZ")
_CURVES = (b"rTRC", b"gTRC", b"bTRC")
_GREY_CURVE = b"kTRC"
_TABLES = (b"A2B0", b"A2B1", b"A2B2")
_ELEMENTS = (b"D2B0", b"D2B1", b"D2B2", b"D2B3")
"""Transforms of any number of steps, which nothing limits. Profiles that have them are ignored."""

_NAME = "ICC profile"
_SIMILAR = 0.1
"""How far the logarithm of a curve may be off that of PQ or HLG."""


class TableConversion(NamedTuple):
    """From the colours of a profile of tables to sRGB, by LittleCMS."""

    name: str
    profile: bytes
    is_hdr: bool = False

    def to_srgb(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Converts (height, width, 3) samples, of which the high bytes are taken, to sRGB of the same shape.

        Raises:
            ValueError, PIL.ImageCms.PyCMSError: LittleCMS refuses the profile.
        """
        import numpy as np
        from PIL import Image, ImageCms

        if samples.dtype != np.uint8:
            samples = (samples >> 8).astype(np.uint8)
        source = ImageCms.ImageCmsProfile(io.BytesIO(self.profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        image = Image.fromarray(samples)
        ImageCms.applyTransform(image, transform, inPlace=True)
        return np.asarray(image)


def read_conversion(profile: bytes, *, is_grey: bool) -> LightConversion | TableConversion | None:
    """Returns the conversion from the colours of a profile to sRGB.

    Args:
        is_grey: whether the samples are grey. Their profile must be of grey then, and else of RGB.

    Returns:
        None if the profile is of other colours, such as CMYK, or of a kind that is ignored.

    Raises:
        Exception: the profile is damaged.
    """
    space, encoding, magic = profile[16:20], profile[20:24], profile[36:40]
    if magic != b"acsp" or space != (b"GRAY" if is_grey else b"RGB ") or len(profile) > MAX_BYTES:
        return None
    tags = _read_tags(profile)
    if tags.get(b"cicp", b"")[:4] == b"cicp":
        primaries, transfer, _, full = tags[b"cicp"][8:12]
        if coded := coded_conversion(primaries, transfer, is_narrow=not full):
            return coded._replace(name=f"{coded.name}; {_NAME}")
    if not tags.keys().isdisjoint(_ELEMENTS):
        return None
    if not is_grey and not tags.keys().isdisjoint(_TABLES):
        return TableConversion(_NAME, profile)
    if encoding != b"XYZ " and not is_grey:
        return None
    return _curve_conversion(tags, is_grey=is_grey)


def _read_tags(profile: bytes) -> dict[bytes, bytes]:
    """Returns the contents of the tags. Those beyond the end are left out."""
    (count,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    tags = {}
    for index in range(min(count, _MOST_TAGS)):
        name, offset, size = struct.unpack_from(">4sII", profile, _HEADER_BYTES + 4 + 12 * index)
        if offset + size <= len(profile):
            tags[name] = profile[offset : offset + size]
    return tags


def _curve_conversion(tags: dict[bytes, bytes], *, is_grey: bool) -> LightConversion:
    import numpy as np

    if is_grey:
        # Grey of the sRGB primaries stays grey.
        matrix = np.linalg.inv(xyz_to_srgb())
        curves = [_read_curve(tags[_GREY_CURVE])] * 3
    else:
        matrix = np.stack([_read_xyz(tags[name]) for name in _COLORANTS], axis=1)
        curves = [_read_curve(tags[name]) for name in _CURVES]
    if transfer := _find_transfer(curves[1]):
        coded = coded_conversion(9, transfer, matrix=matrix)
        assert coded is not None
        return coded._replace(name=f"{coded.name}; {_NAME}")
    return curves_conversion(_NAME, curves, matrix)


def _read_xyz(tag: bytes) -> Floats:
    """Reads a tag of XYZType (ICC.1:2022, 10.31)."""
    import numpy as np

    if tag[:4] != b"XYZ ":
        raise ValueError(f"a colorant of type {tag[:4]!r}")
    numbers: Floats = np.array(struct.unpack_from(">3i", tag, 8)) / 65536
    return numbers


def _read_curve(tag: bytes) -> Curve:
    """Reads a tag of curveType or parametricCurveType (ICC.1:2022, 10.6 and 10.18)."""
    import numpy as np

    kind = tag[:4]
    if kind == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.frombuffer(tag, ">u2", min(count, _MOST_VALUES), 12).astype(np.float64)
        if count <= 1:
            return partial(power_light, values[0] / 256 if count else 1.0)
        return partial(table_light, values / 65535)
    if kind != b"para":
        raise ValueError(f"a curve of type {kind!r}")
    (form,) = struct.unpack_from(">H", tag, 8)
    given = np.array(struct.unpack_from(f">{(1, 3, 4, 5, 7)[form]}i", tag, 12)) / 65536
    return partial(_parametric, form, given)


def _parametric(form: int, given: Floats, signal: Floats) -> Floats:
    """Applies a parametric curve (ICC.1:2022, table 68)."""
    import numpy as np

    g, a, b, c, d, e, f = np.pad(given, (0, 7 - len(given)))
    if form == 0:
        a, d = 1.0, -1.0
    elif form in (1, 2):  # the curve is flat below -b/a
        e, f, c, d = c, c, 0.0, -b / a
    curved = (a * signal + b).clip(0, None) ** g + e
    light: Floats = np.where(signal >= d, curved, c * signal + f)
    return light


def _find_transfer(curve: Curve) -> int | None:
    """Returns the number (ITU-T H.273) of PQ or HLG if a curve is one of them, at any scale of its light."""
    import numpy as np

    signal = np.linspace(0.3, 1, 36)
    with np.errstate(all="ignore"):
        found = np.log(curve(signal))
        shapes = ((PQ, pq_light, 1.0), (HLG, hlg_light, 1.0), (HLG, hlg_light, HLG_GAMMA))
        for transfer, light, exponent in shapes:
            shape = np.log(light(signal)) * exponent
            if np.abs((found - found[-1]) - (shape - shape[-1])).max() < _SIMILAR:
                return transfer
    return None
