"""Ctrl-C falls between two records."""

from __future__ import annotations

import os
import signal

import pytest

from imgclassify.cli import interrupts


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    steps = []

    def block() -> None:
        with interrupts.whole():
            press()
            steps.append("went on")
        steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait() -> None:
    steps = []

    def block() -> None:
        with interrupts.whole():
            press()
            steps.append("first")
            press()
            steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert steps == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
