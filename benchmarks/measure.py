"""Measures wall-clock time, processor time and peak memory of whole processes, of several commands alternately.

This process must stay small. A process that it starts has this process's memory until `exec`, and Linux
includes that in its peak (ru_maxrss).
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT = 3600.0
"""Seconds after which a run counts as failed."""
_SAMPLING_PAUSE = 0.05
"""Seconds between two samples of the memory of a process and its children."""
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""The unit of ru_maxrss in bytes."""
MIB = 2**20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A command to measure."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """The complete environment of the process; if empty, it is inherited."""
    predictions: Path | None = None
    """The file to which the command writes its predictions."""
    removed_before: tuple[Path, ...] = ()
    """Folders that are removed before each run."""


@dataclass(frozen=True)
class Run:
    """The measurements of one process, from its start to its end."""

    seconds: float
    cpu_seconds: float
    """Processor time of the process and of the children that it waited for."""
    max_rss: int
    """Peak memory in bytes of the largest single process."""
    status: int
    stdout: str
    stderr: str

    @property
    def failure(self) -> str | None:
        """None if the process succeeded; otherwise the last line of its stderr, or its exit status."""
        if self.status == 0:
            return None
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.status}"


@dataclass
class Measured:
    """The measurements of a case: a first run to warm up and to sample its memory, and the timed runs."""

    case: Case
    sampled_peak: int | None = None
    """Peak memory in bytes of the process and its children together (PSS); None without /proc."""
    runs: list[Run] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> float | None:
        return None if self.failure else statistics.median(run.seconds for run in self.runs)

    @property
    def peak(self) -> int | None:
        """Peak memory in bytes: the median ru_maxrss, or the sampled peak (with children) if that is larger."""
        if self.failure:
            return None
        return max(int(statistics.median(run.max_rss for run in self.runs)), self.sampled_peak or 0)

    def record(self) -> dict[str, Any]:
        """Returns all measurements, for JSON."""
        return {
            "name": self.case.name,
            "command": list(self.case.command),
            "failure": self.failure,
            "sampled_peak_bytes": self.sampled_peak,
            "runs": [
                {"seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "max_rss_bytes": run.max_rss}
                for run in self.runs
            ],
        }


def alternately(
    cases: Sequence[Case], repeats: int, folder: Path, say: Say, *, warm_up: bool = True
) -> list[Measured]:
    """Measures several cases alternately.

    First, each case runs once to sample its memory, without being timed. Then all cases run in `repeats`
    rounds. Each round starts with the next case. A case that fails is not run again.

    Args:
        warm_up: False leaves the first runs out. The memory of children is then not known.
    """
    measured = [Measured(case) for case in cases]
    for each in measured if warm_up else ():
        sampler = MemorySampler()
        _measure(each, folder, say, "memory", sampler)
        each.sampled_peak = sampler.peak
    for each in measured:
        each.runs.clear()
    for number in range(repeats):
        start = number % max(1, len(measured))
        for each in measured[start:] + measured[:start]:
            if each.failure is None:
                _measure(each, folder, say, f"{number + 1}/{repeats}")
    return measured


def _measure(
    measured: Measured, folder: Path, say: Say, round_name: str, sampler: MemorySampler | None = None
) -> None:
    result = run(measured.case, folder, sampler=sampler)
    measured.runs.append(result)
    measured.failure = result.failure
    outcome = measured.failure or f"{result.seconds:.2f} s, {result.max_rss / MIB:.0f} MiB"
    say(f"  [{round_name}] {measured.case.name}: {outcome}")


def run(case: Case, folder: Path, *, sampler: MemorySampler | None = None, timeout: float = TIMEOUT) -> Run:
    """Runs a case in `folder`, and leaves its output there in the files stdout and stderr."""
    for path in case.removed_before:
        shutil.rmtree(path, ignore_errors=True)
    with (
        (folder / "stdout").open("w+", encoding="utf-8", errors="replace") as stdout,
        (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr,
    ):
        started = time.perf_counter()
        process = subprocess.Popen(
            case.command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=dict(case.environment) or None,
            start_new_session=True,
        )
        timer = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        if sampler:
            sampler.start(process.pid)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            if sampler:
                sampler.stop()
        stdout.seek(0)
        stderr.seek(0)
        return Run(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_rss=usage.ru_maxrss * _MAXRSS_UNIT,
            status=process.returncode,
            stdout=stdout.read(),
            stderr=stderr.read(),
        )


class MemorySampler:
    """Samples the memory of all processes of a session together. Each shared page counts once (PSS)."""

    def __init__(self) -> None:
        self.peak: int | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, session: int) -> None:
        if Path("/proc/self/smaps_rollup").exists():
            self._thread = threading.Thread(target=self._watch, args=(session,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _watch(self, session: int) -> None:
        while not self._stopped.wait(_SAMPLING_PAUSE):
            self.peak = max(self.peak or 0, sum(map(_pss, _members(session))))


def _members(session: int) -> list[Path]:
    """Returns the folders in /proc of a session's processes."""
    members = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The command in parentheses may contain spaces. After it come state, parent, group and session.
            fields = (process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[3]) == session:
            members.append(process)
    return members


def _pss(process: Path) -> int:
    try:
        lines = (process / "smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
