"""Compares a GPU with the CPU on the same photographs: `python -m benchmarks.gpu`.

Measures whole commands one after the other, the networks alone, and decoding alone. Prints a report in Markdown.
Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import layout, machine, predictions, report
from benchmarks.measure import Case, Measured, alternately
from benchmarks.parts.common import our_folder
from benchmarks.workspace import Workspace, imgclassify, reference

MODULE = "benchmarks.gpu"
PAGE = layout.ROOT / "docs" / "engines.md"
DTYPES = ("float32", "bfloat16", "float16")
CPU = "CPU, float32"
_SECONDS = 2.0
"""For each measurement of a network alone."""


class Model(NamedTuple):
    """A model, and where the reference program finds the same weights."""

    name: str
    architecture: str
    """The name of timm."""
    checkpoint: str
    """A pattern for the file in the workspace."""


MODELS = (
    Model("efficientnet_lite0", "tf_efficientnet_lite0", layout.EMBEDDED_CHECKPOINT),
    Model(layout.RESNET50, "resnet50", f"{layout.TORCH_HOME}/hub/checkpoints/resnet50*.pth"),
)


class Row(NamedTuple):
    """What was measured of one way to classify the photographs."""

    way: str
    seconds: float | None
    """None if the program failed."""
    same_labels: int
    """Photographs whose most probable class is that of the CPU in float32."""
    largest_change: float
    """The largest difference of a probability from that of the CPU in float32."""
    alone: float | None
    """Images per second of the network alone; None if that was not measured."""


class Start(NamedTuple):
    """Seconds until one photograph is classified, and the parts of that on the GPU."""

    cpu: float | None
    gpu: float | None
    steps: Mapping[str, float]


# Whole commands ---------------------------------------------------------------------------------------------


def cases(model: Model, workspace: Workspace, photographs: Path, device: str) -> list[Case]:
    """Returns the programs that classify the photographs, by names that the rows of the table have."""

    def ours(name: str, *options: str) -> Case:
        return our_folder(name, workspace, photographs, "-m", model.name, *options)

    def loop(dtype: str) -> Case:
        name = f"DataLoader loop, {dtype}"
        written = workspace.predictions(f"loop_{model.name}_{dtype}.csv")
        [checkpoint] = workspace.folder.glob(model.checkpoint)
        options = ("--arch", model.architecture, "--checkpoint", str(checkpoint), "--device", device)
        command = (*reference("dataloader"), str(photographs), str(written), *options, "--dtype", dtype)
        workers = ("--workers", str(machine.cores()))
        return Case(name, (*command, *workers), workspace.environment(), predictions=written)

    gpu = ("--engine", "torch", "--device", device)
    decoding = [] if device == "cpu" else [ours(f"{_kind(device)}, float32, --decode gpu", *gpu, "--decode", "gpu")]
    return [
        ours(CPU, "--device", "cpu"),
        *(ours(f"{_kind(device)}, {dtype}", *gpu, "--dtype", dtype) for dtype in DTYPES),
        *decoding,
        loop("float32"),
        loop("float16"),
    ]


def start_cases(workspace: Workspace, photographs: Path, device: str) -> list[Case]:
    """Returns commands that classify one photograph, on the CPU and on the GPU."""
    command = (*imgclassify(), "predict", str(min(photographs.iterdir())), "--jsonl")
    gpu = ("--engine", "torch", "--device", device)
    return [
        Case("one photograph, CPU", (*command, "--device", "cpu"), workspace.environment()),
        Case(f"one photograph, {_kind(device)}", (*command, *gpu), workspace.environment()),
    ]


def rows(measured: Sequence[Measured], alone: Mapping[str, float]) -> list[Row]:
    """Compares the predictions of all programs with those of the first one, the CPU in float32."""
    known = {
        each.case.name: predictions.read(each.case.predictions)
        for each in measured
        if each.case.predictions and not each.failure
    }
    wanted = known.get(measured[0].case.name, {})
    found = []
    for each in measured:
        name, given = each.case.name, known.get(each.case.name, {})
        same = round(predictions.agreement(given, wanted) * len(wanted)) if wanted else 0
        found.append(Row(name, each.seconds, same, predictions.largest_change(given, wanted), alone.get(name)))
    return found


def _kind(device: str) -> str:
    return "torch on the CPU" if device == "cpu" else device.upper()


# Networks and decoding alone --------------------------------------------------------------------------------


def measure_network(
    model: str, device: str, dtypes: Sequence[str], environment: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Runs the network on batches of random crops that are in memory already. Needs a process of its own.

    Returns:
        (images per second by dtype, seconds of the steps until the first batch is computed in the first dtype).
    """
    os.environ.update(environment)
    import numpy as np

    clock = _Clock()
    if device != "cpu":
        import torch

        clock.stop("importing torch")
        torch.zeros(1, device=device)
        clock.stop("starting CUDA")
    from imgclassify.engines.choice import create_engine
    from imgclassify.hub.loader import load_network
    from imgclassify.hub.network import LoadOptions

    network = load_network(model, LoadOptions(offline=True))
    rates = {}
    for dtype in dtypes:
        engine = create_engine(network, engine="auto", device=device, dtype=dtype, num_images=None).engine
        clock.stop("building the network")
        crops = engine.allocate((engine.default_batch_size, *network.preprocess.crop_size, 3))
        crops[:] = np.random.default_rng(0).integers(0, 256, crops.shape, np.uint8)
        clock.start()
        engine.infer(crops)
        clock.stop("the first batch")
        rates[dtype] = _rate(partial(_infer, engine, crops), engine.concurrency)
        clock.start()
    return rates, clock.seconds


