"""Prepares items on threads while other threads compute batches of earlier items.

Results are in input order. This module does not depend on images: its caller passes one function that prepares
items, and one that computes a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
Value = TypeVar("Value")

BATCH_TIMEOUT_S = 0.05
"""Seconds that a batch that is not full waits for the next item before it is computed as it is."""

_SHUTDOWN_TIMEOUT_S = 1.0
"""Seconds that closing the iterator waits for the batches that are being computed."""

_PREFETCH_BATCHES = 2
"""Minimum number of batches besides those being computed: the next one, and one being filled."""

_END = None


class Completed(NamedTuple, Generic[Result]):
    """The result of an item that needs no computing, such as the error record of a broken file."""

    result: Result


def num_slots(batch_size: int, concurrency: int, workers: int) -> int:
    """Returns the number of items in progress at the same time, each in its own slot.

    It is a whole number of batches, and high enough that no thread lacks an item.

    Args:
        workers: the number of items that are prepared at the same time.
    """
    return batch_size * (concurrency + max(_PREFETCH_BATCHES, 1 + -(-workers // batch_size)))


def run_pipeline(
    items: Iterable[Item],
    prepare: Callable[[Item, int], Prepared | Completed[Result]],
    compute: Callable[[list[Prepared], list[int]], list[Result]],
    *,
    batch_size: int,
    workers: int,
    concurrency: int = 1,
    stop_event: Event | None = None,
) -> Generator[Result, None, None]:
    """Yields one result for each item, in the order of the items.

    Memory does not grow with the number of items. An item holds one of `num_slots` slots from its preparation
    until its result is taken. If items arrive slowly, batches that are not full are computed. Closing the
    iterator stops the threads, but cannot interrupt a call that one of them is waiting for. An error raised by
    `items`, `prepare` or `compute` is raised here, in the position of its item.

    Args:
        items: iterated on a separate thread.
        prepare: called with an item and its slot, on one of `workers` threads. Returns the item's part
            of a batch, or Completed with the result itself.
        compute: called with 1 to `batch_size` prepared items and their slots, in ascending order, on one of
            `concurrency` threads. Returns one result for each, in order.
        stop_event: once it is set, no further item gets a slot. Items that have a slot still get their results.
    """

    def prepare_group(group: list[Item], slots: list[int]) -> Iterator[Prepared | Completed[Result]]:
        return map(prepare, group, slots)

    return run_grouped_pipeline(
        items,
        prepare_group,
        compute,
        batch_size=batch_size,
        workers=workers,
        group_size=1,
        concurrency=concurrency,
        stop_event=stop_event,
    )


def run_grouped_pipeline(
    items: Iterable[Item],
    prepare: Callable[[list[Item], list[int]], Iterator[Prepared | Completed[Result]]],
    compute: Callable[[list[Prepared], list[int]], list[Result]],
    *,
    batch_size: int,
    workers: int,
    group_size: int,
    concurrency: int = 1,
    stop_event: Event | None = None,
) -> Generator[Result, None, None]:
    """Works like `run_pipeline`, but prepares up to `group_size` items with one call.

    There are num_slots(batch_size, concurrency, workers * group_size) slots.

    Args:
        prepare: called with items and their slots, on one of `workers` threads. Yields for each item what
            `prepare` of `run_pipeline` returns, in order.
        group_size: a group is smaller if fewer items are waiting for each thread.
    """
    scheduler: _Scheduler[Item, Prepared, Result] = _Scheduler(
        prepare,
        batch_size=batch_size,
        workers=workers,
        group_size=group_size,
        num_slots=num_slots(batch_size, concurrency, workers * group_size),
        stop_event=stop_event or Event(),
    )
    threads = [Thread(target=scheduler.feed_items, args=(items,), name="feed", daemon=True)]
    threads += [
        Thread(target=scheduler.compute_batches, args=(compute,), name=f"compute-{index}", daemon=True)
        for index in range(concurrency)
    ]
    for thread in threads:
        thread.start()
    try:
        yield from scheduler.iter_results()
    finally:
        scheduler.stop_threads()
        # Nothing can interrupt an iterator that waits for its next item.
        threads[0].join(BATCH_TIMEOUT_S)
        deadline = monotonic() + _SHUTDOWN_TIMEOUT_S
        for thread in threads[1:]:
            thread.join(max(0.0, deadline - monotonic()))


class _StoppedError(Exception):
    """The result of an item that nobody takes."""


class _Promise(Generic[Value]):
    """A value or an error that another thread will set. It takes a fifth of the time of a Future."""

    __slots__ = ("_error", "_set", "_value")

    def __init__(self) -> None:
        self._set = Lock()
        self._set.acquire()
        self._value: Value
        self._error: BaseException | None = None

    def set_value(self, value: Value) -> None:
        self._value = value
        self._set.release()

    def set_error(self, error: BaseException) -> None:
        self._error = error
        self._set.release()

    def result(self) -> Value:
        """Waits for the value, and returns it or raises the error. To be called once."""
        self._set.acquire()
        if self._error is not None:
            raise self._error
        return self._value


class _Scheduler(Generic[Item, Prepared, Result]):
    """The queues between the thread that reads items, the threads that prepare and compute, and the consumer."""

    def __init__(
        self,
        prepare: Callable[[list[Item], list[int]], Iterator[Prepared | Completed[Result]]],
        *,
        batch_size: int,
        workers: int,
        group_size: int,
        num_slots: int,
        stop_event: Event,
    ) -> None:
        self._prepare = prepare
        self._batch_size = batch_size
        self._workers = workers
        self._group_size = group_size
        self._num_slots = num_slots
        self._free: SimpleQueue[None] = SimpleQueue()
        """Has an entry for each free slot. A semaphore would take ten times as long."""
        for _ in range(num_slots):
            self._free.put(None)
        self._waiting: SimpleQueue[tuple[Item, int, _Promise[Prepared | Completed[Result]]] | None] = SimpleQueue()
        self._prepared: SimpleQueue[tuple[int, _Promise[Prepared | Completed[Result]]] | None] = SimpleQueue()
        self._results: SimpleQueue[_Promise[tuple[list[Result], BaseException | None]] | None] = SimpleQueue()
        self._turn = Lock()
        self._stop_event = stop_event
        self._stopped = Event()
        self._ended = False
        self._feeding = False
        """Whether an item is between the iterator and the queue."""

    def feed_items(self, items: Iterable[Item]) -> None:
        """Has items prepared until they end or the pipeline stops. Waits while every slot is in use."""
        slot = started = 0
        try:
            for item in items:
                self._feeding = True
                if not self._acquire_slot():
                    return
                promise: _Promise[Prepared | Completed[Result]] = _Promise()
                self._waiting.put((item, slot, promise))
                self._prepared.put((slot, promise))
                self._feeding = False
                slot = (slot + 1) % self._num_slots
                if started < self._workers:  # few items need few threads
                    Thread(target=self._prepare_items, name=f"prepare-{started}", daemon=True).start()
                    started += 1
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that takes the results
            if self._acquire_slot():
                failed: _Promise[Prepared | Completed[Result]] = _Promise()
                failed.set_error(error)
                self._prepared.put((slot, failed))
        finally:
            self._prepared.put(_END)
            self._waiting.put(_END)

    def compute_batches(self, compute: Callable[[list[Prepared], list[int]], list[Result]]) -> None:
        """Computes one batch after another until the items end or the pipeline stops."""
        while True:
            # One thread at a time, so that the results are queued in the order of the batches.
            with self._turn:
                entries = self._next_batch()
                if not entries:
                    self._results.put(_END)
                    return
                computed: _Promise[tuple[list[Result], BaseException | None]] = _Promise()
                self._results.put(computed)
            try:
                computed.set_value(self._batch_results(entries, compute))
            except BaseException as error:  # noqa: BLE001 - as above
                computed.set_error(error)

    def iter_results(self) -> Iterator[Result]:
        """Yields the results, in order."""
        while (computed := self._results.get()) is not None:
            results, failure = computed.result()
            for result in results:
                yield result
                self._free.put(None)
            if failure is not None:
                raise failure

    def stop_threads(self) -> None:
        """Makes all threads end as soon as they can. Results that are not yet computed are dropped."""
        self._stopped.set()
        self._prepared.put(_END)
        self._waiting.put(_END)

    def _prepare_items(self) -> None:
        """Prepares one group of items after another until they end or the pipeline stops."""
        while group := self._next_group():
            items, slots, promises = (list(part) for part in zip(*group, strict=True))
            done = 0
            try:
                if self._stopped.is_set():
                    raise _StoppedError
                for outcome in self._prepare(items, slots):
                    promises[done].set_value(outcome)
                    done += 1
            except BaseException as error:  # noqa: BLE001 - as above
                for promise in promises[done:]:
                    promise.set_error(error)

    def _next_group(self) -> list[tuple[Item, int, _Promise[Prepared | Completed[Result]]]]:
        """Returns the next 1 to `group_size` items that wait, or an empty list at the end."""
        group: list[tuple[Item, int, _Promise[Prepared | Completed[Result]]]] = []
        entry = self._waiting.get()
        # Others that are idle, or soon will be, get their share.
        size = min(self._group_size, 1 + self._waiting.qsize() // self._workers)
        while entry is not None:
            group.append(entry)
            if len(group) == size:
                break
            try:
                entry = self._waiting.get_nowait()
            except Empty:
                break
        if entry is _END:
            self._waiting.put(_END)  # for the other threads
        return group

    def _acquire_slot(self) -> bool:
        """Waits for a free slot. Returns False if the pipeline is stopping."""
        while not (self._stopped.is_set() or self._stop_event.is_set()):
            try:
                self._free.get(timeout=BATCH_TIMEOUT_S)
            except Empty:
                continue
            return True
        return False

    def _next_batch(self) -> list[tuple[int, _Promise[Prepared | Completed[Result]]]]:
        """Returns the next 1 to `batch_size` items, or an empty list at the end.

        There is more than one item if they follow without a pause and their slots ascend.
        """
        entries: list[tuple[int, _Promise[Prepared | Completed[Result]]]] = []
        while len(entries) < self._batch_size and not self._ended and not self._stopped.is_set():
            try:
                entry = self._prepared.get(timeout=BATCH_TIMEOUT_S)
            except Empty:
                # After a stop, the iterator may still wait for its next item, and nothing can interrupt it. An
                # item that has its slot is about to arrive.
                if entries or (self._stop_event.is_set() and not self._feeding):
                    break
                continue
            if entry is None:
                self._ended = True
            else:
                entries.append(entry)
                # The next item has slot 0, and the slots of a batch must ascend.
                if entry[0] == self._num_slots - 1:
                    break
        return [] if self._stopped.is_set() else entries

    def _batch_results(
        self,
        entries: list[tuple[int, _Promise[Prepared | Completed[Result]]]],
        compute: Callable[[list[Prepared], list[int]], list[Result]],
    ) -> tuple[list[Result], BaseException | None]:
        """Returns the results of a batch up to the first item that failed, and the error of that item."""
        prepared: list[tuple[int, Prepared | Completed[Result]]] = []
        failure = None
        for slot, promise in entries:
            try:
                prepared.append((slot, promise.result()))
            except BaseException as error:  # noqa: BLE001 - raised again after the results before it
                failure = error
                break
        batch = [(slot, item) for slot, item in prepared if not isinstance(item, Completed)]
        results = iter(compute([item for _, item in batch], [slot for slot, _ in batch]) if batch else [])
        return [item.result if isinstance(item, Completed) else next(results) for _, item in prepared], failure
