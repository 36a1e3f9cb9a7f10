"""Batches: the order of a DataLoader, and crops that are the same whoever makes them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from imgclassify.errors import ImageUnreadableError
from imgclassify.training.batches import BatchMaker, draw_order


class TestOrder:
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_epochs_follow_each_other_as_in_a_plain_loop(self, drop_last: bool) -> None:
        torch.manual_seed(3)
        loader = DataLoader(torch.arange(23), batch_size=4, shuffle=True, drop_last=drop_last)
        wanted = [[batch.tolist() for batch in loader] for _ in range(3)]
        after = torch.rand(2)
        torch.manual_seed(3)
        assert [draw_order(23, 4, drop_last=drop_last) for _ in range(3)] == wanted
        assert torch.equal(torch.rand(2), after)

    def test_with_worker_processes_the_order_is_the_same(self) -> None:
        torch.manual_seed(3)
        wanted = [
            batch.tolist() for batch in DataLoader(torch.arange(10), batch_size=4, shuffle=True, num_workers=1)
        ]
        torch.manual_seed(3)
        assert draw_order(10, 4, drop_last=False) == wanted


def write_number(position: int, out: np.ndarray) -> None:
    time.sleep(0.0005 * (position % 3))  # so that they end in another order
    out[...] = position


class TestMaking:
    def test_batches_come_in_order_with_their_images(self) -> None:
        order = draw_order(60, 8, drop_last=False)
        with BatchMaker((2, 2, 3), pinned=False) as maker:
            made = list(maker.make(write_number, order))
        assert [batch[:, 0, 0, 0].tolist() for batch in made] == order
        assert made[0].shape == (8, 2, 2, 3)
        assert made[0].dtype == torch.uint8

    def test_a_batch_that_was_taken_stays_as_it_is(self) -> None:
        with BatchMaker((1, 1, 3), pinned=False) as maker:
            batches = maker.make(write_number, [[number] for number in range(20)])
            first = next(batches)
            list(batches)
        assert first.flatten().tolist() == [0, 0, 0]

    def test_few_batches_are_made_ahead(self) -> None:
        begun: list[int] = []
        with BatchMaker((1, 1, 3), pinned=False) as maker:
            batches = maker.make(lambda position, _: begun.append(position), [[number] for number in range(50)])
            next(batches)
            assert len(begun) < 10
            batches.close()

    def test_an_error_is_raised_and_no_thread_stays(self) -> None:
        def fail(position: int, out: np.ndarray) -> None:
            if position == 9:
                raise ImageUnreadableError("gone")

        before = threading.active_count()
        with pytest.raises(ImageUnreadableError, match="gone"), BatchMaker((1, 1, 3), pinned=False) as maker:
            list(maker.make(fail, [[number] for number in range(20)]))
        assert threading.active_count() == before
