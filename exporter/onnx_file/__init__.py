"""ONNX files: read, checked and written, however large."""
