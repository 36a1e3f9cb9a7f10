"""The counts of a run, for its progress, its summary line and the file of --summary."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imgclassify.errors import ExitStatus

if TYPE_CHECKING:
    from imgclassify.results import ImageFailure, RunInfo

SCHEMA = "imgclassify.summary/1"
"""Names the shape of the --summary file. A breaking change raises the number."""


class HasError(Protocol):
    """A record, or anything else that an image may fail to have."""

    @property
    def error(self) -> ImageFailure | None: ...


@dataclass
class RunStats:
    """The counts of one run. Other threads may read them during the run, except `failed`."""

    resumed: int = 0
    """Records from earlier runs."""
    resumed_failed: int = 0
    """Records from earlier runs that have an error."""
    claimed: int = 0
    """Sources found so far in this run that have a record from an earlier run."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files and folders left out of folders, globs and archives, by reason."""
    skipped_extensions: Counter[str] = field(default_factory=Counter)
    """Those of them without the extension of an image, by extension."""
    answered: int = 0
    """Images with a record that has no error."""
    left_out: int = 0
    """Images with a record that a filter leaves out of the output."""
    failures: int = 0
    """Failed images."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failed images by type of error. Not to be read by other threads."""
    run: RunInfo | None = None
    status: ExitStatus = ExitStatus.OK
    """The exit status of the process."""
    stopped: str | None = None
    """What stopped the run before every source had its record. None if nothing did."""
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def start_clock(self, run: RunInfo) -> None:
        self.run = run
        self.started = time.monotonic()

    def stop_clock(self) -> None:
        self.ended = time.monotonic()

    def add_record(self, record: HasError, *, selected: bool = True) -> None:
        """Counts a record.

        Args:
            selected: False if a filter leaves it out of the output.
        """
        self.left_out += not selected
        if record.error:
            self.failed[record.error.type] += 1
            self.failures += 1
        else:
            self.answered += 1

    @property
    def images(self) -> int:
        """Images with a record from this run, with or without an error."""
        return self.answered + self.failures

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def num_without_extension(self) -> int:
        """Files that were left out because their names have no extension."""
        from imgclassify.sources import NO_EXTENSION

        return self.skipped_extensions[NO_EXTENSION]

    def summary_line(self) -> str:
        """Returns the summary line (docs/output.md)."""
        from imgclassify.sources import describe_skipped

        parts = [
            f"{count_of(self.images, 'image')} in {format_duration(self.seconds)} ({self.rate:.1f}/s): "
            f"{self.answered:,} answered"
        ]
        parts += [f"{self.left_out:,} left out"] if self.left_out else []
        parts += _count_by_kind("failed", self.failed)
        if self.resumed:
            failed = f" ({self.resumed_failed:,} failed before)" if self.resumed_failed else ""
            parts.append(f"{self.resumed:,} resumed{failed}")
        parts += _count_by_kind("skipped", describe_skipped(self.skipped, self.skipped_extensions))
        return ", ".join(parts)

    def to_dict(self, output: Path | None) -> dict[str, Any]:
        """Returns the content of the --summary file (docs/output.md).

        Args:
            output: the file with the records, if there is one. The null device holds none.
        """
        return {
            "schema": SCHEMA,
            "status": int(self.status),
            "stopped": self.stopped,
            "images": self.images,
            "answered": self.answered,
            "left_out": self.left_out,
            "failed": dict(self.failed.most_common()),
            "resumed": self.resumed,
            "resumed_failed": self.resumed_failed,
            "skipped": dict(self.skipped.most_common()),
            "skipped_extensions": dict(self.skipped_extensions.most_common()),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 3),
            "output": None if output is None or str(output) == os.devnull else str(output),
            "run": self.run.to_dict() if self.run else None,
        }


def _count_by_kind(what: str, counts: Counter[str]) -> list[str]:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())
    return [f"{counts.total():,} {what} ({kinds})"] if counts else []


def count_of(number: int, noun: str) -> str:
    """Returns "1 image" or "1,012 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def format_duration(seconds: float) -> str:
    """Formats a duration as in 0.4 s, 12 s, 3 min 20 s or 5 h 3 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_size(num_bytes: int) -> str:
    """Formats a number of bytes as in 3.2 KiB or 1,234.5 MiB."""
    return f"{num_bytes / 2**20:,.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.1f} KiB"
