"""Networks of unknown making: asked once, on made-up crops, how many classes they have and whether they end in
softmax."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from imgclassify.engines import Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ProbedEngine:
    """An engine around another whose network may end in softmax."""

    def __init__(self, engine: Engine, crop_size: tuple[int, int]) -> None:
        """Asks the network.

        Raises:
            CheckpointError: it cannot answer crops of that size, or is no classifier.
        """
        self._engine = engine
        self.name = engine.name
        self.device = engine.device
        self.dtype = engine.dtype
        self.default_batch_size = engine.default_batch_size
        self.concurrency = engine.concurrency
        self.allocate = engine.allocate
        self._ends_in_softmax = False
        with redirect_stdout(sys.stderr):
            answers = self.logits(_probe_crops(crop_size))
        self.num_classes = answers.shape[1]
        self._ends_in_softmax = _are_probabilities(answers)

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.logits. Of probabilities the logarithm, whose softmax they are."""
        import numpy as np

        answers = self._engine.logits(crops)
        return np.log(np.maximum(answers, np.finfo(np.float32).tiny)) if self._ends_in_softmax else answers


def _probe_crops(crop_size: tuple[int, int]) -> NDArray[np.uint8]:
    """(4, H, W, 3) uint8: black, white, and noise twice, which no network answers alike."""
    import numpy as np

    crops = np.random.default_rng(0).integers(0, 256, (4, *crop_size, 3), dtype=np.uint8)
    crops[0], crops[1] = 0, 255
    return crops


def _are_probabilities(answers: NDArray[np.float32]) -> bool:
    """Whether every row is one of probabilities; logits are not that by chance."""
    import numpy as np

    return answers.shape[1] > 1 and bool((answers >= 0).all()) and np.allclose(answers.sum(axis=1), 1, atol=1e-2)
