"""Runs networks with PyTorch or ONNX Runtime: a batch of crops in, named output arrays out.

engine.py defines the interface, torch_engine.py and onnxruntime_engine.py implement it, and choice.py selects the
engine and the device.
"""

from imgclassify.engines.engine import LOGITS as LOGITS
from imgclassify.engines.engine import Engine as Engine
