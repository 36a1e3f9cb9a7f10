"""Crops in, named outputs out: what every engine can do. torch_engine and onnxruntime_engine implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINES = ("auto", "torch", "onnxruntime")
DTYPES = ("float32", "bfloat16", "float16")

LOGITS = "logits"
"""The name of the output that every engine has: (N, number of classes), raw."""

Outputs: TypeAlias = "dict[str, NDArray[np.float32]]"
"""What a network computes for N crops, by name. The first side of each array is N."""


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    """One of ENGINES, but not "auto"."""
    device: str
    """Such as "cpu" or "cuda:0"."""
    dtype: str
    """One of DTYPES: what the network computes in."""
    default_batch_size: int
    """Images in a batch where the user names no number."""
    concurrency: int
    """How many threads gain from calling `infer` at the same time. As many may call it."""

    def allocate(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """An array for a batch, not cleared: C-contiguous, in memory that the device reads quickest."""
        ...

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """Runs the network on a batch.

        Args:
            crops: (N, H, W, 3) uint8, 0..255, RGB, C-contiguous. The engine scales and normalises them.

        Returns:
            LOGITS, float32.
        """
        ...
