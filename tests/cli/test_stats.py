"""The summary line and the lines of progress."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from imgclassify.cli import progress
from imgclassify.cli.progress import SourceCount, progress_line
from imgclassify.cli.stats import RunStats


def after(seconds: float, **values: object) -> RunStats:
    started = time.monotonic()
    return RunStats(started=started, ended=started + seconds, **values)  # type: ignore[arg-type]


def test_one_image_is_singular() -> None:
    assert after(2, answered=1).summary_line() == "1 image in 2.0 s (0.5/s): 1 answered"
    assert after(2, answered=2).summary_line() == "2 images in 2.0 s (1.0/s): 2 answered"
    assert after(2).summary_line().startswith("0 images in ")
    assert progress_line(after(2, answered=1), None) == "1 image, 0.5/s"
    assert progress_line(after(2, answered=1), 1) == "1 of 1 image, 0.5/s"


def test_what_failed_before_is_told() -> None:
    assert after(1, resumed=4).summary_line().endswith(": 0 answered, 4 resumed")
    assert after(1, resumed=4, resumed_failed=1).summary_line().endswith(", 4 resumed (1 failed before)")


def test_what_was_skipped_is_told_by_extension() -> None:
    stats = after(
        1,
        answered=2,
        skipped=Counter({"not_an_image_name": 9, "hidden": 2}),
        skipped_extensions=Counter({".mp4": 5, ".a": 1, ".b": 1, ".c": 1, ".d": 1}),
    )
    assert stats.summary_line().endswith("2 answered, 11 skipped (.mp4 5, hidden 2, .a 1, .b 1, .c 1, .d 1)")
    assert stats.to_dict(None)["skipped"] == {"not_an_image_name": 9, "hidden": 2}
    assert stats.to_dict(None)["skipped_extensions"][".mp4"] == 5


def test_progress_counts_the_images_of_this_run() -> None:
    """Not the earlier records of other images."""
    stats = after(10, resumed=5000, claimed=100, answered=100)
    assert progress_line(stats, 1200) == "200 of 1,200 images, 10.0/s, 1 min 40 s left"


@pytest.mark.parametrize("known", [None, 7])
def test_the_first_line_off_a_terminal_has_the_total(known: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.4)
    monkeypatch.setattr(progress.console, "shows_progress", True)
    monkeypatch.setattr(progress.console, "is_terminal", lambda: False)
    monkeypatch.setattr(progress.console, "print_message", printed.append)
    with progress.show_progress(after(1, answered=3), SourceCount(known, lambda: 7), on_terminal=False):
        deadline = time.monotonic() + 20
        while not printed and time.monotonic() < deadline:
            time.sleep(0.01)
    assert printed[0] == "3 of 7 images, 3.0/s"


def test_a_short_run_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 60)
    monkeypatch.setattr(progress.console, "shows_progress", True)
    monkeypatch.setattr(progress.console, "is_terminal", lambda: False)
    with progress.show_progress(after(1), SourceCount(None, lambda: counted.append(1)), on_terminal=False):
        time.sleep(0.1)
    assert counted == []
