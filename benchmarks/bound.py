"""Measures what the machine can do: images per second of the network alone and of decoding alone, as JSON.

`python -m benchmarks.bound FOLDER --weights FILE` is a separate process that uses nothing of imgclassify but
the graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
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

_OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}

Work = Callable[[int], int]
"""A function that does the piece of work with the given number, and returns how many images that was."""


def rate(work: Work, threads: int, seconds: float) -> float:
    """Returns the images per second of `threads` threads that do `work` again and again.

    Each does it once before it is measured.
    """
    numbers: Iterator[int] = count()
    done = [0] * threads
    ready = threading.Barrier(threads + 1)

    def repeat(thread: int) -> None:
        work(next(numbers))
        ready.wait()
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            done[thread] += work(next(numbers))

    workers = [threading.Thread(target=repeat, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    started = time.perf_counter()
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


def network_rates(model: bytes, crops: NDArray[np.uint8], seconds: float, dtype: str) -> dict[str, float | str]:
    """Returns the images per second of one core, and of all cores.

    For all cores, several ways are tried: onnxruntime and OpenVINO, one call with many threads, or many calls with
    one thread each, and several batch sizes. The best is measured.
    """
    ways: dict[str, tuple[Work, int]] = {}
    if dtype == "float32":
        for calls, threads in ((cores(), 1), (1, cores())):
            session = _session(model, threads)
            for batch in BATCHES:
                name = f"onnxruntime, {calls} × {threads} threads, batches of {batch}"
                ways[name] = (_run_batch(session, crops[:batch]), calls)
    if find_spec("openvino"):
        for batch in BATCHES[:3]:
            name = f"OpenVINO in {dtype}, {cores()} × 1 threads, batches of {batch}"
            ways[name] = (_run_in_openvino(model, crops[:batch], dtype), cores())
    tried = {name: rate(work, calls, _TRIAL * seconds) for name, (work, calls) in ways.items()}
    best = max(tried, key=tried.__getitem__)
    work, calls = ways[best]
    return {
        "one_thread": rate(work, 1, seconds),
        "all_cores": rate(work, calls, seconds),
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


def _run_in_openvino(model: bytes, images: NDArray[np.uint8], dtype: str) -> Work:
    """Returns work on one batch, with a compiled graph for each thread."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report the import
    import openvino

    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape(list(images.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[dtype],
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }
    own = threading.local()

    def work(_: int) -> int:
        if not hasattr(own, "request"):
            own.request = core.compile_model(graph, "CPU", settings).create_infer_request()
        own.request.infer({0: images})
        return len(images)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--graph", type=Path, default=GRAPH)
    parser.add_argument("--dtype", choices=_OPENVINO_PRECISIONS, default="float32", help="of the network")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each of the four measurements")
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.iterdir())
    crops = np.stack([prepare(paths[number % len(paths)]) for number in range(max(BATCHES))])
    model = filled_graph(arguments.graph, arguments.weights)
    rates = {
        "network": network_rates(model, crops, arguments.seconds, arguments.dtype),
        "decode": decode_rates(paths, arguments.seconds),
    }
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
