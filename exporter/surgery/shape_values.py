"""What small integers that say a shape are, as far as sizes are known: numbers, names of open axes, or nothing."""

from typing import Any

from .edit import ints

Size = int | str | None
ARITHMETIC = ("Mul", "Add", "Sub", "Div", "Mod", "Max", "Min")
SAME = ("Unsqueeze", "Squeeze", "Reshape", "Identity", "Cast", "Flatten")
"""Ops that keep all elements of a scalar or a vector in their order."""
DEPTH = 64


def sizes_said(tensor: Any, depth: int = 0) -> list[Size] | None:
    """The elements of a scalar or a vector; None where not even their number is known."""
    if (known := ints(tensor)) is not None:
        return list(known)
    node = tensor.inputs[0] if tensor.inputs else None
    if node is None or (node.domain or "") not in ("", "ai.onnx") or depth > DEPTH:
        return None
    if node.op == "Shape":
        shape = node.inputs[0].shape
        if shape is None or getattr(node.inputs[0], "type", None) not in (None, "tensor_type"):
            return None
        return list(shape)[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    if node.op in SAME:
        return sizes_said(node.inputs[0], depth + 1)
    if node.op == "Concat":
        parts = [sizes_said(t, depth + 1) for t in node.inputs]
        return [size for part in parts for size in part or []] if None not in parts else None
    if node.op == "Gather":
        sizes, chosen = sizes_said(node.inputs[0], depth + 1), ints(node.inputs[1])
        fits = sizes is not None and chosen is not None and all(-len(sizes) <= i < len(sizes) for i in chosen)
        return [sizes[i] for i in chosen] if fits and sizes and chosen else None
    if node.op == "Slice":
        return _sliced(node, depth)
    if node.op in ARITHMETIC:
        lengths = [len(sizes) for t in node.inputs if (sizes := sizes_said(t, depth + 1)) is not None]
        return [None] * max(lengths) if len(lengths) == len(node.inputs) else None
    return None


def _sliced(node: Any, depth: int) -> list[Size] | None:
    sizes = sizes_said(node.inputs[0], depth + 1)
    if len(node.inputs) > 1:
        given = [ints(t) for t in node.inputs[1:] if not t.is_empty()]
    else:
        given = [node.attrs.get("starts"), node.attrs.get("ends")]
    if sizes is None or any(part is None or len(part) != 1 for part in given):
        return None
    start, end, *rest = [part[0] for part in given if part]
    step = rest[1] if len(rest) > 1 else 1
    return sizes[start:end:step] if step > 0 else None
