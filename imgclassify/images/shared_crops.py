"""Memory that a worker process shares with its parent, for the crops of the images of a request."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import Size

_HEADER_BYTES = 64
"""The first byte is the number of the current image. The crops begin at a cache line of their own."""


class SharedCrops:
    """Room for some crops, and the number of the one that the worker is computing."""

    def __init__(self, descriptor: int, max_images: int, crop_size: Size) -> None:
        """Opens memory that `create` has made. A worker inherits the descriptor."""
        import numpy as np

        self.descriptor = descriptor
        """The open file of the memory. It has no name, so it is gone when no process has it open any more."""
        self._memory = mmap.mmap(descriptor, _num_bytes(max_images, crop_size))
        self.images: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, offset=_HEADER_BYTES).reshape(
            max_images, *crop_size, 3
        )

    @classmethod
    def create(cls, max_images: int, crop_size: Size) -> Self:
        """Makes new memory.

        Args:
            max_images: 1 to 255.
            crop_size: (height, width).

        Raises:
            OSError: there is no room for it.
        """
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("imgclassify-crops")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.truncate(descriptor, _num_bytes(max_images, crop_size))
            return cls(descriptor, max_images, crop_size)
        except BaseException:
            os.close(descriptor)
            raise

    def current(self) -> int:
        """Returns the number of the image that the worker began last."""
        return self._memory[0]

    def set_current(self, number: int) -> None:
        self._memory[0] = number


def _num_bytes(max_images: int, crop_size: Size) -> int:
    height, width = crop_size
    return _HEADER_BYTES + max_images * height * width * 3
