"""Runs a network once on four made-up crops, to learn what no description says about it.

This shows how many classes the network has, and whether it ends in softmax.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from imgclassify.engines.engine import Engine, Outputs
from imgclassify.graphs.session import LOGITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ProbedEngine:
    """An engine for a network that may end in softmax.

    If it does, its logits are the logarithms of the probabilities.
    """

    def __init__(self, engine: Engine, crop_size: tuple[int, int]) -> None:
        """Runs the network once.

        Raises:
            CheckpointError: the network rejects crops of that size, or is not a classifier.
        """
        self._engine = engine
        self.name = engine.name
        self.device = engine.device
        self.dtype = engine.dtype
        self.default_batch_size = engine.default_batch_size
        self.concurrency = engine.concurrency
        self.allocate = engine.allocate
        self.read_head = engine.read_head
        with redirect_stdout(sys.stderr):  # the network's own code may print
            logits = engine.infer(_probe_crops(crop_size)).get(LOGITS)
        self.num_classes = 0 if logits is None else logits.shape[1]
        self._ends_in_softmax = logits is not None and _are_probabilities(logits)

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See Engine.infer."""
        import numpy as np

        outputs = self._engine.infer(crops)
        if not self._ends_in_softmax:
            return outputs
        # The softmax of the logarithms of probabilities gives the probabilities. A logarithm of 0 is avoided.
        return outputs | {LOGITS: np.log(np.maximum(outputs[LOGITS], np.finfo(np.float32).tiny))}


def _probe_crops(crop_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns (4, H, W, 3) uint8 crops: one black, one white and two of noise."""
    import numpy as np

    crops = np.random.default_rng(0).integers(0, 256, (4, *crop_size, 3), dtype=np.uint8)
    crops[0], crops[1] = 0, 255
    return crops


def _are_probabilities(outputs: NDArray[np.float32]) -> bool:
    """Whether the values of every row are at least 0 and sum to 1.

    Logits of four different crops never do so by chance.
    """
    import numpy as np

    return outputs.shape[1] > 1 and bool((outputs >= 0).all()) and np.allclose(outputs.sum(axis=1), 1, atol=1e-2)
