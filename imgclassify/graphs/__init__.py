"""Weight-free ONNX graphs: reading and writing them, and running them in onnxruntime."""
