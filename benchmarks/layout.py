"""Names inside the folder that a benchmark works in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
EXAMPLES = ROOT / "examples"
REFERENCES = ROOT / "benchmarks" / "references"
PAGE = ROOT / "docs" / "performance.md"
GRAPH = ROOT / "models" / "graphs" / "tf_efficientnet_lite0-224.onnx"
"""The embedded model's."""

EMBEDDED_CHECKPOINT = "embedded.pth"
EMBEDDED_SAFETENSORS = "embedded.safetensors"
HUGGING_FACE_MODEL = "hugging_face"
RESNET50 = "resnet50_seeded"
"""The name of the ResNet-50 with random weights, as our manifest has it."""
TORCH_HOME = "torch"
CONFIG_HOME = "config"
MANIFEST = Path(CONFIG_HOME) / "imgclassify" / "models" / "benchmark.toml"
"""Of that ResNet-50; written last of the weights."""
CACHE_HOME = "cache"
EMPTY_CACHE_HOME = "empty_cache"
"""Removed before each run that uses it."""
ANSWERS = "answers"
