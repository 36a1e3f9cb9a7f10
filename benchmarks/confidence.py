"""Measures what evaluate and the confidence options of predict cost: `python -m benchmarks.confidence`.

Prints a report in Markdown. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import layout, machine, report
from benchmarks.measure import Case
from benchmarks.parts.common import FULL, QUICK, Measurements, Setting
from benchmarks.report import Part, Ratio
from benchmarks.workspace import Workspace, imgclassify

MODULE = "benchmarks.confidence"
PAGE = layout.ROOT / "docs" / "evaluation.md"
OPTIONS = ("--calibrated", "--at-least", "0.9", "--unfamiliar")
IMAGES, CLASSES = 50_000, 1000
LOGITS = f"""
import json
import sys
import numpy as np
from pathlib import Path
from imgclassify import labels
from imgclassify.evaluation.logits import IMAGE_LOGITS, ImageLogits
from imgclassify.output.npz import NpzFileFormat
from imgclassify.output.provenance import Provenance

folder, count = Path(sys.argv[1]), int(sys.argv[2])
label_set = labels.load_labels("imagenet1k")
run = {{
    "model": "synthetic", "label_set": "imagenet1k", "label_set_sha256": label_set.digest(),
    "activation": "softmax", "num_classes": {CLASSES}, "weights": {{"name": "none", "sha256": "0" * 64}},
}}
rng = np.random.default_rng(0)
truth = rng.integers(0, {CLASSES}, count)

def records():
    for index, right in enumerate(truth):
        logits = rng.standard_normal({CLASSES}, np.float32) * 2
        logits[right] += 7
        yield ImageLogits(f"{{index}}.jpg", "synthetic", 224, 224, logits.astype(np.float16))

NpzFileFormat(IMAGE_LOGITS).save(folder / "logits.npz", Provenance(run, {{"logits_dtype": "float16"}}), records())
rows = "".join(f"{{index}}.jpg,{{right}}\\n" for index, right in enumerate(truth))
(folder / "truth.csv").write_text("source,class_index\\n" + rows)
"""
COSTS = f"""
import json
import time
import numpy as np
from imgclassify import labels
from imgclassify.confidence.prediction_sets import lac_set, raps_set
from imgclassify.confidence.rollup import climb
from imgclassify.confidence.unfamiliarity import fit_familiarity, gen_score, nci_score
from imgclassify.engines.activation import softmax
from imgclassify.labels.taxonomy import wordnet_taxonomy

rng = np.random.default_rng(0)
logits = rng.standard_normal({CLASSES}).astype(np.float32) * 3
probabilities = softmax(logits / np.float32(0.8))
weight, mean = rng.standard_normal((2, 1280)).astype(np.float32)
familiar = rng.standard_normal((1000, 1280)).astype(np.float32)
features = rng.standard_normal(1280).astype(np.float32)
taxonomy = wordnet_taxonomy(labels.load_labels("imagenet1k"))
known = fit_familiarity(familiar, rng.standard_normal(1000))
functions = {{
    "softmax with a temperature": lambda: softmax(logits / np.float32(0.8)),
    "--at-least": lambda: climb(probabilities, taxonomy, 0.9),
    "--sets, lac": lambda: lac_set(probabilities, 0.9),
    "--sets, raps": lambda: raps_set(probabilities, 0.9, 0.01, 5),
    "--unfamiliar, gen": lambda: gen_score(probabilities),
    "--unfamiliar, nci": lambda: nci_score(features, weight, mean),
    "--unfamiliar, neighbours among 1,000": lambda: known.score(features, 0.0),
}}
found = {{}}
for name, function in functions.items():
    function()
    times = []
    for _ in range(9):
        started = time.perf_counter()
        for _ in range(100):
            function()
        times.append((time.perf_counter() - started) / 100)
    found[name] = sorted(times)[4] * 1e6
