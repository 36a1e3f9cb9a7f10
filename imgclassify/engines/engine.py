"""The interface of an engine. torch_engine.py and onnxruntime_engine.py implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINES = ("auto", "torch", "onnxruntime")
DTYPES = ("float32", "bfloat16", "float16")

LOGITS = "logits"
"""The name of the output that every engine returns: raw logits, (N, number of classes)."""

Outputs: TypeAlias = "dict[str, NDArray[np.float32]]"
"""The outputs of a network for N crops, by name. The first dimension of each array is N."""


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    """One of ENGINES, but not "auto"."""
    device: str
    """Such as "cpu" or "cuda:0"."""
    dtype: str
    """One of DTYPES: the type that the network computes in."""
    default_batch_size: int
    """Images in a batch if the user gives no number."""
    concurrency: int
    """How many threads benefit from calling `infer` at the same time. That many may call it."""

    def allocate(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Allocates an array for a batch.

        It is C-contiguous, not cleared, and in the memory that the device reads fastest.
        """
        ...

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """Runs the network on a batch.

        Args:
            crops: (N, H, W, 3) uint8, 0..255, RGB, C-contiguous. The engine scales and normalises them.

        Returns:
            The outputs by name, among them LOGITS, all float32.
        """
        ...
