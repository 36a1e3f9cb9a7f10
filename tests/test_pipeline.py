"""The pipeline: order, overlap, bounds, and what happens when a part fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from imgclassify import pipeline
from imgclassify.pipeline import Done


def prepared(item: int) -> int | Done[str]:
    time.sleep(random.random() / 1000)
    return Done(f"broken {item}") if item % 7 == 3 else item


def answered(batch: list[int]) -> list[str]:
    return [f"answer {item}" for item in batch]


def expected(count: int) -> list[str]:
    return [f"broken {item}" if item % 7 == 3 else f"answer {item}" for item in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("workers", [1, 4])
def test_one_result_an_item_in_input_order(count: int, batch_size: int, workers: int) -> None:
    results = pipeline.stream(range(count), prepared, answered, batch_size=batch_size, workers=workers)
    assert list(results) == expected(count)


def test_a_broken_item_never_takes_a_neighbours_answer() -> None:
    """Every second item broken, in all positions of a batch."""

    def half(item: int) -> int | Done[str]:
        return Done(f"broken {item}") if item % 2 else item

    results = list(pipeline.stream(range(51), half, answered, batch_size=4, workers=3))
    assert results == [f"broken {item}" if item % 2 else f"answer {item}" for item in range(51)]


def test_batches_are_no_larger_than_asked() -> None:
    sizes: list[int] = []

    def measured(batch: list[int]) -> list[str]:
        sizes.append(len(batch))
        return answered(batch)

    list(pipeline.stream(range(50), lambda item: item, measured, batch_size=8, workers=2))
    assert max(sizes) == 8
    assert sum(sizes) == 50


def test_items_are_taken_only_a_bounded_way_ahead() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = pipeline.stream(endless(), lambda item: item, answered, batch_size=4, workers=2)
    for wanted in (1, 10, 100):
        while next(results) != f"answer {wanted}":
            pass
        assert taken <= wanted + 4 + 2 * 4 + 2
    results.close()


def test_preparing_overlaps_answering() -> None:
    """The second batch is prepared while the first is being answered, or this would wait for ever."""
    second = threading.Event()

    def prepare(item: int) -> int:
        if item == 2:
            second.set()
        return item

    def answer(batch: list[int]) -> list[str]:
        assert second.wait(10)
        return answered(batch)

    assert list(pipeline.stream(range(4), prepare, answer, batch_size=2, workers=1)) == [
        f"answer {item}" for item in range(4)
    ]


@pytest.mark.parametrize("part", ["items", "prepare", "answer"])
def test_an_unforeseen_failure_is_raised_and_leaves_no_thread(part: str) -> None:
    def fail(_: object) -> list[str]:
        raise ZeroDivisionError(part)

    def items() -> Iterator[int]:
        yield from range(20)
        if part == "items":
            fail(None)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match=part):
        list(
            pipeline.stream(
                items(),
                fail if part == "prepare" else lambda item: item,
                fail if part == "answer" else answered,
                batch_size=4,
                workers=2,
            )
        )
    assert threading.active_count() == before


def test_closing_early_stops_the_threads() -> None:
    before = threading.active_count()
    results = pipeline.stream(range(1000), prepared, answered, batch_size=4, workers=3)
    assert next(results) == "answer 0"
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
