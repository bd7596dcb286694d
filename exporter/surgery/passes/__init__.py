"""The rewrites of an ONNX graph, one a file; `exporter.surgery` lists them in their order."""
