"""The plain network as a drawing: a box for each op with what follows it alone, in rows by depth, arrows between them.

row(op) = 1 + max row of what it reads,   column(op) = as near as possible to the mean column of what it reads
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from markupsafe import Markup, escape

from ..partition import Wiring

JOINED = {
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu", "Elu", "Tanh",
    "Identity", "Cast", "Flatten", "Reshape",
}  # fmt: skip
"""Ops that are written into the box before them, where nothing else reads that."""
BOX, TALL, ACROSS, DOWN = 148, 36, 168, 58
MOST = 1200
"""Boxes of a drawing; a larger network is said to be too large for one."""
LEAST = 0.7
"""How far a wide drawing shrinks to fit before it has to be scrolled."""
MARGIN = 8


@dataclass
class Box:
    """One box: the names of its nodes, the boxes that it reads (by position; −1: an input), and where it lies."""

    names: list[str]
    label: str
    reads: tuple[int, ...]
    after: list[str] = field(default_factory=list)
    row: int = 0
    column: float = 0.0

    @property
    def lines(self) -> tuple[str, str]:
        """What is written in it."""
        head, _, rest = self.label.partition(" · ")
        return head, " + ".join(filter(None, [rest, *self.after]))


def boxes_of(model: ir.Model, wiring: Wiring) -> list[Box]:
    """The graph as boxes in order, each in its row and column."""
    nodes = {str(node.name): node for node in model.graph}
    boxes: list[Box] = []
    of_value: dict[str, int] = {}
    for at, op in enumerate(wiring.ops):
        if at in wiring.folded:
            continue
        reads = [name for name in op.reads if name in of_value or name in wiring.inputs]
        before = of_value.get(reads[0]) if len(reads) == 1 else None
        alone = before is not None and wiring.readers[reads[0]] == (at,) and reads[0] not in wiring.outputs
        if op.kind in JOINED and before is not None and alone:
            boxes[before].names.append(op.name)
            boxes[before].after.append(op.kind)
            of_value |= dict.fromkeys(op.writes, before)
            continue
        of_value |= dict.fromkeys(op.writes, len(boxes))
        label = _label(nodes[op.name]) if op.name in nodes else op.kind
        boxes.append(Box([op.name], label, tuple(dict.fromkeys(of_value.get(name, -1) for name in reads))))
    _place(boxes)
    return boxes


def drawn(boxes: Sequence[Box], links: Mapping[str, str], inputs: Iterable[str], outputs: Iterable[str]) -> Markup:
    """The boxes as SVG. `links` gives the anchor of each node that more is said of, and its badge behind a space."""
    width = max((box.column for box in boxes), default=0.0) * ACROSS + BOX + 2 * MARGIN
    height = (max((box.row for box in boxes), default=0) + 3) * DOWN
    edge = BOX / 2 + MARGIN
    middle = {-1: (edge, TALL / 2 + MARGIN)}
    middle |= {i: (box.column * ACROSS + edge, (box.row + 1) * DOWN + TALL / 2 + MARGIN) for i, box in enumerate(boxes)}
    parts = [_arrow(middle[source], middle[i], boxes[i].row - _row(boxes, source)) for i, source in _edges(boxes)]
    used = {source for box in boxes for source in box.reads}
    end = ((boxes[-1].column if boxes else 0.0) * ACROSS + edge, height - DOWN + TALL / 2 + MARGIN)
    parts += [_arrow(middle[i], end, 1) for i in range(len(boxes)) if i not in used]
    parts.append(_box(middle[-1], ("input", ", ".join(inputs)), "end", ""))
    for i, box in enumerate(boxes):
        link = next((links[name] for name in box.names if name in links), "")
        parts.append(_box(middle[i], box.lines, "merged" if link else "", link))
    parts.append(_box(end, ("output", ", ".join(outputs)), "end", ""))
    return Markup(
        '<svg class="network" role="group" aria-label="the plain network" viewBox="0 0 {w:.0f} {h:.0f}" '
        'style="width:100%;min-width:{least:.0f}px;max-width:{w:.0f}px"><defs>'
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>{parts}</svg>'
    ).format(w=width, h=height, least=min(LEAST * width, width), parts=Markup("").join(parts))


def _label(node: ir.Node) -> str:
    """The op, its kernel and stride, its channels: "Conv 3×3 /2 · 64 → 128"."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    sizes = weight.shape.numpy() if weight is not None and weight.shape is not None and weight.shape.is_static() else ()
    kind = node.op_type
    strides = node.attributes.get("strides")
    stride = max((int(n) for n in strides.as_ints()), default=1) if strides is not None else 1
    over = f" /{stride}" if stride > 1 else ""
    if kind == "Conv" and len(sizes) > 2:
        group = node.attributes.get("group")
        groups = int(group.as_int()) if group is not None else 1
        split = f" ({groups} groups)" if groups > 1 else ""
        return f"Conv {'×'.join(map(str, sizes[2:]))}{over} · {sizes[1] * groups} → {sizes[0]}{split}"
    if kind == "Gemm" and len(sizes) == 2:
        turned = node.attributes.get("transB")
        rows = sizes if turned is not None and turned.as_int() else sizes[::-1]
        return f"Gemm · {rows[1]} → {rows[0]}"
    kernel = node.attributes.get("kernel_shape")
    if kernel is not None:
        return f"{kind} {'×'.join(map(str, kernel.as_ints()))}{over}"
    return kind


