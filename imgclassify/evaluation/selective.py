"""What a threshold costs and gains where answers may be less specific: the curve of risk and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_ROUNDING = 1e-9


def risk_coverage_area(risk: NDArray[np.float64], coverage: NDArray[np.float64]) -> float:
    """The area under a curve of hierarchical risk and coverage: 0 is best.

    As Goren, Galil and El-Yaniv (NeurIPS 2024) define it, and as their program computes it:

    - The coverage of an answer is the share of the information that it keeps: 1 - log2(n) / log2(C), if n of the C
      classes are under its node. It is 1 for a class, and 0 for the root, which says nothing. The coverage of a
      threshold is the mean over all images.
    - The risk of a threshold is the share of all images whose answer is wrong: neither the truth nor a node above
      it. The root is never wrong, so to refuse an image is to answer with the root.
    - The area is that of the trapezoids between the points of all thresholds, by rising coverage. The curve begins
      at coverage 0 and risk 0, the root for every image.

    Args:
        risk: (T,) in 0..1, of each threshold, in any order.
        coverage: (T,) in 0..1. The largest is 1: threshold 0, where each answer is a class.

    Raises:
        ValueError: no threshold has coverage 1, so that the area would not be comparable.
    """
    import numpy as np

    if not len(coverage) or not 1 - _MAX_ROUNDING <= coverage.max() <= 1 + _MAX_ROUNDING:
        largest = coverage.max() if len(coverage) else "missing"
        raise ValueError(f"The largest coverage must be 1, that of threshold 0, but it is {largest}.")
    order = np.lexsort((risk, coverage))
    risk, coverage = np.append(0.0, risk[order]), np.append(0.0, coverage[order])
    return float(np.sum(np.diff(coverage) * (risk[1:] + risk[:-1]) / 2))