def _infer(engine: Any, crops: Any, _: int) -> int:
    engine.infer(crops)
    return len(crops)


def measure_decoding(folder: Path, mode: str, kind: str, device: str) -> float:
    """Returns the images per second that are decoded, resized and cropped for the embedded model, on all cores.

    Needs a process of its own.

    Args:
        kind: "threads" or "processes".
    """
    import numpy as np

    from imgclassify import catalog
    from imgclassify.images import MAX_PIXELS, TIME_LIMIT
    from imgclassify.images.inputs import as_input
    from imgclassify.images.workers import DecodingOptions, DecodingWorkers, WorkerChoice
    from imgclassify.runner import default_workers

    spec = catalog.find_model(catalog.EMBEDDED_MODEL).preprocess
    options = DecodingOptions(
        WorkerChoice(),
        mode,
        max_pixels=MAX_PIXELS,
        isolate=False,
        time_limit=TIME_LIMIT,
        decode_damaged=False,
    )
    workers = DecodingWorkers.create(kind, default_workers(), options, spec, device)
    paths = sorted(folder.iterdir())

    def work(number: int) -> int:
        begin = number * workers.group_size
        names = [str(paths[index % len(paths)]) for index in range(begin, begin + workers.group_size)]
        outs = np.empty((len(names), *spec.crop_size, 3), np.uint8)
        images = [as_input(name, offline=True) for name in names]
        return len(list(workers.preprocess_group(images, list(outs))))

    try:
        return _rate(work, workers.number)
    finally:
        workers.close()


def _rate(work: Callable[[int], int], threads: int) -> float:
    from benchmarks.bound import rate

    rate(work, threads, _SECONDS / 2)  # records CUDA graphs
    return rate(work, threads, _SECONDS)


class _Clock:
    """Measures steps one after the other. Only the first step of each name counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self, step: str) -> None:
        self.seconds.setdefault(step, time.perf_counter() - self._started)
        self.start()


def describe_gpu(device: str) -> dict[str, str] | None:
    """Returns the facts about the GPU that the report lists. None if torch cannot use it. Imports torch."""
    import torch

    if torch.device(device).type == "cpu":
        return {"GPU": "none: torch on the CPU in its place"}
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(device)
    name, memory = properties.name, properties.total_memory / 2**30
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return {"GPU": f"{name}, {memory:.0f} GiB, {properties.multi_processor_count} multiprocessors; {versions}"}


def in_new_process(function: Any, *arguments: Any) -> Any:
    """Calls the function in a process of its own, so that this one stays small and starts no CUDA."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# Report -----------------------------------------------------------------------------------------------------


