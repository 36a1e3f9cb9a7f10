"""Tries inputs for as long as it is told, keeps those that are a finding, and counts: the loop of every target.

A target is a module beside this one, `fuzz/NAME.py`, that makes a `Target` and ends in
`if __name__ == "__main__": harness.main(target())`. From the folder `tests`:

    python -m fuzz.images --seconds 600 --seed 1 --findings folder
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

ROUND = 500
"""Inputs from one seed of Hypothesis, which keeps what it has tried in memory."""


@dataclass(frozen=True, slots=True)
class Input:
    kind: str
    """What it was made from, such as a format; inputs are counted by it."""
    content: bytes


class FindingError(Exception):
    """What no input may bring about; its words say what."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    inputs: SearchStrategy[Input] = field(repr=False)
    attempt: Callable[[Input], str]
    """Hands one input to the code under test, and gives a word for what came of it. Raises FindingError; whatever
    else it raises is a finding too."""
    peak_bytes: Callable[[], int] = lambda: 0
    """The most memory that an attempt has taken so far, where it is known."""
    close: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Figures:
    seed: int
    seconds: float = 0.0
    tried: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, Path]] = field(default_factory=list)
    slowest: tuple[float, str, Input] = (0.0, "", Input("", b""))
    peak_bytes: int = 0

    def __str__(self) -> str:
        count, rate = self.tried.total(), self.tried.total() / (self.seconds or 1)
        lines = [f"seed {self.seed}: {count} inputs in {self.seconds:.0f} s, {rate:.0f} a second"]
        lines += [f"  {tried:7} {kind}" for kind, tried in sorted(self.tried.items())]
        lines += ["outcomes"]
        lines += [f"  {times:7} {outcome}" for outcome, times in self.outcomes.most_common()]
        lines += [f"slowest: {self.slowest[0]:.2f} s, {self.slowest[2].kind}, {self.slowest[1]}"]
        lines += [f"peak memory: {self.peak_bytes / 2**20:.0f} MiB"]
        lines += [f"{len(self.findings)} findings"]
        lines += [f"  {words}: {path}" for words, path in self.findings]
        return "\n".join(lines)


def run(target: Target, *, seconds: float, seed: int, folder: Path) -> Figures:
    """The same inputs for the same seed, as far as the time allows. Findings are written to the folder."""
    figures = Figures(seed)
    start = time.monotonic()
    number = 0
    while (left := start + seconds - time.monotonic()) > 0:
        _round(target, seed * 2**20 + number, time.monotonic() + left, figures, folder)
        number += 1
    figures.seconds = time.monotonic() - start
    target.close()
    _keep(figures.slowest[2], folder, "slowest")
    return figures


def _round(target: Target, seed: int, end: float, figures: Figures, folder: Path) -> None:
    @hypothesis.seed(seed)
    @settings(
        max_examples=ROUND,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=False,
    )
    @given(target.inputs)
    def tries(given_input: Input) -> None:
        if time.monotonic() < end:
            _try(target, given_input, figures, folder)

    tries()


def _try(target: Target, given_input: Input, figures: Figures, folder: Path) -> None:
    figures.tried[given_input.kind] += 1
    before = time.monotonic()
    try:
        outcome = target.attempt(given_input)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is written down
        outcome = str(error) if isinstance(error, FindingError) else f"{type(error).__name__}: {error}"
        figures.findings.append((outcome, _keep(given_input, folder, outcome)))
    taken = time.monotonic() - before
    figures.outcomes[outcome] += 1
    if taken > figures.slowest[0]:
        figures.slowest = (taken, outcome, given_input)
    figures.peak_bytes = max(figures.peak_bytes, target.peak_bytes())


def _keep(given_input: Input, folder: Path, why: str) -> Path:
    """Writes the input down, under a name that is the same for the same input."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{given_input.kind}-{why[:40]}")
    path = folder / f"{name}-{hashlib.sha256(given_input.content).hexdigest()[:12]}"
    path.write_bytes(given_input.content)
    return path


def main(target: Target) -> None:
    parser = argparse.ArgumentParser(description=f"Fuzzes {target.name}.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--findings", type=Path, help="folder for what is found; a new one unless given")
    options = parser.parse_args()
    folder = options.findings or Path(tempfile.mkdtemp(prefix=f"fuzz-{target.name}-"))
    print(f"seed {options.seed}, findings in {folder}", flush=True)
    figures = run(target, seconds=options.seconds, seed=options.seed, folder=folder)
    print(figures)
    raise SystemExit(bool(figures.findings))
