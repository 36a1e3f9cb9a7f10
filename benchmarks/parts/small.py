"""Small images and a network of a few bytes: what an image costs besides decoding and computing."""

from __future__ import annotations

import json
import statistics
import sys

from benchmarks import layout
from benchmarks.measure import Case
from benchmarks.parts.common import Measurements, Setting
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace, imgclassify

_AUTO = "imgclassify, small images"
_THREADS = "imgclassify, small images, --workers threads"
_PROCESSES = "imgclassify, small images, --workers processes"
_READY = "(workers that hand over ready crops)"


def measure(workspace: Workspace, setting: Setting) -> Part:
    count = setting.small_images
    found = Measurements(workspace, _cases(workspace, count), setting.repeats)
    ready = found[_READY]
    each = None if ready.failure else statistics.median(json.loads(run.stdout)["ms"] for run in ready.runs)
    ratios = [
        found.speedup(_PROCESSES, _THREADS),
        found.speedup(_AUTO, _THREADS),
        Ratio(f"{_AUTO}: the main process's own time for an image", each, unit="ms", at_most=0.12),
        found.peak(_AUTO, 300),
    ]
    rates = {each.case.name: f"{count / each.seconds:.0f}" for each in found.all[:3] if each.seconds is not None}
    return Part(f"{count} images of 32×32, a network of a few bytes", ratios, found.all, {"images/s": rates})


def _cases(workspace: Workspace, count: int) -> list[Case]:
    folder = workspace.small_images(count)
    images, model, labels = (
        str(folder / name) for name in (layout.SMALL_IMAGES, layout.SMALL_NETWORK, layout.SMALL_LABELS)
    )
    usual = workspace.environment()
    options = [
        part
        for name, value in layout.SMALL_PREPROCESS.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]

    def ours(name: str, *workers: str) -> Case:
        written = workspace.predictions(f"{name.replace(' ', '_')}.jsonl")
        command = (*imgclassify(), "predict", images, "-m", model, "--labels", labels, *options, *workers)
        return Case(name, (*command, "-o", str(written), "--overwrite"), usual)

    return [
        ours(_AUTO),
        ours(_THREADS, "--workers", "threads"),
        ours(_PROCESSES, "--workers", "processes"),
        Case(
            _READY,
            (sys.executable, "-m", "benchmarks.ready_workers", images, model, labels),
            usual | {"PYTHONPATH": str(layout.ROOT)},
        ),
    ]
