"""What a user says of the shapes that a graph leaves open. Every room may import this file; it imports nothing."""

Batches = tuple[int, int, int]
"""The smallest, the usual and the largest batch."""
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""The smallest, the usual and the largest height and width, in pixels."""
MAX_SIZE = 2**31 - 1
"""Of an axis, in TensorRT."""
