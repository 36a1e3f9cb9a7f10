"""Overlap: items prepared on threads while batches of earlier ones are computed, with results in input order.

Knows nothing of images; what is prepared and how a batch is answered are its caller's two functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")

MAX_WORKERS = 8
"""More threads decode no faster than the memory bus lets them."""

PATIENCE_S = 0.05
"""How long a batch that is not full waits for the next item, before it is answered as it is."""

_END = None


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

    At most two batches are prepared ahead of the one being answered, so memory does not grow with the items. Items
    that come slowly are answered as they come. Closing the iterator stops the threads, but for what one of them may
    be waiting for. Whatever `items`, `prepare` or `answer` raises is raised here, in its item's place.

    Args:
        items: iterated on a thread of its own.
        prepare: called on a thread; hands back what a batch is made of, or Done with the result itself.
        answer: called on the caller's thread with 1 to `batch_size` prepared items; one result each, in order.
    """
    executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="prepare")
    feed: _Feed[Prepared | Done[Result]] = _Feed(2 * batch_size + workers)
    # A daemon, since nothing can interrupt an iterator that waits for its next item.
    feeder = Thread(target=feed.fill, args=(items, lambda item: executor.submit(prepare, item)), daemon=True)
    feeder.start()
    try:
        while block := feed.take(batch_size):
            prepared = [future.result() for future in block]
            batch = [entry for entry in prepared if not isinstance(entry, Done)]
            answers = iter(answer(batch) if batch else [])
            for entry in prepared:
                yield entry.result if isinstance(entry, Done) else next(answers)
    finally:
        feed.stop()
        executor.shutdown(wait=False, cancel_futures=True)
        feeder.join(PATIENCE_S)


class _Feed(Generic[Prepared]):
    """A bounded queue of futures between the thread that iterates the items and the one that answers them."""

    def __init__(self, size: int) -> None:
        self._queue: Queue[Future[Prepared] | None] = Queue(size)
        self._stopped = Event()
        self._ended = False

    def fill(self, items: Iterable[Item], submit: Callable[[Item], Future[Prepared]]) -> None:
        """Submits each item and queues its future, waiting while the queue is full, until the end or `stop`."""
        try:
            for item in items:
                if self._stopped.is_set():
                    return
                self._put(submit(item))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that takes it
            failed: Future[Prepared] = Future()
            failed.set_exception(error)
            self._put(failed)
        self._put(_END)

    def take(self, count: int) -> list[Future[Prepared]]:
        """The next 1 to `count` futures: one at the least, more if they follow without a pause; none at the end."""
        block: list[Future[Prepared]] = []
        while len(block) < count and not self._ended:
            try:
                future = self._queue.get(timeout=PATIENCE_S if block else None)
            except Empty:
                break
            if future is None:
                self._ended = True
            else:
                block.append(future)
        return block

    def stop(self) -> None:
        self._stopped.set()

    def _put(self, future: Future[Prepared] | None) -> None:
        while not self._stopped.is_set():
            with suppress(Full):
                self._queue.put(future, timeout=PATIENCE_S)
                return
