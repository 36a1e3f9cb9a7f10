"""Compares onnxruntime with torch for every torchvision architecture: `python -m benchmarks.architectures`.

Networks are built and compared in other processes, because the process that measures must stay small.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import layout, machine, report, workspace
from benchmarks.measure import MIB, Case, run
from benchmarks.workspace import Workspace
from imgclassify import catalog
from imgclassify.catalog import ModelManifest
from imgclassify.hub.loader import load_network

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.hub.network import Network

Row = dict[str, Any]
"""The measurements of one architecture at one crop size."""

PAGE = layout.ROOT / "docs" / "architectures.md"
PHOTOGRAPH = layout.EXAMPLES / "cat.jpg"
BLOCKS = (1, 8, 32)
"""Sides in pixels of the blocks of noise crops. With one size, all crops would have almost equal features."""
NETWORKS_PER_PROCESS = 8
REPEATS = 3
LARGE = 300 * MIB
"""Bytes. With a larger checkpoint, each engine is measured only once."""
BATCH_NORM_BIAS = 0.35
"""The mean of batch norm's random biases. With 0, rounding errors would grow ten times more per layer."""
LOGIT_SPREAD = 2.0
"""The approximate standard deviation of the logits of a trained network."""


def references() -> list[str]:
    """Returns NAME of each architecture, and NAME@WEIGHTS of those that also exist with another crop size."""
    found: dict[tuple[str, int], ModelManifest] = {}
    shipped = [each for each in catalog.load_manifests() if each.origin.startswith("models/")]
    for manifest in sorted(shipped, key=lambda each: (each.name, not each.default)):
        if manifest.provider == "torchvision":
            found.setdefault((manifest.name, manifest.preprocess.crop_size[0]), manifest)
    return [each.name if each.default else each.reference for each in found.values()]


# ------------------------------------------------------------------------------------------ in another process


def compare(reference: str, checkpoint: Path) -> Row:
    """Writes a checkpoint with seeded weights, and compares the outputs of both engines for the same crops."""
    import torch

    from imgclassify.hub import architectures
    from imgclassify.hub.network import LoadOptions

    manifest = _manifest(reference)
    quantized = architectures.is_quantized(manifest)
    torch.save((_quantized if quantized else seeded)(manifest).state_dict(), checkpoint)
    network = load_network(str(checkpoint), LoadOptions(arch=reference, offline=True))
    assert manifest.metadata is not None
    row: Row = {
        "architecture": manifest.architecture,
        "crop_size": manifest.preprocess.crop_size[0],
        "parameters": manifest.metadata.num_params,
        "checkpoint_bytes": checkpoint.stat().st_size,
    }
    if network.backends.open_session is None:
        return row | {"reason": network.backends.no_session_reason}
    graph = layout.ROOT / "models" / "graphs" / f"{manifest.architecture}-{row['crop_size']}.onnx"
    return row | {"graph_bytes": graph.stat().st_size, **_differences(network)}


