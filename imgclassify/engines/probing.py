"""Runs a network on a few made-up crops, to learn what no description says about it."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.engines.engine import Engine, Outputs
from imgclassify.errors import CheckpointError
from imgclassify.graphs.session import LOGITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger("imgclassify")

_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}
"""How far the outputs of a crop may be from those of the same crop in a batch, by rounding, as a fraction of the
largest output."""


class Probe(NamedTuple):
    """What a network returns for the made-up crops."""

    engine: Engine
    """The engine, or one that runs the crops of a batch one at a time."""
    outputs: NDArray[np.float32] | None
    """(4, number of outputs). None if the network has no classifier."""
    seconds: float
    """How long one of them took alone."""


class OneAtATime:
    """An engine for a network that takes one image, or whose rows of a batch depend on each other."""

    default_batch_size = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.device = engine.device
        self.dtype = engine.dtype
        self.concurrency = engine.concurrency
        self.fixed_batch = engine.fixed_batch
        self.operator = engine.operator
        self.allocate = engine.allocate
        self.read_head = engine.read_head

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See Engine.infer."""
        import numpy as np

        parts = [self._engine.infer(crops[index : index + 1]) for index in range(len(crops))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def probe_network(engine: Engine, crop_size: tuple[int, int]) -> Probe:
    """Runs a network on made-up crops: together, and one of them again alone.

    Raises:
        CheckpointError: the network rejects crops of that size, is not a classifier, or is random.
        UsageError: it has several outputs, and the user must choose one.
    """
    crops = _probe_crops(crop_size)
    with redirect_stdout(sys.stderr):  # the network's own code may print
        try:
            together: Outputs | None = engine.infer(crops)
        except CheckpointError:
            together = None  # it may take only one image at a time
        started = time.perf_counter()
        alone = engine.infer(crops[:1])
        seconds = time.perf_counter() - started
        if together is None or not _are_equal(together, alone, engine.dtype):
            if not _are_equal(alone, engine.infer(crops[:1]), engine.dtype):
                raise CheckpointError(
                    "the network returns other numbers each time for the same image: a part of it is random",
                    hint="export it for inference, after `network.eval()`, without dropout or noise",
                )
            engine = _run_apart(engine, takes_batches=together is not None)
            together = engine.infer(crops)
    return Probe(engine, together.get(LOGITS), seconds)


def _run_apart(engine: Engine, *, takes_batches: bool) -> OneAtATime:
    if takes_batches and engine.fixed_batch not in (None, 1):
        raise CheckpointError(
            "what the network returns for an image depends on the other images of a batch, and it takes batches "
            f"of {engine.fixed_batch}",
            hint="export it for a batch of 1",
        )
    reason = "what it returns for an image depends on the other images of a batch"
    logger.info(
        "the network runs on one image at a time: %s", reason if takes_batches else "it does not take more together"
    )
    return OneAtATime(engine)


def _are_equal(together: Outputs, alone: Outputs, dtype: str) -> bool:
    """Whether the first crop has the same outputs in a batch and alone, but for rounding."""
    import numpy as np

    def is_equal(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        largest = np.abs(other[np.isfinite(other)]).max(initial=0)
        return np.allclose(one, other, rtol=0, atol=_TOLERANCES[dtype] * largest, equal_nan=True)

    return all(is_equal(together[name][0], value[0]) for name, value in alone.items())


def _probe_crops(crop_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns (4, H, W, 3) uint8 crops: dim noise, nearly white, a gradient of colours, and nearly black.

    The first two differ much in brightness, so that a network shows it if it scales a batch as a whole. They are in
    one batch even if only two crops are. No crop has a single colour: a network may divide by the deviation.
    """
    import numpy as np

    height, width = crop_size
    crops = np.random.default_rng(0).integers(0, 8, (4, height, width, 3), dtype=np.uint8)
    crops[1] += 248
    crops[2] = 0
    crops[2, :, :, 0] = np.linspace(0, 255, width)[None, :]
    crops[2, :, :, 1] = np.linspace(255, 0, height)[:, None]
    crops[0] *= np.array((16, 8, 12), np.uint8)
    return crops