print(json.dumps(found))
"""


def _case(name: str, workspace: Workspace, *arguments: str) -> Case:
    return Case(name, (*imgclassify(), *arguments), workspace.environment())


def one_image(workspace: Workspace, setting: Setting) -> Part:
    source = str(layout.EXAMPLES / "cat.jpg")
    plain = _case("predict, one image", workspace, "predict", source)
    cases = [plain, _case("predict with the options, one image", workspace, "predict", source, *OPTIONS)]
    found = Measurements(workspace, cases, 6 * setting.repeats)
    return Part("One image, in a new process", [_over(found, cases[1].name, plain.name, 1.2)], found.all)


def folder(workspace: Workspace, setting: Setting) -> Part:
    photographs = workspace.photographs(setting.photographs, setting.given)
    truth = workspace.predictions("truth.csv")
    names = sorted(each.name for each in photographs.iterdir())
    truth.write_text(
        "source,class_index\n" + "".join(f"{name},{index % 1000}\n" for index, name in enumerate(names))
    )
    plain = _case("predict", workspace, "predict", str(photographs), "--jsonl")
    cases = [
        plain,
        _case("predict with the options", workspace, "predict", str(photographs), "--jsonl", *OPTIONS),
        _case("evaluate", workspace, "evaluate", str(photographs), "--truth", str(truth), "--json"),
    ]
    found = Measurements(workspace, cases, setting.repeats)
    ratios = [_over(found, cases[1].name, plain.name, 1.05), _over(found, "evaluate", plain.name, 1.1)]
    return Part(f"{setting.photographs} photographs", ratios, found.all)


def logits(workspace: Workspace, setting: Setting) -> Part:
    """Evaluates the logits of many images from a file."""
    count = IMAGES if setting.repeats >= FULL.repeats else IMAGES // 10
    target = workspace.predictions("logits.npz").parent
    subprocess.run([sys.executable, "-c", LOGITS, str(target), str(count)], check=True, env=workspace.environment())
    name = f"evaluate --from logits of {count} × {CLASSES}"
    case = _case(
        name, workspace, "evaluate", "--from", str(target / "logits.npz"), "--truth", str(target / "truth.csv")
    )
    found = Measurements(workspace, [case], 1)
    measured = found[name]
    ratios = [
        Ratio(f"{name}: time", measured.seconds, unit="s", at_most=60),
        Ratio(f"{name}: peak memory", measured.peak and measured.peak / 2**20, unit="MiB", at_most=1024),
    ]
    return Part("Logits from a file", ratios, found.all)


def costs(workspace: Workspace, _setting: Setting) -> Part:
    """Measures the functions themselves, one thread."""
    done = subprocess.run(
        [sys.executable, "-c", COSTS], capture_output=True, text=True, check=True, env=workspace.environment()
    )
    ratios = [
        Ratio(f"{name}: each image", value, unit="µs", at_most=1000)
        for name, value in json.loads(done.stdout).items()
    ]
    return Part("One image, the functions alone", ratios, [])


def _over(found: Measurements, one: str, other: str, at_most: float) -> Ratio:
    mine, others = found[one].seconds, found[other].seconds
    return Ratio(f"{one} over {other}: time", mine / others if mine and others else None, at_most=at_most)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to use instead of made ones")
    parser.add_argument("--quick", action="store_true", help="a minute to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"put the report into docs/{PAGE.name}")
    chosen = parser.parse_args(arguments)
    setting = replace(QUICK if chosen.quick else FULL, given=chosen.photos)
    with tempfile.TemporaryDirectory(prefix="confidence-") as name:
        workspace = Workspace(Path(name).resolve(), lambda text: print(text, file=sys.stderr, flush=True))
        parts = [part(workspace, setting) for part in (costs, one_image, folder, logits)]
    described = machine.describe()
    text = report.document(parts, described, str(setting))
    sys.stdout.write(text)
    if chosen.write:
        report.insert(PAGE, text, MODULE)


if __name__ == "__main__":
    main()
