"""Writes a whole classifier into one file for programs without imgclassify: ONNX, torch.export or TorchScript.

`exporting.export_model` does it.
"""