def _place(boxes: Sequence[Box]) -> None:
    rows: dict[int, list[int]] = {}
    for i, box in enumerate(boxes):
        box.row = 1 + max((_row(boxes, source) for source in box.reads), default=-1)
        rows.setdefault(box.row, []).append(i)
    for row in sorted(rows):
        wanted = {i: _wanted(boxes, i) for i in rows[row]}
        ordered = sorted(rows[row], key=lambda i: (wanted[i], i))
        mean = sum(wanted.values()) / len(wanted)
        columns: list[float] = []
        for i in ordered:
            columns.append(max(wanted[i], columns[-1] + 1) if columns else wanted[i])
        shift = max(mean - sum(columns) / len(columns), -columns[0])  # it grows to the right, away from the input
        for i, column in zip(ordered, columns, strict=True):
            boxes[i].column = column + shift


def _wanted(boxes: Sequence[Box], i: int) -> float:
    sources = [boxes[source].column for source in boxes[i].reads if source >= 0]
    return sum(sources) / len(sources) if sources else 0.0


def _row(boxes: Sequence[Box], i: int) -> int:
    return boxes[i].row if i >= 0 else -1


def _edges(boxes: Sequence[Box]) -> list[tuple[int, int]]:
    return [(i, source) for i, box in enumerate(boxes) for source in box.reads]


def _arrow(start: tuple[float, float], end: tuple[float, float], rows: int) -> Markup:
    """From the bottom of one box to the top of another; past the boxes between them where there are some."""
    (x0, y0), (x1, y1) = start, end
    y0, y1 = y0 + TALL / 2, y1 - TALL / 2 - 1
    bend = (y1 - y0) / 2 if rows <= 1 or abs(x1 - x0) > 1 else 0.0
    if rows > 1 and abs(x1 - x0) <= 1:
        side = x0 + BOX / 2 + 6
        path = f"M{x0:.0f} {y0:.0f}C{side + 16:.0f} {y0 + 14:.0f} {side + 16:.0f} {y1 - 14:.0f} {x1:.0f} {y1:.0f}"
    else:
        path = f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"
    return Markup('<path class="arrow" d="{}" marker-end="url(#tip)"/>').format(path)


def _box(at: tuple[float, float], lines: tuple[str, str], kind: str, link: str) -> Markup:
    x, y = at[0] - BOX / 2, at[1] - TALL / 2
    anchor, _, badge = link.partition(" ")
    head, rest = (line if len(line) <= 25 else f"{line[:24]}…" for line in lines)
    second = Markup('<text class="small" x="{:.0f}" y="{:.0f}">{}</text>').format(at[0], y + 29, rest) if rest else ""
    mark = Markup('<text class="badge" x="{:.0f}" y="{:.0f}">{}</text>').format(x + BOX - 5, y + 11, badge)
    body = Markup(
        '<g class="box {}"><title>{}</title><rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="6"/>'
        '<text x="{:.0f}" y="{:.0f}">{}</text>{}{}</g>'
    ).format(
        kind, " ".join(filter(None, lines)), x, y, BOX, TALL, at[0], y + (15 if rest else 22), head, second,
        mark if badge else "",
    )  # fmt: skip
    return Markup('<a href="#{}">{}</a>').format(escape(anchor), body) if anchor else body
