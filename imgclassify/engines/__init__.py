"""Crops in, logits out. The protocol every engine keeps; torch_engine and onnxruntime_engine keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINES = ("auto", "torch", "onnxruntime")
DTYPES = ("float32", "bfloat16", "float16")


class Engine(Protocol):
    """A network, ready to answer."""

    name: str
    """One of ENGINES, "auto" excepted."""
    device: str
    """Such as "cpu" or "cuda:0"."""
    dtype: str
    """One of DTYPES: what the network computes in."""
    default_batch_size: int
    """Images in a batch where the user names no number."""
    concurrency: int
    """How many threads gain from calling `logits` at the same time, which as many may do."""

    def allocate(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Room for a batch, not cleared: C-contiguous, and where the device reads it quickest."""
        ...

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network's answer to a batch.

        Args:
            crops: (N, H, W, 3) uint8, 0..255, RGB, C-contiguous. Scaling and normalising are the engine's.

        Returns:
            (N, number of classes) float32, raw.
        """
        ...
