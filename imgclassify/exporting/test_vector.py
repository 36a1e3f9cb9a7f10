"""A crop that any program can make again, by which a port of an exported model is tested."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import Size

FORMULA = "crop[y, x, c] = (7 * x + 11 * y + 85 * c + x * y // 16) % 256"
"""How the crop is made, in integers."""


def make_crop(size: Size) -> NDArray[np.uint8]:
    """Returns the crop, (H, W, 3) uint8, in the channel order of the network: c is its third index."""
    import numpy as np

    y, x, c = np.ogrid[: size[0], : size[1], :3]
    crop: NDArray[np.uint8] = ((7 * x + 11 * y + 85 * c + x * y // 16) % 256).astype(np.uint8)
    return crop


def describe_crop(crop: NDArray[np.uint8], name: str, values: NDArray[np.float32]) -> dict[str, Any]:
    """Describes the test vector in plain values for JSON.

    Args:
        name: the output of the network.
        values: (number of outputs,): what it is for the crop.
    """
    return {
        "crop": FORMULA,
        "sha256": hashlib.sha256(crop.tobytes()).hexdigest(),
        # Through its text, a float32 keeps its own digits.
        name: [float(str(value)) for value in values],
    }
