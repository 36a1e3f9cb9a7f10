"""The pipeline: order, overlap, bounds, and what happens when a part fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from queue import Queue

import pytest

from imgclassify import pipeline
from imgclassify.pipeline import Completed


def prepared(item: int, row: int) -> int | Completed[str]:
    time.sleep(random.random() / 1000)
    return Completed(f"broken {item}") if item % 7 == 3 else item


def as_it_is(item: int, row: int) -> int:
    return item


def answered(batch: list[int], rows: list[int]) -> list[str]:
    return [f"answer {item}" for item in batch]


def expected(count: int) -> list[str]:
    return [f"broken {item}" if item % 7 == 3 else f"answer {item}" for item in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_one_result_an_item_in_input_order(count: int, batch_size: int, workers: int, concurrency: int) -> None:
    results = pipeline.run_pipeline(
        range(count), prepared, answered, batch_size=batch_size, workers=workers, concurrency=concurrency
    )
    assert list(results) == expected(count)


def test_batches_answered_out_of_order_come_in_order() -> None:
    """The first batch takes longest, and the others are computed meanwhile."""
    computing: list[int] = []
    others = threading.Event()

    def slow_at_first(batch: list[int], rows: list[int]) -> list[str]:
        computing.append(batch[0])
        if batch[0] == 0:
            assert others.wait(10)
        elif len(computing) == 3:
            others.set()
        return answered(batch, rows)

    results = pipeline.run_pipeline(range(30), as_it_is, slow_at_first, batch_size=4, workers=2, concurrency=3)
    assert list(results) == [f"answer {item}" for item in range(30)]
    assert len(computing) == 8


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_an_item_keeps_its_row_until_it_is_answered(concurrency: int) -> None:
    """What each item writes into its row is still there when its batch is answered; rows ascend within a batch."""
    room = [-1] * pipeline.num_slots(4, concurrency, 3)

    def write(item: int, row: int) -> int | Completed[str]:
        time.sleep(random.random() / 1000)
        room[row] = item
        return Completed(f"broken {item}") if item % 5 == 2 else item

    def read(batch: list[int], rows: list[int]) -> list[str]:
        assert rows == sorted(set(rows))
        time.sleep(random.random() / 500)
        return [f"answer {room[row]}" for row in rows]

    results = pipeline.run_pipeline(range(300), write, read, batch_size=4, workers=3, concurrency=concurrency)
    assert list(results) == [f"broken {item}" if item % 5 == 2 else f"answer {item}" for item in range(300)]


def test_a_broken_item_never_takes_a_neighbours_answer() -> None:
    """Every second item broken, in all positions of a batch."""

    def half(item: int, row: int) -> int | Completed[str]:
        return Completed(f"broken {item}") if item % 2 else item

    results = list(pipeline.run_pipeline(range(51), half, answered, batch_size=4, workers=3))
    assert results == [f"broken {item}" if item % 2 else f"answer {item}" for item in range(51)]


def test_batches_are_no_larger_than_asked() -> None:
    sizes: list[int] = []

    def measured(batch: list[int], rows: list[int]) -> list[str]:
        sizes.append(len(batch))
        return answered(batch, rows)

    list(pipeline.run_pipeline(range(50), as_it_is, measured, batch_size=8, workers=2))
    assert max(sizes) == 8
    assert sum(sizes) == 50


def test_items_are_taken_only_a_bounded_way_ahead() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = pipeline.run_pipeline(endless(), as_it_is, answered, batch_size=4, workers=2)
    for wanted in (1, 10, 100):
        while next(results) != f"answer {wanted}":
            pass
        time.sleep(0.05)
        assert taken <= wanted + pipeline.num_slots(4, 1, 2) + 1
    results.close()


def test_items_that_come_slowly_are_answered_as_they_come() -> None:
    """Each item is given only after the answer to the one before it, as by a program at the other end of a pipe."""
    asked: Queue[int] = Queue()
    results = pipeline.run_pipeline(iter(asked.get, 5), as_it_is, answered, batch_size=8, workers=2)
    for item in range(5):
        asked.put(item)
        assert next(results) == f"answer {item}"
    asked.put(5)
    assert list(results) == []


def settled() -> bool:
    """Whether the preparing threads end soon: they are told to, and not waited for."""
    deadline = time.monotonic() + 5
    while preparing() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not preparing()


def preparing() -> list[str]:
    """Those that compute too."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("prepare", "compute"))]


