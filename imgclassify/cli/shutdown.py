"""Ctrl-C and other signals. The first stops a run after the images in flight, a second one stops it at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Timer, current_thread, main_thread
from types import FrameType, TracebackType
from typing import Any, Self

from imgclassify.cli import console
from imgclassify.errors import ExitStatus

_STATUSES = {
    "SIGINT": ExitStatus.INTERRUPTED,
    "SIGTERM": ExitStatus.TERMINATED,
    "SIGHUP": ExitStatus.HUNG_UP,
}
"""Exit statuses by the names of signals. Names are used because Windows has no SIGHUP."""

GRACE_PERIOD_S = 5.0
"""The longest wait for images in flight, in seconds. A server or a pipe may send nothing."""


class GracefulShutdown:
    """Handles signals inside its `with` block.

    The first signal sets `stop_requested`. A second signal, or the end of GRACE_PERIOD_S, raises
    KeyboardInterrupt in the main thread. If `waits_for_images` is False, the first signal raises it. Signals
    that the process was started to ignore, for example by nohup, stay ignored.
    """

    def __init__(self) -> None:
        self.stop_requested = Event()
        self.status: ExitStatus | None = None
        """The exit status of the process. None before a signal."""
        self.waits_for_images = True
        self._former: dict[int, Any] = {}
        self._timer: Timer | None = None

    def __enter__(self) -> Self:
        for name in _STATUSES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        for number, former in self._former.items():
            signal.signal(number, former)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            raise KeyboardInterrupt
        self.status = _STATUSES[signal.Signals(number).name]
        if not self.waits_for_images:
            raise KeyboardInterrupt
        self.stop_requested.set()
        self._timer = Timer(GRACE_PERIOD_S, _signal_main_thread, [number])
        self._timer.daemon = True
        self._timer.start()
        with suppress(Exception):  # the signal may arrive amid another line, or the terminal may be gone
            console.print_message("finishing the images in flight; interrupt again to stop at once")


@contextmanager
def watch_interrupts() -> Iterator[list[int]]:
    """Records Ctrl-C inside its `with` block, and raises KeyboardInterrupt as Python does.

    A library that is interrupted while it is imported may turn the KeyboardInterrupt into another exception.

    Yields:
        The numbers of the signals, as they arrive.
    """
    received: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or current_thread() is not main_thread():  # ignored, or handled by another program
        yield received
        return
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _signal_main_thread(number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)
    elif (identity := main_thread().ident) is not None:
        signal.pthread_kill(identity, number)  # a waiting main thread wakes only for a signal of its own
