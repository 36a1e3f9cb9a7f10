"""Checks of the arrays that the functions of this room take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def check_truth(scores: NDArray[Any], truth: ArrayLike, name: str) -> NDArray[np.intp]:
    """Returns the truth as an array of indices, one for each row.

    A negative index would otherwise count from the end.

    Args:
        scores: (N, C), one row for each image.
        truth: (N,) class indices, 0..C-1.
        name: names the scores in errors.

    Raises:
        ValueError: the shapes do not fit, or an index is none of a class.
    """
    import numpy as np

    found = np.asarray(truth)
    if scores.ndim != 2 or found.shape != scores.shape[:1]:
        raise ValueError(f"{name} are {scores.shape} and truth is {found.shape}: (N, C) and (N,) are needed")
    if found.size == 0:
        return found.astype(np.intp)
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"truth is {found.dtype}, not class indices")
    wrong = (found < 0) | (found >= scores.shape[1])
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"truth of row {row} is {found[row]}, but classes are 0..{scores.shape[1] - 1}")
    return found.astype(np.intp)
