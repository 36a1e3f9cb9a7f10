"""The first signal asks, the second one does not wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from imgclassify.cli import console, shutdown
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.errors import ExitStatus

SIGNALS = [
    (signal.SIGINT, ExitStatus.INTERRUPTED),
    (signal.SIGTERM, ExitStatus.TERMINATED),
    (signal.SIGHUP, ExitStatus.HUNG_UP),
]


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    """As of a command that was typed, even where these tests run in the background."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    former = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_first_signal_asks_and_nothing_is_raised(number: int, status: ExitStatus) -> None:
    former = signal.getsignal(number)
    with GracefulShutdown() as stopping:
        assert not stopping.stop_requested.is_set()
        os.kill(os.getpid(), number)
        assert stopping.stop_requested.is_set()
        assert stopping.status == status
        assert stopping.status == 128 + number
    assert signal.getsignal(number) is former


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts_and_the_first_gives_the_status(second: int) -> None:
    with GracefulShutdown() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
    assert stopping.status is ExitStatus.TERMINATED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_first_signal_interrupts_where_nothing_is_in_flight() -> None:
    with GracefulShutdown() as stopping:
        stopping.waits_for_images = False
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.status is ExitStatus.TERMINATED


def test_after_its_grace_a_single_signal_interrupts_even_one_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "GRACE_PERIOD_S", 0.2)
    begun = time.monotonic()
    with GracefulShutdown():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(30)
    assert time.monotonic() - begun < 10


def test_an_ignored_signal_is_left_alone() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with GracefulShutdown() as stopping:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stopping.stop_requested.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_signal_is_noted_even_if_it_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(message: str) -> None:
        raise OSError("the terminal is gone")

    monkeypatch.setattr(console, "print_message", broken)
    with GracefulShutdown() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.stop_requested.is_set()


def test_an_interrupt_is_recorded_and_raised() -> None:
    with pytest.raises(KeyboardInterrupt), shutdown.watch_interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert interrupts == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with shutdown.watch_interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    assert interrupts == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
