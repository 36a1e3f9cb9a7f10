"""Finds the mean feature that ships for a network, which NCI needs (models/features/*.json).

`tools/make_familiarity.py` makes the files.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from imgclassify.errors import ResourceError
from imgclassify.paths import REINSTALL_HINT, data_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def find_feature_mean(weights_sha256: str) -> NDArray[np.float64] | None:
    """Returns the mean feature of images as those that a network was trained on.

    Args:
        weights_sha256: of the weights file, 64 lower-case hexadecimal digits.

    Returns:
        (D,) float64. None if none ships for these weights.

    Raises:
        ResourceError: a file that ships with imgclassify is missing or damaged.
    """
    import numpy as np

    folder = data_folder("models") / "features"
    try:
        for entry in folder.iterdir():
            text = entry.read_text("utf-8") if entry.name.endswith(".json") else ""
            if weights_sha256 in text and (content := json.loads(text))["sha256"] == weights_sha256:
                return np.array(content["mean"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResourceError(
            f"the mean features that ship with imgclassify are damaged: {error}", hint=REINSTALL_HINT
        ) from error
    return None
