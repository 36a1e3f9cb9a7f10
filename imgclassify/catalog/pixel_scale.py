"""Converts a mean and std of pixels in 0..255 to those of pixels in 0..1, as a PreprocessSpec has them.

Numbers of pixels in 0..255 are usual in Caffe, mmpretrain and OpenCV. Applied to pixels in 0..1, they make every
image nearly the same to a network, which then gives the same wrong answer for all.
"""

from __future__ import annotations

from typing import NamedTuple

from imgclassify.catalog.manifest import RGB

_WHITE = 255
_LARGEST_FACTOR = 0.05
"""A std of photographs is about 57 of 255. Beside a mean in 0..255, a number as small as this is no std, but
Caffe's `scale`, which multiplies: 0.017, 0.0078125."""


class UnitScale(NamedTuple):
    """A mean and std for pixels in 0..1."""

    mean: RGB | None
    std: RGB | None
    certain: bool
    """Whether nothing else can have been meant. False if only one of the two was for pixels in 0..255."""

    @property
    def fits(self) -> bool:
        """Whether both can be of pixels in 0..1. False if they were not of pixels in 0..255 either."""
        return not (exceeds_unit(self.mean) or exceeds_unit(self.std))


def exceeds_unit(values: RGB | None) -> bool:
    """Whether a mean or std cannot be of pixels in 0..1, because a number is beyond 1."""
    return values is not None and max(map(abs, values)) > 1


def to_unit_scale(mean: RGB | None, std: RGB | None) -> UnitScale:
    """Returns the mean and std that do to pixels in 0..1 what the given ones do to pixels in 0..255.

    What can be of pixels in 0..1 is kept, with two exceptions beside a mean in 0..255. A std of 1 does not divide,
    and becomes 1/255. A std of at most 0.05 is a factor, except 1/255 itself, which is right already.

    Args:
        mean, std: three numbers each, and those of `std` are above 0. None if there is none.
    """
    if not exceeds_unit(mean):
        kept_mean = mean is not None and any(mean)  # a mean of 0 is the same in both
        return UnitScale(
            mean, _divide(std) if exceeds_unit(std) else std, certain=not (kept_mean and exceeds_unit(std))
        )
    if std is None:
        return UnitScale(_divide(mean), None, certain=False)
    if exceeds_unit(std) or min(std) == max(std) == 1:
        return UnitScale(_divide(mean), _divide(std), certain=True)
    if is_factor(std):
        red, green, blue = (1 / (_WHITE * factor) for factor in std)
        return UnitScale(_divide(mean), (red, green, blue), certain=False)
    return UnitScale(_divide(mean), std, certain=False)


def is_factor(std: RGB) -> bool:
    """Whether a std beside a mean in 0..255 multiplies instead."""
    return max(std) <= _LARGEST_FACTOR and abs(_WHITE * max(std) - 1) > 0.01


def format_channels(values: RGB) -> str:
    """Returns numbers as `--mean` and `--std` take them, with six digits: "0.485,0.456,0.406", or "0.5"."""
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)


def _divide(values: RGB | None) -> RGB | None:
    if values is None:
        return None
    red, green, blue = (value / _WHITE for value in values)
    return (red, green, blue)