@pytest.mark.parametrize("part", ["items", "prepare", "answer"])
def test_an_unforeseen_failure_is_raised_and_leaves_no_thread(part: str) -> None:
    def fail(*_: object) -> list[str]:
        raise ZeroDivisionError(part)

    def items() -> Iterator[int]:
        yield from range(20)
        if part == "items":
            fail()

    with pytest.raises(ZeroDivisionError, match=part):
        list(
            pipeline.run_pipeline(
                items(),
                fail if part == "prepare" else as_it_is,
                fail if part == "answer" else answered,
                batch_size=4,
                workers=2,
            )
        )
    assert settled()


@pytest.mark.parametrize("part", ["items", "prepare"])
def test_what_came_before_a_failure_is_answered(part: str) -> None:
    def prepare(item: int, row: int) -> int:
        if part == "prepare" and item == 6:
            raise ZeroDivisionError
        return item

    def items() -> Iterator[int]:
        yield from range(6 if part == "items" else 20)
        if part == "items":
            raise ZeroDivisionError

    results = pipeline.run_pipeline(items(), prepare, answered, batch_size=4, workers=2)
    assert [next(results) for _ in range(6)] == [f"answer {item}" for item in range(6)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_early_stops_the_threads() -> None:
    results = pipeline.run_pipeline(range(1000), prepared, answered, batch_size=4, workers=3)
    assert next(results) == "answer 0"
    assert preparing()
    results.close()
    assert settled()


def test_closing_does_not_wait_for_the_next_item() -> None:
    never: Queue[int] = Queue()
    never.put(0)
    results = pipeline.run_pipeline(iter(never.get, None), as_it_is, answered, batch_size=8, workers=1)
    assert next(results) == "answer 0"
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5
    never.put(None)  # lets the thread end


def test_an_item_that_has_its_slot_when_the_pipeline_is_stopped_has_its_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The computing thread finds the queue empty while the item is on its way there."""
    stop_event = threading.Event()
    acquire_slot = pipeline._Scheduler._acquire_slot
    acquired = 0

    def acquire_and_dawdle(scheduler: pipeline._Scheduler[int, int, str]) -> bool:
        nonlocal acquired
        found = acquire_slot(scheduler)
        acquired += found
        if acquired == 3 and not stop_event.is_set():
            stop_event.set()
            time.sleep(10 * pipeline.BATCH_TIMEOUT_S)
        return found

    monkeypatch.setattr(pipeline._Scheduler, "_acquire_slot", acquire_and_dawdle)
    results = pipeline.run_pipeline(range(100), as_it_is, answered, batch_size=1, workers=1, stop_event=stop_event)
    assert list(results) == ["answer 0", "answer 1", "answer 2"]


@pytest.mark.parametrize("count", [0, 1, 5, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_groups_of_items_are_prepared_together(count: int, workers: int) -> None:
    """Groups are at most of the given size, and smaller if few items wait."""
    groups: list[list[int]] = []

    def prepare_group(group: list[int], slots: list[int]) -> Iterator[int | Completed[str]]:
        groups.append(group)
        for item, slot in zip(group, slots, strict=True):
            assert slot == item % pipeline.num_slots(4, 2, workers * 6)
            yield prepared(item, slot)

    results = pipeline.run_grouped_pipeline(
        range(count), prepare_group, answered, batch_size=4, workers=workers, group_size=6, concurrency=2
    )
    assert list(results) == expected(count)
    assert sorted(item for group in groups for item in group) == list(range(count))
    assert all(group == list(range(group[0], group[0] + len(group))) and len(group) <= 6 for group in groups)
    assert count < 100 or max(map(len, groups)) > 1


def test_the_items_of_a_group_before_one_that_fails_are_answered() -> None:
    def prepare_group(group: list[int], slots: list[int]) -> Iterator[int]:
        for item in group:
            if item == 6:
                raise ZeroDivisionError
            yield item

    results = pipeline.run_grouped_pipeline(
        range(100), prepare_group, answered, batch_size=4, workers=1, group_size=8
    )
    assert [next(results) for _ in range(6)] == [f"answer {item}" for item in range(6)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert settled()
