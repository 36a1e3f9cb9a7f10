"""Formats measurements as Markdown: the machine, a table of ratios, and the measurements they are based on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB, Measured

BEGIN = "<!-- benchmarks: begin, written by `python -m benchmarks` -->"
END = "<!-- benchmarks: end -->"
NONE = "–"


@dataclass(frozen=True)
class Ratio:
    """A result as one number, and the goal that it is compared with."""

    what: str
    value: float | None
    """None if one of the two measurements failed."""
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def goal(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g} {self.unit}"
        return f"≤ {self.at_most:g} {self.unit}" if self.at_most is not None else NONE

    @property
    def met(self) -> str:
        if self.value is None or self.goal == NONE:
            return NONE
        high_enough = self.at_least is None or self.value >= self.at_least
        low_enough = self.at_most is None or self.value <= self.at_most
        return "yes" if high_enough and low_enough else "no"

    @property
    def shown(self) -> str:
        if self.value is None:
            return NONE
        digits = {"×": 2, "%": 1, "ms": 2}.get(self.unit, 0)
        return f"{self.value:.{digits}f} {self.unit}"

    def record(self) -> dict[str, Any]:
        return {"what": self.what, "value": self.value, "unit": self.unit, "goal": self.goal, "met": self.met}


@dataclass(frozen=True)
class Part:
    """The results of one part of the benchmark."""

    title: str
    ratios: Sequence[Ratio]
    measured: Sequence[Measured]
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More columns for the table of measurements: heading → name of the case → text."""
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More measurements, for JSON."""

    def record(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "ratios": [ratio.record() for ratio in self.ratios],
            "measured": [each.record() for each in self.measured],
            "notes": list(self.notes),
            "facts": dict(self.facts),
        }


def document(parts: Sequence[Part], machine: Mapping[str, str], setting: str) -> str:
    """Returns the whole report."""
    lines = [f"- {key}: {value}" for key, value in machine.items()]
    lines += [f"- Measured: {setting}", ""]
    lines += table(
        ["", "measured", "wanted", "met"],
        [[ratio.what, ratio.shown, ratio.goal, ratio.met] for part in parts for ratio in part.ratios],
    )
    for part in parts:
        lines += ["", f"### {part.title}", "", *_measurements(part), *(f"\n{note}" for note in part.notes)]
    return "\n".join(lines) + "\n"


def _measurements(part: Part) -> list[str]:
    failed = [f"- {each.case.name} failed: `{each.failure}`" for each in part.measured if each.failure]
    rows = [
        [each.case.name, _seconds(each), _peak(each)]
        + [texts.get(each.case.name, NONE) for texts in part.columns.values()]
        for each in part.measured
    ]
    headings = ["", "seconds, median (least to most)", "peak memory, MiB", *part.columns]
    return [*table(headings, rows), *([""] if failed else []), *failed]


def _seconds(measured: Measured) -> str:
    if measured.failure:
        return "failed"
    seconds = [run.seconds for run in measured.runs]
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def _peak(measured: Measured) -> str:
    return NONE if measured.peak is None else f"{measured.peak / MIB:.0f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table. The columns are padded so that it can be read as text, too.

    All columns except the first are aligned to the right.
    """
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    widths = [max(3, width) for width in widths]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(headings), line(rule), *map(line, rows)]


def insert(page: Path, text: str, module: str = "benchmarks") -> None:
    """Puts the report between the page's two markers.

    Args:
        module: the module that writes the report, which the first marker names.

    Raises:
        ValueError: the page does not have the markers.
    """
    marker = BEGIN.replace("`python -m benchmarks`", f"`python -m {module}`")
    content = page.read_text("utf-8")
    before, begin, rest = content.partition(marker)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {marker!r} and {END!r}")
    page.write_text(f"{before}{marker}\n\n{text}\n{END}{after}", encoding="utf-8")
