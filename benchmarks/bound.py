"""Measures what the machine can do: images per second of the network alone and of decoding alone, as JSON.

`python -m benchmarks.bound FOLDER --weights FILE` is a separate process that uses nothing of imgclassify but
the graph.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from benchmarks.layout import GRAPH
from benchmarks.machine import cores

RESIZE_SIZE, CROP_SIZE = 256, 224
BATCHES = (1, 4, 8, 16, 32)
_TRIAL = 0.2
"""The share of `--seconds` for which each way to run the network is tried, before the best one is measured."""

Work = Callable[[int], int]
"""A function that does the piece of work with the given number, and returns how many images that was."""


def rate(work: Work, threads: int, seconds: float) -> float:
    """Returns the images per second of `threads` threads that do `work` again and again."""
    work(0)
    numbers: Iterator[int] = count()
    done = [0] * threads
    deadline = time.perf_counter() + seconds

    def repeat(thread: int) -> None:
        while time.perf_counter() < deadline:
            done[thread] += work(next(numbers))

    workers = [threading.Thread(target=repeat, args=(thread,)) for thread in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - started)


def prepare(path: Path) -> NDArray[np.uint8]:
    """Decodes, resizes and crops an image as is usual with Pillow. Returns (H, W, 3) uint8."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    short, long = sorted(image.size)
    other = int(RESIZE_SIZE * long / short)
    size = (RESIZE_SIZE, other) if image.width <= image.height else (other, RESIZE_SIZE)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((image.width - CROP_SIZE) / 2), round((image.height - CROP_SIZE) / 2)
    return np.asarray(image.crop((left, top, left + CROP_SIZE, top + CROP_SIZE)))


def decode_rates(paths: list[Path], seconds: float) -> dict[str, float]:
    """Returns the images per second of one thread, and of one thread per core."""

    def work(number: int) -> int:
        prepare(paths[number % len(paths)])
        return 1

    return {"one_thread": rate(work, 1, seconds), "all_cores": rate(work, cores(), seconds)}


def filled_graph(graph: Path, weights: Path) -> bytes:
    """Puts the weights into the weight-free graph, and the embedded model's normalisation: mean = std = 0.5."""
    parameters = load_file(weights)
    parameters["normalize.scale"] = np.full((1, 3, 1, 1), 1 / (255 * 0.5), np.float32)
    parameters["normalize.bias"] = np.full((1, 3, 1, 1), -1, np.float32)
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.numpy_helper.from_array(parameters[tensor.name], tensor.name))
    content: bytes = model.SerializeToString()
    return content


def network_rates(model: bytes, crops: NDArray[np.uint8], seconds: float) -> dict[str, float | str]:
    """Returns the images per second of one core, and of all cores.

    For all cores, several ways are tried: one call with many threads, or many calls with one thread each, and
    several batch sizes. The best is measured.
    """
    single = _session(model, 1)
    ways = {
        f"{calls} × {threads} threads, batches of {batch}": (session, calls, batch)
        for session, calls, threads in ((single, cores(), 1), (_session(model, cores()), 1, cores()))
        for batch in BATCHES
    }
    tried = {
        name: rate(_run_batch(session, crops[:batch]), calls, _TRIAL * seconds)
        for name, (session, calls, batch) in ways.items()
    }
    best = max(tried, key=tried.__getitem__)
    session, calls, batch = ways[best]
    return {
        "one_thread": rate(_run_batch(single, crops[:batch]), 1, seconds),
        "all_cores": rate(_run_batch(session, crops[:batch]), calls, seconds),
        "best_way": best,
    }


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run_batch(session: onnxruntime.InferenceSession, batch: NDArray[np.uint8]) -> Work:
    def work(_: int) -> int:
        session.run(None, {"crops": batch})
        return len(batch)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--graph", type=Path, default=GRAPH)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each of the four measurements")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.iterdir())
    crops = np.stack([prepare(paths[number % len(paths)]) for number in range(max(BATCHES))])
    model = filled_graph(arguments.graph, arguments.weights)
    rates = {
        "network": network_rates(model, crops, arguments.seconds),
        "decode": decode_rates(paths, arguments.seconds),
    }
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
