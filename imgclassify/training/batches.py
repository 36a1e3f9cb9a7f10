"""The batches of an epoch: the order of the images, and their crops, prepared by threads while others compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from imgclassify.runner import default_workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    WriteCrop = Callable[[int, NDArray[np.uint8]], None]
    """Writes the crop of an image, (H, W, 3), by its position."""

_AHEAD = 3
"""Batches that are prepared before they are asked for."""


def draw_order(num_images: int, batch_size: int, *, drop_last: bool) -> list[list[int]]:
    """Returns the positions of the images of each batch of an epoch.

    They are those of `DataLoader(images, batch_size, shuffle=True)`, which draws as many numbers from torch's
    generator. So a loop around a DataLoader sees the same batches if both begin with the same `torch.manual_seed`.
    """
    positions: DataLoader[int] = DataLoader(
        range(num_images),  # type: ignore[arg-type]  # it needs only a length and positions
        batch_size=batch_size,
        shuffle=True,
        drop_last=drop_last,
        collate_fn=list,
    )
    return list(positions)


class BatchMaker:
    """Makes batches of crops on threads. Use it in a `with` block."""

    def __init__(self, crop_shape: tuple[int, ...], *, pinned: bool) -> None:
        """
        Args:
            crop_shape: (height, width, 3).
            pinned: whether a GPU shall copy the batches while the CPU goes on.
        """
        self._shape = crop_shape
        self._pinned = pinned
        self._executor = ThreadPoolExecutor(default_workers(), thread_name_prefix="augment")

    def __enter__(self) -> BatchMaker:
        return self

    def __exit__(self, *_error: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def make(self, write_crop: WriteCrop, batches: Sequence[Sequence[int]]) -> Generator[torch.Tensor, None, None]:
        """Yields the crops of each batch, (N, H, W, 3) uint8.

        Args:
            write_crop: called on several threads.

        Raises:
            ImageError: an image cannot be decoded any more.
        """
        waiting: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
        try:
            for indices in batches:
                waiting.append(self._submit(write_crop, indices))
                if len(waiting) > _AHEAD:
                    yield _finish(*waiting.popleft())
            while waiting:
                yield _finish(*waiting.popleft())
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def _submit(self, write_crop: WriteCrop, indices: Sequence[int]) -> tuple[torch.Tensor, list[Future[None]]]:
        crops = torch.empty((len(indices), *self._shape), dtype=torch.uint8, pin_memory=self._pinned)
        rows = crops.numpy()
        return crops, [self._executor.submit(write_crop, index, rows[row]) for row, index in enumerate(indices)]


def _finish(crops: torch.Tensor, futures: list[Future[None]]) -> torch.Tensor:
    for future in futures:
        future.result()
    return crops
