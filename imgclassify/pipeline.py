"""Overlap: items prepared on threads while batches of earlier ones are computed, with results in input order.

Knows nothing of images; what is prepared and how a batch is answered are its caller's two functions.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")

MAX_WORKERS = 8
"""More threads decode no faster than the memory bus lets them."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """An item that was answered while it was prepared, such as a broken file by its error record."""

    result: Result


def default_workers() -> int:
    """One thread a processor that this process may use, MAX_WORKERS at most."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, MAX_WORKERS)


def stream(
    items: Iterable[Item],
    prepare: Callable[[Item], Prepared | Done[Result]],
    answer: Callable[[list[Prepared]], list[Result]],
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Result]:
    """One result an item, in the items' order.

    At most two batches are prepared ahead of the one being answered, so memory does not grow with the items.
    Closing the iterator stops the threads. Whatever `items`, `prepare` or `answer` raises is raised here.

    Args:
        prepare: called on a thread; hands back what a batch is made of, or Done with the result itself.
        answer: called on the caller's thread with 1 to `batch_size` prepared items; one result each, in order.
    """
    ahead = 2 * batch_size + workers
    pending: deque[Future[Prepared | Done[Result]]] = deque()
    remaining = iter(items)
    executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="prepare")

    def fill() -> None:
        while len(pending) < ahead:
            try:
                item = next(remaining)
            except StopIteration:
                return
            pending.append(executor.submit(prepare, item))

    try:
        fill()
        while pending:
            block: list[Prepared | Done[Result]] = []
            while pending and len(block) < batch_size:
                block.append(pending.popleft().result())
                fill()
            batch = [entry for entry in block if not isinstance(entry, Done)]
            answers = iter(answer(batch) if batch else [])
            for entry in block:
                yield entry.result if isinstance(entry, Done) else next(answers)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
