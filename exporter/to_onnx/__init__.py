"""A plain network as an ONNX graph."""

MIN_OPSET = 20
"""The first opset that the exporter writes without a version conversion that may fail."""
MAX_OPSET = 23
"""The newest opset that `torch.onnx` converts to."""
