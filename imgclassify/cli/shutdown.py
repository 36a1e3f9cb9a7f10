"""A run is asked to stop by a signal, and told at once by a second one."""

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
"""How long pictures in flight are waited for: one may come from a server that sends nothing, or from a pipe."""


class GracefulShutdown:
    """Inside its `with`, the first of the signals sets `asked`. A second one, or GRACE_S seconds, raises
    KeyboardInterrupt wherever the main thread is, as does the first one where no pictures are in flight. A signal
    that whoever started the process has it ignore, as nohup does, stays ignored."""

    def __init__(self) -> None:
        self.stop_requested = Event()
        self.status: ExitStatus | None = None
        """What a process ends with that was asked to stop."""
        self.waits_for_images = True
        """Whether a first signal should wait for pictures."""
        self._former: dict[int, Any] = {}
        self._grace: Timer | None = None

    def __enter__(self) -> Self:
        for name in _STATUSES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grace:
            self._grace.cancel()
        for number, former in self._former.items():
            signal.signal(number, former)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            raise KeyboardInterrupt
        self.status = _STATUSES[signal.Signals(number).name]
        if not self.waits_for_images:
            raise KeyboardInterrupt
        self.stop_requested.set()
        self._grace = Timer(GRACE_PERIOD_S, _signal_main_thread, [number])
        self._grace.daemon = True
        self._grace.start()
        with suppress(Exception):  # it may fall into the midst of another line, or the terminal be gone
            console.print_message("stopping when the pictures in flight are answered; once more stops at once")


def _signal_main_thread(number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)
    elif (identity := main_thread().ident) is not None:
        signal.pthread_kill(identity, number)  # only a signal of its own wakes it while it waits
