"""Measures the main process's own time for an image, as JSON: `python -m benchmarks.ready_workers --help`.

Worker processes hand over crops at once, without decoding. So this is the ceiling of images per second, whatever
the number of cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.layout import SMALL_PREPROCESS, SMALL_SIDE
from imgclassify import Classifier
from imgclassify.images import worker_pool
from imgclassify.output.json_lines import to_json

_WORKER_PROGRAM = f"""
import sys; sys.path[:] = sys.argv[1:]
from imgclassify.images import worker_program
from imgclassify.images.info import ImageInfo
worker_program.create_preprocessor = lambda *_, **__: lambda image, out: ImageInfo({SMALL_SIDE}, {SMALL_SIDE}, 1, 1)
worker_program.run_worker()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    worker_pool._WORKER_PROGRAM = _WORKER_PROGRAM
    classifier = Classifier(
        arguments.model, labels=arguments.labels, workers=f"processes:{arguments.workers}", **SMALL_PREPROCESS
    )
    with classifier:
        count = 0
        began, cpu_began = time.perf_counter(), time.process_time()
        for result in classifier.stream(arguments.folder):
            to_json(result.to_dict())
            count += 1
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    print(json.dumps({"images": count, "ms": 1000 * cpu_seconds / count, "images_per_second": count / seconds}))


if __name__ == "__main__":
    main()
