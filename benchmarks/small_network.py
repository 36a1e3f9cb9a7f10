"""Makes small images, and a network of a few bytes for them: `python -m benchmarks.small_network FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.layout import SMALL_IMAGES, SMALL_LABELS, SMALL_NETWORK, SMALL_SIDE

CLASSES = 10


def write(folder: Path, count: int) -> None:
    """Writes the network, its labels and a folder of images."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=(3, CLASSES)).astype(np.float32), "weight"),
        numpy_helper.from_array(np.zeros(CLASSES, np.float32), "bias"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, *[SMALL_SIDE] * 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / SMALL_NETWORK)
    (folder / SMALL_LABELS).write_text("".join(f"class {number}\n" for number in range(CLASSES)), "utf-8")
    images = folder / SMALL_IMAGES
    images.mkdir()
    for number in range(count):
        pixels = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        pixels.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BICUBIC).save(
            images / f"{number:05}.jpg", quality=90
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=4000)
    arguments = parser.parse_args()
    arguments.folder.mkdir()
    write(arguments.folder, arguments.count)


if __name__ == "__main__":
    main()
