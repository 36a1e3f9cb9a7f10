"""Measures what training costs: `python -m benchmarks.training`.

Prints a report in Markdown. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import layout, machine, report
from benchmarks.measure import Case, Measured
from benchmarks.parts.common import FULL, QUICK, Measurements, Setting
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace, reference

MODULE = "benchmarks.training"
_IMAGES = 160
_LOOP, _OURS, _FLOAT32 = "plain loop with a DataLoader", "imgclassify", "imgclassify in float32"


def finetune(workspace: Workspace, setting: Setting) -> Part:
    """Fine-tunes two networks, also in a plain loop with the same augmentation and batches."""
    workspace.prepare_weights()
    photographs = str(workspace.photographs(min(_IMAGES, setting.photographs), setting.given))
    environment = workspace.environment() | {"PYTHONPATH": str(layout.ROOT)}
    checkpoint = str(workspace.folder / layout.EMBEDDED_CHECKPOINT)
    cases, ratios = [], []
    for model, options in (("resnet18", ()), ("efficientnet_lite0", ("--checkpoint", checkpoint))):
        ours = (sys.executable, "-m", "benchmarks.finetune", photographs, "--model", model)
        cases += [
            Case(f"{model}, {_LOOP}", (*reference("finetune"), photographs, *options), environment),
            Case(f"{model}, {_OURS}", ours, environment),
            Case(f"{model}, {_FLOAT32}", (*ours, "--dtype", "float32"), environment),
        ]
    found = Measurements(workspace, cases, setting.repeats)
    speeds = {each.case.name: _speed(each) for each in found.all}
    for model in ("resnet18", "efficientnet_lite0"):
        loop = speeds[f"{model}, {_LOOP}"]
        for name, wanted in ((_OURS, 1.3), (_FLOAT32, None)):
            mine = speeds[f"{model}, {name}"]
            value = mine / loop if mine and loop else None
            ratios.append(Ratio(f"{model}: {name} over {_LOOP}", value, at_least=wanted))
    shown = {name: report.NONE if speed is None else f"{speed:.1f}" for name, speed in speeds.items()}
    return Part("Fine-tuning on the processor", ratios, found.all, {"images a second": shown})


def _speed(measured: Measured) -> float | None:
    """Returns the median of the images per second that the runs of a case print."""
    if measured.failure:
        return None
    printed = [json.loads(run.stdout.splitlines()[-1]) for run in measured.runs]
    return statistics.median(each["images_per_second"] for each in printed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to use instead of made ones")
    parser.add_argument("--quick", action="store_true", help="a few minutes to see that it runs")
    chosen = parser.parse_args(arguments)
    setting = replace(QUICK if chosen.quick else FULL, given=chosen.photos)
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        workspace = Workspace(Path(name).resolve(), lambda text: print(text, file=sys.stderr, flush=True))
        parts = [finetune(workspace, setting)]
    sys.stdout.write(report.document(parts, machine.describe(), str(setting)))


if __name__ == "__main__":
    main()
