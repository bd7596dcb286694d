"""CUDA from Python: which GPUs there are, memory, streams, events and graphs, and arrays in GPU memory."""
