"""A plain network as an ONNX graph."""
