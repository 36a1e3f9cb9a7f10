"""Runs networks with PyTorch, ONNX Runtime or OpenVINO: a batch of crops in, named output arrays out.

engine.py defines the interface, torch_engine.py, onnxruntime_engine.py and openvino_engine.py implement it, and
choice.py selects the engine and the device.
"""

from imgclassify.engines.engine import Engine as Engine
from imgclassify.engines.engine import LinearHead as LinearHead
from imgclassify.graphs.session import FEATURE_MAP as FEATURE_MAP
from imgclassify.graphs.session import FEATURES as FEATURES
from imgclassify.graphs.session import LOGITS as LOGITS
