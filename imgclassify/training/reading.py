"""Reads the images of a training once: what they hold, and the features that a network computes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.results import ImageFailure


class ReadImage(NamedTuple):
    """What is known of an image after it was read."""

    name: str
    """The name of its source."""
    sha256: bytes | None
    """Digest of the bytes of the file. None if it could not be read."""
    fingerprint: bytes | None
    """near_duplicates.compute_fingerprint of the upright image. None if there is an error."""
    features: NDArray[np.float32] | None
    """(V, D): of the image, and after it of its augmented views. None if there is an error, or without a network."""
    error: ImageFailure | None = None
