"""Compares `imgclassify embed` with `predict`, and measures searches: `python -m benchmarks.embeddings`.

Prints a report in Markdown. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import layout, machine, report
from benchmarks.measure import MIB, Case
from benchmarks.parts.common import FULL, QUICK, Measurements, Setting
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace, imgclassify

MODULE = "benchmarks.embeddings"
PAGE = layout.ROOT / "docs" / "embed.md"
VECTORS, DIMENSION = 20_000, 1280
PAIRS = f"""
import time
import numpy as np
from imgclassify.similarity.neighbours import find_similar_pairs, unit_vectors
vectors = unit_vectors(np.random.default_rng(0).standard_normal(({VECTORS}, {DIMENSION})).astype(np.float32))
started = time.perf_counter()
find_similar_pairs(vectors, neighbours=20, min_cosine=0.5)
print(time.perf_counter() - started)
"""


def _case(name: str, workspace: Workspace, command: str, source: Path, output: str = "") -> Case:
    written = ("--jsonl",)
    if output:
        written = ("-o", str(workspace.predictions(f"{command}_{source.name}.{output}")), "--overwrite")
    return Case(name, (*imgclassify(), command, str(source), *written), workspace.environment())


def one_image(workspace: Workspace, setting: Setting) -> Part:
    source = layout.EXAMPLES / "cat.jpg"
    cases = [_case(f"{command}, one image", workspace, command, source) for command in ("predict", "embed")]
    found = Measurements(workspace, cases, 6 * setting.repeats)
    ratio = _over(found, "embed, one image", "predict, one image", 1.1)
    return Part("One image, in a new process", [ratio], found.all)


def folder(workspace: Workspace, setting: Setting) -> Part:
    photographs = workspace.photographs(setting.photographs, setting.given)
    cases, ratios = [], []
    for output in ("jsonl", "parquet"):
        cases += [
            _case(f"{name} to {output}", workspace, name, photographs, output) for name in ("predict", "embed")
        ]
    cases.append(_case("embed to npz", workspace, "embed", photographs, "npz"))
    found = Measurements(workspace, cases, setting.repeats)
    ratios += [_over(found, f"embed to {output}", f"predict to {output}", 1.05) for output in ("jsonl", "parquet")]
    ratios.append(_over(found, "embed to npz", "predict to jsonl", 1.05))
    return Part(f"{setting.photographs} photographs", ratios, found.all)


def memory(workspace: Workspace, setting: Setting) -> Part:
    photographs = workspace.photographs(setting.photographs, setting.given)
    # The smaller number is also more than the few row groups of vectors that pyarrow keeps in memory.
    few, many = (
        _case(
            f"embed to parquet, {count} images",
            workspace,
            "embed",
            workspace.enlarged(photographs, count),
            "parquet",
        )
        for count in (setting.many_photographs // 4, setting.many_photographs)
    )
    found = Measurements(workspace, [few, many], 1)
    small, large = found[few.name].peak, found[many.name].peak
    ratio = Ratio(
        f"peak memory: {many.name} over {few.name}", large / small if small and large else None, at_most=1.1
    )
    return Part("Memory and the number of images", [ratio], found.all)


def _over(found: Measurements, one: str, other: str, at_most: float) -> Ratio:
    mine, others = found[one].seconds, found[other].seconds
    return Ratio(f"{one} over {other}: time", mine / others if mine and others else None, at_most=at_most)


def all_pairs() -> Part:
    """Finds the 20 nearest of each of many vectors, in a process of its own."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PAIRS], capture_output=True, text=True, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    what = f"20 nearest of each of {VECTORS} vectors of {DIMENSION}"
    ratios = [
        Ratio(f"{what}: time", float(done.stdout), unit="s", at_most=20),
        Ratio(f"{what}: peak memory", peak / MIB, unit="MiB", at_most=1024),
    ]
    print(f"{what}: {time.perf_counter() - started:.1f} s with start", file=sys.stderr)
    return Part("Search", ratios, [])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to use instead of made ones")
    parser.add_argument("--quick", action="store_true", help="a minute to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"put the report into docs/{PAGE.name}")
    chosen = parser.parse_args(arguments)
    setting = replace(QUICK if chosen.quick else FULL, given=chosen.photos)
    parts = [all_pairs()]  # first, because it measures the largest of all children so far
    with tempfile.TemporaryDirectory(prefix="embeddings-") as name:
        workspace = Workspace(Path(name).resolve(), lambda text: print(text, file=sys.stderr, flush=True))
        parts += [part(workspace, setting) for part in (one_image, folder, memory)]
    described = machine.describe()
    text = report.document(parts, described, str(setting))
    sys.stdout.write(text)
    if chosen.write:
        report.insert(PAGE, text, MODULE)


if __name__ == "__main__":
    main()
