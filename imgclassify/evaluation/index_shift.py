"""Notices class indices that count from another number than those of the model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgclassify.evaluation.intervals import wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.evaluation.truth import Truth

_NUMBER = re.compile(r"[0-9]+(?:\.0)?")
_FEWEST = 20
"""With fewer images, it may be chance."""


def describe_index_shift(
    predicted: NDArray[np.int64], right: NDArray[np.int64], truth: Truth, num_classes: int
) -> str:
    """Returns a warning if the truth was given by numbers that are all one too large, or all one too small.

    This is so if significantly more predictions are right with it: Wilson's intervals of the two shares are apart.

    Args:
        predicted: (N,): the class index of the most probable class of each image.
        right: (N,): the true class index of each.
        num_classes: of the model. A shift that leads out of them is none: two classes may be swapped.

    Returns:
        A sentence, or "" if nothing is wrong.
    """
    count = len(right)
    if count < _FEWEST or not all(_NUMBER.fullmatch(name) for each in truth.classes for name in each.names):
        return ""
    as_given = wilson(int((predicted == right).sum()), count)
    for shift, words in ((-1, "from 1, and those of the model count from 0"), (1, "one lower than the model")):
        if right.min() + shift < 0 or right.max() + shift >= num_classes:
            continue
        shifted = wilson(int((predicted == right + shift).sum()), count)
        if (shifted.low or 0) > (as_given.high or 0):
            better, given = (f"{100 * (each.value or 0):.1f} %" for each in (shifted, as_given))
            return (
                f"the class indices of the truth seem to count {words}: with {shift:+d}, {better} of the images "
                f"would be right, instead of {given}"
            )
    return ""