def _enter(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _manifest(reference: str) -> ModelManifest:
    name, _, weights = reference.partition("@")
    return catalog.find_model(name, weights or None)


def _differences(network: Network) -> Row:
    """Returns the largest differences between the engines.

    They are taken over a batch, as for a folder, and a single crop, as for a single image. The onnxruntime
    engine opens the graph with other settings for a single image.
    """
    import numpy as np

    from imgclassify.engines import LOGITS, choice
    from imgclassify.engines.activation import softmax

    pixels = crops(network.preprocess.crop_size[0])

    def run_engine(engine: str, images: int | None) -> NDArray[np.float32]:
        started = choice.create_engine(network, engine=engine, device="cpu", dtype="float32", num_images=images)
        return started.engine.infer(pixels[:images])[LOGITS]

    given = np.concatenate([run_engine("onnxruntime", None), run_engine("onnxruntime", 1)])
    wanted = run_engine("torch", None)
    wanted = np.concatenate([wanted, wanted[:1]])
    if not np.isfinite(given).all() or not np.isfinite(wanted).all():
        raise ValueError("the seeded weights give logits that are not finite")
    return {
        "logit_difference": float(np.abs(given - wanted).max()),
        "largest_logit": float(np.abs(wanted).max()),
        "probability_difference": float(np.abs(softmax(given) - softmax(wanted)).max()),
        "same_top1": bool((given.argmax(1) == wanted.argmax(1)).all()),
        "top1": wanted.argmax(1)[: len(pixels)].tolist(),
    }


def crops(side: int) -> NDArray[np.uint8]:
    """Returns uint8 crops (3, side, side, 3) of seeded noise, one for each size in BLOCKS."""
    import numpy as np

    random = np.random.default_rng(0)
    made = []
    for block in BLOCKS:
        blocks = random.integers(0, 256, (side // block + 1, side // block + 1, 3), np.uint8)
        made.append(blocks.repeat(block, 0).repeat(block, 1)[:side, :side])
    return np.stack(made)


def seeded(manifest: ModelManifest) -> torch.nn.Module:
    """Builds the architecture with random weights, which are the same in each run.

    Every parameter affects the outputs: branches and heads that are initialised with zeros get random values
    too. Activations and logits keep a usual size from layer to layer.
    """
    import torch

    from imgclassify.hub import architectures

    torch.manual_seed(sum(map(ord, manifest.architecture)))
    with _without_initialisation():
        network = architectures.create_network(manifest).eval()
    spec = manifest.preprocess
    pixels = torch.from_numpy(crops(spec.crop_size[0])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        for name, parameter in network.named_parameters():
            _fill(name.rpartition(".")[2], parameter)
        _calibrate(network, (pixels - mean) / std)
    return network


def _quantized(manifest: ModelManifest) -> torch.nn.Module:
    import torch

    from imgclassify.hub import architectures

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about functions that torchvision still uses
        return architectures.create_network(manifest)


def _without_initialisation() -> Any:
    """Makes builders leave the weights uninitialised. Filling gigabytes of weights once takes long enough."""
    from unittest.mock import patch

    import torch

    names = [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    return patch.multiple(torch.nn.init, **dict.fromkeys(names, lambda tensor, *_, **__: tensor))


def _fill(name: str, parameter: torch.Tensor) -> None:
    if name in ("weight", "in_proj_weight") and parameter.ndim >= 2:
        parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
    elif name == "weight":
        parameter.uniform_(0.8, 1.2)
    elif name in ("bias", "in_proj_bias"):
        parameter.normal_(0, 0.1)
    elif name == "layer_scale":
        parameter.uniform_(0.1, 0.3)
    elif name in ("class_token", "pos_embedding", "relative_position_bias_table"):
        parameter.normal_(0, 0.5)
    elif name != "logit_scale":  # this is computed, and has a usual value
        raise ValueError(f"no random values are known for parameters called {name!r}")


def _calibrate(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Scales the weights of each linear and convolutional layer to outputs with a standard deviation of 1.

    This takes one pass, in which batch norm gets the statistics of its inputs. At the end, the head is scaled
    until the logits have a standard deviation of LOGIT_SPREAD.
    """
    import torch

    def scale(layer: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        factor = 1 / output.std()
        _multiply(layer, factor)
        return output * factor

    def observe(norm: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(given[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        # Without a minimum, a channel that is constant here would become very large for other images.
        norm.running_var.copy_(variance.clamp(min=float(variance.mean()) / 100))

    layers = [each for each in network.modules() if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)]
    norms = [each for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.bias += BATCH_NORM_BIAS
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    hooks += [norm.register_forward_pre_hook(observe) for norm in norms]
    logits = network(images)
    for hook in hooks:
        hook.remove()
    _multiply(layers[-1], LOGIT_SPREAD / logits.std(dim=1).mean())


def _multiply(layer: torch.nn.Module, factor: torch.Tensor) -> None:
    for parameter in layer.parameters(recurse=False):
        parameter.mul_(factor)


# ---------------------------------------------------------------------------------------- in the small process


def _comparer(work: Workspace) -> ProcessPoolExecutor:
    """Returns a pool of one process. It idles during measurements, and is sometimes replaced to free memory."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        1, spawn, initializer=_enter, initargs=(work.environment(),), max_tasks_per_child=NETWORKS_PER_PROCESS
    )


def measure(reference: str, work: Workspace, comparer: ProcessPoolExecutor, *, torch_times: bool) -> Row:
    """Returns the whole row of an architecture, or only the differences for a further crop size."""
    checkpoint = work.folder / f"{reference}.pth"
    try:
        row: Row = comparer.submit(compare, reference, checkpoint).result()
        if "@" in reference:
            return row
        engines = [] if "reason" in row else ["onnxruntime"]
        engines += ["torch"] if torch_times else []
        return row | _times(reference, checkpoint, engines, work)
    finally:
        checkpoint.unlink(missing_ok=True)


def _times(reference: str, checkpoint: Path, engines: Sequence[str], work: Workspace) -> Row:
    """Measures whole processes that classify one image: onnxruntime several times, and torch once."""
    repeats = 1 if checkpoint.stat().st_size > LARGE else REPEATS
    runs: dict[str, list[Any]] = {engine: [] for engine in engines}
    for engine in [*engines, *[engine for engine in engines if engine == "onnxruntime"] * (repeats - 1)]:
        command = [*workspace.imgclassify(), "predict", str(PHOTOGRAPH), "-m", str(checkpoint), "--arch", reference]
        case = Case(engine, [*command, "--engine", engine, "--device", "cpu"], work.environment())
        done = run(case, work.folder)
        if done.failure:
            raise ValueError(f"{engine}: {done.failure}")
        runs[engine].append({"seconds": done.seconds, "max_rss": done.max_rss})
    return runs


def _median(row: Row, engine: str, what: str) -> float | None:
    runs = row.get(engine)
    return statistics.median(each[what] for each in runs) if runs else None


# --------------------------------------------------------------------------------------------------------- the page


def document(rows: Mapping[str, Row]) -> str:
    """Returns the text between the page's markers."""
    described = machine.describe()
    lines = [f"- {key}: {described[key]}" for key in ("Processor", "Cores", "Memory", "System", "Python")]
    versions = dict(each.split(" ") for each in described["Packages"].split(", "))
    lines.append("- Packages: " + ", ".join(f"{name} {versions[name]}" for name in VERSIONS))
    default = {reference: row for reference, row in rows.items() if "@" not in reference}
    in_torch = {reference: row for reference, row in rows.items() if "reason" in row}
    lines += ["", "### onnxruntime beside torch", ""]
    lines += _table(FLOAT, {reference: row for reference, row in default.items() if reference not in in_torch})
    lines += ["", "### Graphs for other crop sizes", ""]
    lines += _table(FURTHER, {name: row for name, row in rows.items() if name not in default | in_torch})
    if in_torch:
        lines += ["", "### What runs in torch", "", *_table(TORCH, in_torch)]
    return "\n".join(lines) + "\n"


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Mapping[str, Row]) -> list[str]:
    cells = [[reference, *(text(row) for text in columns.values())] for reference, row in rows.items()]
    return report.table(["architecture", *columns], cells)


def _number(value: float | None, scale: float = 1.0, digits: int = 0) -> str:
    return report.NONE if value is None else f"{value / scale:.{digits}f}"


VERSIONS = ("torch", "torchvision", "onnxruntime")
SIZE: dict[str, Callable[[Row], str]] = {
    "crop": lambda row: str(row["crop_size"]),
    "parameters, M": lambda row: _number(row["parameters"], 1e6, 1),
    "checkpoint, MiB": lambda row: _number(row["checkpoint_bytes"], MIB),
}
DIFFERENCE: dict[str, Callable[[Row], str]] = {
    "graph, KB": lambda row: _number(row["graph_bytes"], 1000),
    "largest logit": lambda row: _number(row["largest_logit"], 1, 1),
    "logits differ by": lambda row: f"{row['logit_difference']:.1e}",
    "probabilities differ by": lambda row: f"{row['probability_difference']:.1e}",
    "same top-1": lambda row: "yes" if row["same_top1"] else "no",
}
TORCH_TIME: dict[str, Callable[[Row], str]] = {
    "torch, ms": lambda row: _number(_median(row, "torch", "seconds"), 1e-3)
}
FURTHER = SIZE | DIFFERENCE
FLOAT = FURTHER | {
    "onnxruntime, ms": lambda row: _number(_median(row, "onnxruntime", "seconds"), 1e-3),
    **TORCH_TIME,
    "onnxruntime, MiB": lambda row: _number(_median(row, "onnxruntime", "max_rss"), MIB),
}
TORCH = SIZE | TORCH_TIME | {"why": lambda row: row["reason"]}


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    known = references()
    rows: dict[str, Row] = (
        json.loads(chosen.json.read_text("utf-8")) if chosen.json and chosen.json.exists() else {}
    )
    asked = [each for each in known if _asked(each, chosen.only)] if chosen.only else set(known) - rows.keys()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="architectures-"))
        work = Workspace(Path(folder).resolve(), _say)
        comparer = stack.enter_context(_comparer(work))
        for reference in (each for each in known if each in asked):
            try:
                rows[reference] = measure(reference, work, comparer, torch_times=not chosen.no_torch_times)
            except Exception as error:  # noqa: BLE001 - one failure must not lose the other results
                _say(f"{reference}: {type(error).__name__}: {error}")
                continue
            _say(f"{reference}: {_said(rows[reference])}")
            if chosen.json:
                chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    ordered = {each: rows[each] for each in known if each in rows}
    text = document(ordered)
    sys.stdout.write(text)
    lacking = [each for each in known if each not in rows]
    if chosen.write and lacking:
        raise SystemExit(f"nothing written: {', '.join(lacking)} not measured")
    if chosen.write:
        report.insert(PAGE, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="these architectures alone, or NAME@WEIGHTS")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="keep all measurements there; what it has is not measured again, unless named",
    )
    add("--no-torch-times", action="store_true", help="do not time the torch engine, which takes half the time")
    add(
        "--write",
        action="store_true",
        help=f"put the tables into {PAGE.relative_to(layout.ROOT)}, once they are whole",
    )
    return parser


def _asked(reference: str, only: Sequence[str]) -> bool:
    return reference in only or reference.partition("@")[0] in only


def _said(row: Row) -> str:
    kept = ("top1", "reason", "logit_difference", "largest_logit", "probability_difference", "same_top1")
    facts = {key: value for key, value in row.items() if key in kept}
    times = {
        engine: [round(each["seconds"], 2) for each in row.get(engine, ())] for engine in ("onnxruntime", "torch")
    }
    return str(facts | times)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
