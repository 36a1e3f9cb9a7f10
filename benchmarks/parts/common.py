"""What the parts share: how much to measure, the measurements of a part, and our own command on a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import MIB, Case, Measured, alternately
from benchmarks.report import Ratio
from benchmarks.workspace import Workspace, imgclassify


@dataclass(frozen=True)
class Setting:
    """How much to measure."""

    repeats: int
    photographs: int
    many_photographs: int
    phone_photographs: int
    small_images: int
    bound_seconds: float
    """For each of the four measurements of the machine's own bound."""
    given: Path | None = None
    """The user's own folder of photographs."""

    def __str__(self) -> str:
        source = f"those of {self.given.name}" if self.given else "made from the examples by seeded changes"
        return (
            f"whole processes, {self.repeats} rounds of all programs after one untimed round; photographs {source}"
        )


FULL = Setting(5, 1000, 20_000, 300, 4000, 4.0)
QUICK = Setting(1, 60, 300, 8, 100, 0.5)


class Measurements:
    """The cases of a part, measured alternately, and ratios between them."""

    def __init__(self, workspace: Workspace, cases: Sequence[Case], repeats: int) -> None:
        self.all = alternately(cases, repeats, workspace.folder, workspace.say)
        self._by_name = {each.case.name: each for each in self.all}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Measured:
        return self._by_name[name]

    def speedup(self, ours: str, theirs: str, at_least: float | None = None) -> Ratio:
        mine, others = self[ours].seconds, self[theirs].seconds
        value = others / mine if mine and others else None
        return Ratio(f"{ours}: speedup over {theirs}", value, at_least=at_least)

    def peak(self, name: str, at_most: float | None = None) -> Ratio:
        peak = self[name].peak
        value = None if peak is None else peak / MIB
        return Ratio(f"{name}: peak memory", value, unit="MiB", at_most=at_most)


def our_folder(name: str, workspace: Workspace, photographs: Path, *options: str) -> Case:
    """`imgclassify predict FOLDER --jsonl -o FILE --overwrite`, to be run several times."""
    written = workspace.predictions(f"{name.replace(' ', '_')}_{photographs.name}.jsonl")
    command = (*imgclassify(), "predict", str(photographs), "--jsonl", "-o", str(written), "--overwrite", *options)
    return Case(name, command, workspace.environment(), predictions=written)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
