"""Names the files and folders in a benchmark's working folder and in the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
EXAMPLES = ROOT / "examples"
REFERENCES = ROOT / "benchmarks" / "references"
PAGE = ROOT / "docs" / "performance.md"
GRAPH = ROOT / "models" / "graphs" / "tf_efficientnet_lite0-224.onnx"
"""The graph of the embedded model."""

EMBEDDED_CHECKPOINT = "embedded.pth"
EMBEDDED_SAFETENSORS = "embedded.safetensors"
HUGGING_FACE_MODEL = "hugging_face"
RESNET50 = "resnet50_seeded"
"""The name of the ResNet-50 with random weights in the benchmark's manifest."""
TORCH_HOME = "torch"
CONFIG_HOME = "config"
MANIFEST = Path(CONFIG_HOME) / "imgclassify" / "models" / "benchmark.toml"
"""The manifest of that ResNet-50. It is written after all weights, so if it exists, they are complete."""
CACHE_HOME = "cache"
EMPTY_CACHE_HOME = "empty_cache"
"""A cache folder that is removed before each run that uses it."""
PREDICTIONS = "predictions"

SMALL_NETWORK, SMALL_LABELS, SMALL_IMAGES = "small.onnx", "small.txt", "small"
"""The network of a few bytes, its labels and the folder of its images, in a folder of their own."""
SMALL_SIDE = 32
"""Pixels of the sides of these images."""
SMALL_PREPROCESS: dict[str, Any] = {
    "crop_size": SMALL_SIDE,
    "resize_size": SMALL_SIDE,
    "interpolation": "bilinear",
    "mean": 0.5,
    "std": 0.5,
}
"""Arguments of Classifier for this network."""
