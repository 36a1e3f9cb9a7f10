"""How fast an engine computes, as `doctor` and the benchmarks measure it."""

from __future__ import annotations

import threading
import time

import numpy as np

from imgclassify.engines.speed import measure_rate


class CountingEngine:
    """Takes two calls at the same time."""

    default_batch_size = 3
    concurrency = 2

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.together = 0
        self._running = 0
        self._lock = threading.Lock()

    def infer(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        with self._lock:
            self.batches.append(crops.shape)
            self._running += 1
            self.together = max(self.together, self._running)
        time.sleep(0.01)
        with self._lock:
            self._running -= 1
        return {}


def test_the_rate_is_that_of_calls_at_the_same_time_after_one_each() -> None:
    engine = CountingEngine()
    rate = measure_rate(engine, (8, 6), seconds=0.3)  # type: ignore[arg-type]
    assert set(engine.batches) == {(3, 8, 6, 3)}
    assert engine.together == 2
    images = 3 * (len(engine.batches) - 2)
    assert 0 < rate <= images / 0.3
    assert images >= 6  # each call was made once more
