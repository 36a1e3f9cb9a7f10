"""Exports networks as ONNX graphs without weights, and opens graphs in onnxruntime with a checkpoint's weights.

`onnx_file.py` checks a user's own .onnx file before onnxruntime opens it.
"""
