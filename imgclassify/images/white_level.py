"""Scales samples of more than 8 bits, or of floats, to bytes: which value is black, and which is white.

What the file declares counts. Where it declares nothing, the rules of `choose_levels` apply (docs/images.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DeclaredLevels(NamedTuple):
    """What a file says about the values of its samples."""

    black: float = 0.0
    white: float | None = None
    """The value that stands for white. None if the file does not say."""
    no_data: float | None = None
    """The value of samples that were not measured."""
    significant_bits: int | None = None
    """How many bits of 16-bit samples are used, the highest or the lowest ones (PNG's sBIT)."""


class Levels(NamedTuple):
    """The values that become 0 and 255."""

    black: float
    white: float
    reason: str
    """Why these two, for people."""

    def __str__(self) -> str:
        return f"{self.black:g} is black and {self.white:g} is white ({self.reason})"


UNDECLARED = DeclaredLevels()

USUAL_BITS = (8, 10, 12, 14, 16)
"""The depths of cameras, scanners and microscopes, whose samples are mostly stored in 16 bits."""

_SLIGHTLY = 0.05
"""Floats beyond a scale by up to this share of its white are the traces of a resize or a filter."""
_MOST_SLIGHT = 0.02
_MOST_FAR = 0.001
"""The shares of pixels that may lie slightly and far beyond a scale that is chosen. One far pixel of at least
_LEAST_PIXELS always may."""
_LEAST_PIXELS = 100

_OFFSET_RATIO = 4
"""Unsigned integers are taken for offset if the lowest is more than this many times the range above it."""
_HIGHEST_OFFSET = 0.75
"""The largest value of offset data, as a share of the type's range. Above, the samples are those of a bright
image. Signed data with 2^15 added, the usual offset, is around a half."""

_SAMPLED_VALUES = 2**21
"""How many values the rules for floats look at: evenly spaced ones of a larger image."""
_BLOCK_VALUES = 2**20
"""How many values are converted at once, because float64 takes eight times the memory of the resulting bytes."""


def scale_to_bytes(
    values: NDArray[Any], declared: DeclaredLevels = UNDECLARED
) -> tuple[NDArray[np.uint8], Levels | None]:
    """Scales samples so that black becomes 0 and white 255, rounded, and clipped beyond.

    Args:
        values: (height, width) or (height, width, channels), of integers or floats. All channels have the same
            levels. NaN, infinities and samples without data become 0.

    Returns:
        (bytes of the same shape, the levels). Bytes that declare nothing are returned as they are, with None.
    """
    import numpy as np

    if values.dtype == np.uint8 and declared == UNDECLARED:
        return values, None
    levels = choose_levels(values, declared)
    return scale(values, levels, declared.no_data), levels


def scale(
    values: NDArray[Any], levels: Levels, no_data: float | None = None, *, largest: int = 255
) -> NDArray[Any]:
    """Scales samples as `scale_to_bytes` does, with levels that are known.

    Args:
        largest: what white becomes. 255 gives uint8, and 65535 gives uint16.
    """
    import numpy as np

    scaled = np.empty(values.shape, np.min_scalar_type(largest))
    factor = largest / (levels.white - levels.black or 1)
    for rows in row_blocks(values):
        with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN would cause a warning
            part = (values[rows].astype(np.float64) - levels.black) * factor
        part[~_has_data(values[rows], no_data)] = 0
        scaled[rows] = np.rint(part.clip(0, largest))
    return scaled


def choose_levels(values: NDArray[Any], declared: DeclaredLevels = UNDECLARED) -> Levels:
    """Chooses the values that become black and white.

    - Declared levels are taken, unless the samples contradict them: integers if one is larger than white,
      floats if more than a few are.
    - Unsigned integers: white is the largest value of the fewest bits of USUAL_BITS that hold every sample. If
      all samples lie far from 0 and near each other, an offset was added, and they are stretched. So are those
      of 32 bits, unless they use the highest bit.
    - Signed integers and floats: the smallest usual scale (1 for floats, and the depths above) that holds all
      samples but a few. If none does, they are stretched.

    Stretched means that the lowest sample becomes black and the highest white. If the outermost thousandth on a
    side lies far from the others, it does not count.
    """
    import numpy as np

    if values.dtype.kind == "u":
        return _unsigned_levels(values, declared)
    sample = _finite_sample(values, declared.no_data)
    if declared.white is not None and _fits(sample, declared.black, declared.white):
        return Levels(declared.black, declared.white, "declared")
    sample = _without_fill_values(sample)
    if not len(sample):
        return Levels(0, 1, "no sample is a finite number")
    whites = [2.0**bits - 1 for bits in USUAL_BITS]
    if values.dtype.kind == "i" and values.dtype.itemsize <= 2:
        # The largest value of the type takes the place of that of its bits.
        whites = [white for white in whites if white <= np.iinfo(values.dtype).max]
        whites.append(float(np.iinfo(values.dtype).max))
    elif values.dtype.kind == "f" and (sample.max() <= 1 or (sample != np.rint(sample)).any()):
        whites.insert(0, 1.0)
    for white in whites:
        if _fits(sample, 0, white):
            return Levels(0, white, "the smallest usual scale that holds the samples")
    return _stretch(sample)


def _unsigned_levels(values: NDArray[Any], declared: DeclaredLevels) -> Levels:
    import numpy as np

    low, high = _extremes(values, declared.no_data)
    if declared.significant_bits is not None:
        return _significant_levels(values, high, declared.significant_bits)
    if declared.white is not None and high <= declared.white:
        return Levels(declared.black, declared.white, "declared")
    full = float(np.iinfo(values.dtype).max)
    if values.ndim == 2 and 0 < (high - low) * _OFFSET_RATIO < low and high <= _HIGHEST_OFFSET * full:
        return _stretch(_finite_sample(values, declared.no_data))
    for bits in USUAL_BITS:
        if high <= 2**bits - 1:
            return Levels(0, 2.0**bits - 1, f"{bits} bits are the fewest usual ones that hold {high:g}")
    if high > full / 2:
        return Levels(0, full, "the samples use all bits of their type")
    return _stretch(_finite_sample(values, declared.no_data))


def _significant_levels(values: NDArray[Any], high: float, bits: int) -> Levels:
    """Returns the levels of 16-bit samples of which some bits are declared to be significant.

    The standard puts them into the highest bits, and fills the others with copies of them or with zeros. Many
    programs leave them in the lowest.
    """
    reason = f"{bits} bits are declared"
    white = 2**bits - 1
    if bits >= 16 or high > white:
        return Levels(0, 65535, reason)
    shift = 16 - bits
    top = values >> shift
    copied = top << shift | top >> max(0, bits - shift)
    if high and (((values & (2**shift - 1)) == 0).all() or (values == copied).all()):
        return Levels(0, 65535, reason)
    return Levels(0, white, reason)


def _fits(sample: NDArray[np.float64], black: float, white: float) -> bool:
    """Whether no more than a few samples lie outside a scale."""
    import numpy as np

    margin = _SLIGHTLY * (white - black)
    slight = np.count_nonzero((sample < black) | (sample > white))
    far = np.count_nonzero((sample < black - margin) | (sample > white + margin))
    most_far = max(len(sample) >= _LEAST_PIXELS, int(_MOST_FAR * len(sample)))
    return bool(far <= most_far and slight - far <= _MOST_SLIGHT * len(sample))


def _stretch(sample: NDArray[np.float64]) -> Levels:
    import numpy as np

    low, high = np.quantile(sample, (_MOST_FAR, 1 - _MOST_FAR))
    margin = _SLIGHTLY * (high - low)
    lowest, highest = sample.min(), sample.max()
    if low == high or lowest >= low - margin:
        low = lowest
    if low == high or highest <= high + margin:
        high = highest
    reason = "stretched from the lowest to the highest sample"
    return Levels(float(low), float(high if high > low else low + 1), reason)


def _without_fill_values(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leaves out a value such as -9999 that stands for missing data.

    It is the lowest or the highest value, many samples have it, and it is farther from all others than these are
    from each other.
    """
    for _ in range(2):
        if len(sample) < 2:
            return sample
        for extreme in (sample.min(), sample.max()):
            others = sample[sample != extreme]
            if 1 < len(others) < len(sample) - 1:
                gap = min(abs(others.min() - extreme), abs(others.max() - extreme))
                # Black and white of an image with few values in between do not count: they are not below 0.
                if gap > others.max() - others.min() and (extreme < 0 or gap > 2.0 ** USUAL_BITS[-1]):
                    sample = others
    return sample


def _finite_sample(values: NDArray[Any], no_data: float | None) -> NDArray[np.float64]:
    import numpy as np

    flat = values.reshape(-1)
    flat = flat[:: -(-len(flat) // _SAMPLED_VALUES)]
    with np.errstate(invalid="ignore"):
        return flat[_has_data(flat, no_data)].astype(np.float64)


def _extremes(values: NDArray[Any], no_data: float | None) -> tuple[float, float]:
    """Returns the (lowest, highest) sample that has data, or (0, 0)."""
    if no_data is None:
        return float(values.min()), float(values.max())
    parts = [part[_has_data(part, no_data)] for part in (values[rows] for rows in row_blocks(values))]
    found = [(float(part.min()), float(part.max())) for part in parts if part.size]
    return min((low for low, _ in found), default=0.0), max((high for _, high in found), default=0.0)


def _has_data(values: NDArray[Any], no_data: float | None) -> NDArray[np.bool_]:
    import numpy as np

    has_data: NDArray[np.bool_] = np.isfinite(values)
    if no_data is not None:
        with np.errstate(over="ignore"):
            has_data &= values != (np.float32(no_data) if values.dtype == np.float32 else no_data)
    return has_data


def row_blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Yields slices of rows that are converted at once, each of about _BLOCK_VALUES values."""
    rows = max(1, _BLOCK_VALUES // (values.size // len(values)))
    return (slice(start, start + rows) for start in range(0, len(values), rows))
