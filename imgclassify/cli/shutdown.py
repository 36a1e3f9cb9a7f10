"""Ctrl-C and other signals: the first one stops a run after the images in flight, a second one stops it at once."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from threading import Event, Timer, main_thread
from types import FrameType, TracebackType
from typing import Any, Self

from imgclassify.cli import console
from imgclassify.errors import ExitStatus

_STATUSES = {
    "SIGINT": ExitStatus.INTERRUPTED,
    "SIGTERM": ExitStatus.TERMINATED,
    "SIGHUP": ExitStatus.HUNG_UP,
}
"""Windows has no SIGHUP."""

GRACE_PERIOD_S = 5.0
"""How long images in flight are waited for. One may come from a server that sends nothing, or from a pipe."""


class GracefulShutdown:
    """Handles signals inside its `with` block.

    The first signal sets `stop_requested`. A second one, or GRACE_PERIOD_S seconds, raises KeyboardInterrupt in the
    main thread. So does the first one if `waits_for_images` is False. A signal that this process was started to
    ignore, as nohup does, stays ignored.
    """

    def __init__(self) -> None:
        self.stop_requested = Event()
        self.status: ExitStatus | None = None
        """What the process ends with; None before a signal."""
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
        with suppress(Exception):  # it may interrupt another line, or the terminal may be gone
            console.print_message("finishing the images in flight; press again to stop at once")


def _signal_main_thread(number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)
    elif (identity := main_thread().ident) is not None:
        signal.pthread_kill(identity, number)  # only a signal of its own wakes it while it waits