def document(
    tables: Mapping[str, Sequence[Row]],
    count: int,
    decoding: Mapping[str, Mapping[str, float]],
    start: Start,
    facts: Mapping[str, str],
) -> str:
    """Returns the whole report.

    Args:
        tables: model → rows, the CPU's first.
        count: the number of photographs.
        decoding: kind of photographs → option → images per second of decoding alone.
        facts: what the list at the beginning says.
    """
    lines = [f"- {key}: {value}" for key, value in facts.items()]
    for model, found in tables.items():
        lines += ["", f"{count} photographs, {model}:", "", *_table(found, count)]
    cells = [[kind, *(f"{rate:.0f}" for rate in rates.values())] for kind, rates in decoding.items()]
    options = next(iter(decoding.values()))
    lines += ["", "Decoding, resizing and cropping alone, images/s:", "", *report.table(["", *options], cells)]
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in start.steps.items())
    lines += [
        "",
        f"One photograph with {next(iter(tables))} takes {_number(start.cpu, 1)} s on the CPU and "
        f"{_number(start.gpu, 1)} s on the GPU: {steps}.",
    ]
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Row], count: int) -> list[str]:
    headings = [
        "",
        "seconds",
        "images/s",
        "times the CPU",
        "same label",
        "probabilities differ by",
        "network alone, images/s",
    ]
    slowest = found[0].seconds
    cells = [
        [row.way, "failed", *[report.NONE] * 5]
        if row.seconds is None
        else [
            row.way,
            f"{row.seconds:.1f}",
            f"{count / row.seconds:.0f}",
            _number(slowest and slowest / row.seconds, 2),
            f"{row.same_labels} of {count}",
            f"{row.largest_change:.0e}",
            _number(row.alone, 0),
        ]
        for row in found
    ]
    return report.table(headings, cells)


def _number(value: float | None, digits: int) -> str:
    return report.NONE if value is None else f"{value:.{digits}f}"


DECODING = {
    "exact, threads": ("exact", "threads"),
    "exact, processes": ("exact", "processes"),
    "--fast-decode, threads": ("fast", "threads"),
    "--fast-decode, processes": ("fast", "processes"),
    "--decode gpu": ("gpu", "threads"),
}
"""What the table says → the decode mode, and what decodes."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    add = parser.add_argument
    add("--photos", type=Path, metavar="FOLDER", help="photographs to use instead of made ones, repeated by links")
    add("--images", type=int, default=2000, metavar="N", help="photographs to classify (default %(default)s)")
    add("--repeats", type=int, default=3, metavar="N", help="runs of each program (default %(default)s)")
    add("--device", default="cuda", help="cuda or cuda:N; cpu only to see that it runs (default %(default)s)")
    add("--write", action="store_true", help=f"put the report into docs/{PAGE.name}")
    chosen = parser.parse_args(arguments)
    device = chosen.device
    gpu = in_new_process(describe_gpu, device)
    if gpu is None:
        parser.exit(1, f"{MODULE} needs a CUDA GPU that torch can use, and this machine has none\n")
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        workspace = Workspace(Path(name).resolve(), lambda text: print(text, file=sys.stderr, flush=True))
        workspace.prepare_weights()
        photographs = workspace.photographs(chosen.images, chosen.photos)
        starts = alternately(
            start_cases(workspace, photographs, device), chosen.repeats, workspace.folder, workspace.say
        )
        tables, steps = {}, {}
        for model in MODELS:
            alone, found = _measure_alone(model.name, device, workspace)
            steps = steps or found
            programs = cases(model, workspace, photographs, device)
            measured = alternately(programs, chosen.repeats, workspace.folder, workspace.say, warm_up=False)
            tables[model.name] = rows(measured, alone)
        folders = {"photographs": photographs, "of 12 megapixels": workspace.phone_photographs(32)}
        decoding = {kind: _measure_decoding(folder, device, workspace) for kind, folder in folders.items()}
    start = Start(starts[0].seconds, starts[1].seconds, steps)
    measured_how = f"whole processes in turn, the median of {chosen.repeats}; photographs " + (
        f"those of {chosen.photos.name}" if chosen.photos else "made from the examples by seeded changes"
    )
    facts = {**gpu, **described, "Measured": measured_how}
    text = document(tables, chosen.images, decoding, start, facts)
    sys.stdout.write(text)
    if chosen.write:
        report.insert(PAGE, text, MODULE)


def _measure_alone(model: str, device: str, workspace: Workspace) -> tuple[dict[str, float], dict[str, float]]:
    """Returns (images per second by the name of the way, seconds of the steps until the first batch on the GPU)."""
    environment = workspace.environment()
    cpu, _ = in_new_process(measure_network, model, "cpu", DTYPES[:1], environment)
    gpu, steps = in_new_process(measure_network, model, device, DTYPES, environment)
    rates = {CPU: cpu[DTYPES[0]], **{f"{_kind(device)}, {dtype}": rate for dtype, rate in gpu.items()}}
    workspace.say(f"  {model} alone: {rates}, {steps}")
    return rates, steps


def _measure_decoding(folder: Path, device: str, workspace: Workspace) -> dict[str, float]:
    ways = {name: way for name, way in DECODING.items() if way[0] != "gpu" or device != "cpu"}
    rates = {name: in_new_process(measure_decoding, folder, *way, device) for name, way in ways.items()}
    workspace.say(f"  decoding {folder.name}: {rates}")
    return rates


if __name__ == "__main__":
    main()
