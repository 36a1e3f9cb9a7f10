"""Photographs of 12 megapixels, classified exactly and with --fast-decode."""

from __future__ import annotations

import subprocess

from benchmarks import predictions
from benchmarks.parts.common import Measurements, Setting, our_folder, percent
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace, imgclassify

_EXACT = "imgclassify, exact"
_FAST = "imgclassify, --fast-decode"


def measure(workspace: Workspace, setting: Setting) -> Part:
    count = setting.phone_photographs
    title = f"Phone photographs: {count} of 4032×3024 pixels, embedded model"
    photographs = workspace.phone_photographs(count)
    cases = [our_folder(_EXACT, workspace, photographs)]
    notes = []
    if _has_fast_decode(workspace):
        cases.append(our_folder(_FAST, workspace, photographs, "--fast-decode"))
    else:
        notes.append("This version has no --fast-decode: it was not measured.")
    found = Measurements(workspace, cases, setting.repeats)
    rates = {each.case.name: f"{count / each.seconds:.1f}" for each in found.all if each.seconds is not None}
    if len(cases) == 1:
        return Part(title, [], found.all, {"images/s": rates}, notes)
    ratios = [found.speedup(_FAST, _EXACT, 2.6)]
    if not any(each.failure for each in found.all):
        exact, fast = (predictions.read(case.predictions) for case in cases if case.predictions)
        share, change = predictions.agreement(fast, exact), predictions.largest_change(fast, exact)
        ratios.append(Ratio(f"{_FAST}: same top-1 as exact", 100 * share, unit="%"))
        notes.append(
            f"With --fast-decode, {percent(share)} of the top-1 predictions are the same. The five largest "
            f"probabilities differ by at most {change:.4f}."
        )
    return Part(title, ratios, found.all, {"images/s": rates}, notes)


def _has_fast_decode(workspace: Workspace) -> bool:
    environment = workspace.environment() | {"COLUMNS": "200"}
    shown = subprocess.run(
        [*imgclassify(), "predict", "--help"], capture_output=True, text=True, check=False, env=environment
    )
    return "--fast-decode" in shown.stdout
