"""Measures how fast each engine computes networks on the CPU, without decoding: `python -m benchmarks.engines`.

Weights are seeded. All ways to compute a network are loaded first, and take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import layout, machine, report
from benchmarks.architectures import seeded

if TYPE_CHECKING:
    from imgclassify.runner import ModelRunner

MODULE = "benchmarks.engines"
PAGE = layout.ROOT / "docs" / "engines.md"
EMBEDDED = "efficientnet_lite0"
ARCHITECTURES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet1_0", "mobilenet_v3_large", "regnet_y_800mf", "resnet18", "resnet50", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16"),
)
MANY = 1000
"""The number of images that the engines expect."""


class Way(NamedTuple):
    """An engine and a dtype."""

    engine: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.engine}, {self.dtype}"


WAYS = (Way("onnxruntime", "float32"), Way("openvino", "float32"), Way("openvino", "bfloat16"))


def measure(reference: str, ways: Sequence[Way], *, rounds: int, seconds: float) -> dict[str, Any]:
    """Returns for each way the images per second of each round, and the seconds until the first image."""
    from imgclassify.engines.speed import measure_rate

    with tempfile.TemporaryDirectory() as folder:
        started = {way: _start(reference, way, Path(folder)) for way in ways}
        rates: dict[Way, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (runner, _) in started.items():
                crop_size = runner.network.preprocess.crop_size
                rates[way].append(measure_rate(runner.engine, crop_size, seconds=seconds))
    found = {str(way): {"rates": rates[way], "start": start} for way, (_, start) in started.items()}
    del started
    gc.collect()
    return found


def _start(reference: str, way: Way, folder: Path) -> tuple[ModelRunner, float]:
    """Returns a runner, and the seconds until it has computed one image."""
    import numpy as np

    from imgclassify import catalog
    from imgclassify.runner import load_runner

    path = folder / "weights.pth"
    if reference != EMBEDDED and not path.exists():
        import torch

        torch.save(seeded(catalog.find_model(reference)).state_dict(), path)
    model, arch = (EMBEDDED, None) if reference == EMBEDDED else (str(path), reference)
    begun = time.perf_counter()
    runner = load_runner(
        model,
        arch=arch,
        with_labels=reference == EMBEDDED,
        engine=way.engine,
        dtype=way.dtype,
        device="cpu",
        num_images=MANY,
        offline=True,
    )
    runner.engine.infer(np.zeros((1, *runner.network.preprocess.crop_size, 3), np.uint8))
    return runner, time.perf_counter() - begun


def document(rows: dict[str, dict[str, Any]], described: dict[str, str]) -> str:
    """Returns the text between the page's markers."""
    first, *others = (str(way) for way in WAYS if any(str(way) in row for row in rows.values()))
    cells = []
    for reference, row in rows.items():
        base = row[first]["rates"]
        line = [reference, f"{statistics.median(base):.1f}"]
        for way in others:
            rates = row[way]["rates"]
            speedup = statistics.median(rate / own for rate, own in zip(rates, base, strict=True))
            line += [f"{statistics.median(rates):.1f}", f"{speedup:.2f} ×"]
        late = max(row[way]["start"] for way in others) - row[first]["start"] if others else 0.0
        cells.append([*line, f"{late:.1f}"])
    headings = ["images per second", first]
    for way in others:
        headings += [way, "speedup"]
    facts = "".join(f"- {name}: {described[name]}\n" for name in ("Processor", "Cores", "Packages"))
    return f"{facts}\n" + "\n".join(report.table([*headings, "starts later by, s"], cells)) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures alone")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each engine in each round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all measurements there")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    chosen = parser.parse_args(arguments)
    from imgclassify.graphs.openvino_session import computes_in_bfloat16

    ways = WAYS if computes_in_bfloat16() else WAYS[:2]
    known = chosen.only or [EMBEDDED, *ARCHITECTURES]
    rows = json.loads(chosen.json.read_text("utf-8")) if chosen.json and chosen.json.exists() else {}
    for reference in (each for each in known if each not in rows):
        rows[reference] = measure(reference, ways, rounds=chosen.rounds, seconds=chosen.seconds)
        print(reference, rows[reference], file=sys.stderr, flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    text = document({each: rows[each] for each in known}, machine.describe())
    sys.stdout.write(text)
    if chosen.write:
        report.insert(PAGE, text, MODULE)


if __name__ == "__main__":
    main()
