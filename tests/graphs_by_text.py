"""ONNX graphs in onnx's own notation, which classify an image by its mean colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

WEIGHT = np.float32([[6, -2, -1], [-3, 5, 0], [0, -2, 7]])
BIAS = np.float32([0.5, 2, -1.5])
LOGITS = "p = GlobalAveragePool (x)  f = Flatten (p)  g = Gemm (f, w, bias)  "
INPUT = "float[N,3,8,8] x"
CONSTANTS: dict[str, Any] = {
    "w": WEIGHT,
    "bias": BIAS,
    "w_one": np.float32([[4], [1], [-6]]),
    "hundred": np.float32(100),
    "byte": np.float32(1 / 255),
    "to_byte": np.float32(255),
    "zero_byte": np.uint8(0),
    "one_three": np.int64([1, 3]),
    "last_two": np.int64([2, 3]),
    "middle": np.int64([1]),
    "three": np.int64([3]),
    "half": np.float32(0.5),
    "little": np.float32(1e-6),
}


def save_graph(
    path: Path,
    outputs: str,
    nodes: str,
    *,
    given: str = INPUT,
    constants: Mapping[str, Any] = CONSTANTS,
    metadata: Mapping[str, str] | None = None,
    check: bool = True,
) -> Path:
    """Saves a graph with those of the constants that it names."""
    head = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>'
    model = onnx.parser.parse_model(f"{head} classifier ({given}) => ({outputs}) {{ {nodes} }}")
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(constants.keys() & used):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(constants[name]), name))
    onnx.helper.set_model_props(model, dict(metadata or {}))
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def logits(colour: tuple[int, int, int]) -> np.ndarray:
    """What the nodes LOGITS compute of an image of one colour, in float64."""
    return np.array(colour) / 255 @ WEIGHT.astype(float) + BIAS


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
