"""ONNX Runtime: a runner of one graph, and one of a split graph on groups of cores."""
