"""Measures how fast an engine computes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgclassify.catalog import Size
    from imgclassify.engines.engine import Engine


def measure_rate(engine: Engine, crop_size: Size, *, seconds: float) -> float:
    """Returns the images per second that an engine computes, without decoding.

    Args:
        crop_size: (height, width).
        seconds: how long it is measured. One batch for each call at the same time comes before.
    """
    import numpy as np

    crops = np.zeros((engine.default_batch_size, *crop_size, 3), np.uint8)

    def infer_until(end: float) -> int:
        batches = 1
        engine.infer(crops)
        while time.perf_counter() < end:
            engine.infer(crops)
            batches += 1
        return batches

    with ThreadPoolExecutor(engine.concurrency) as executor:
        list(executor.map(infer_until, [0.0] * engine.concurrency))
        started = time.perf_counter()
        batches = sum(executor.map(infer_until, [started + seconds] * engine.concurrency))
        return batches * len(crops) / (time.perf_counter() - started)
