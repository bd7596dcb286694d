"""Regions of an ONNX graph merged by the kernel algebra of `exporter.reparam`, and put back as ONNX nodes."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import fx, nn

from ..reparam.build import Builder, Merged
from ..reparam.choices import GroupedSum, Keep, OneMap
from ..reparam.geometry import Extend
from ..reparam.lift import Linear
from ..reparam.regions import Planned, planned
from ..reparam.report import Region
from .edit import add_node, append, constant, fresh
from .mirror import DTYPES, Mirror
from .names import names_kept
from .sizes import sizes_of

NUMPY = {ours: theirs for theirs, ours in DTYPES.items()}
EXACT = 1 << 24  # elements of a weight that later passes still see unrounded
PAD_INPUTS = 11  # the opset from which Pad takes its pads as an input
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@torch.no_grad()
def reparameterize_graph(graph: gs.Graph) -> list[Region]:
    """Merge every chain and branch of affine nodes of `graph`, in place; one region for each new convolution."""
    sizes = sizes_of(graph)
    mirror = Mirror(graph, sizes, set())
    plan = planned(fx.GraphModule(mirror.root, mirror.calls))
    half = mirror.half_lifted(plan)
    if half:
        mirror = Mirror(graph, sizes, half)
        plan = planned(fx.GraphModule(mirror.root, mirror.calls))
    if all(isinstance(choice, Keep) for choice in plan.choices.values()):
        return []
    with names_kept(graph):
        return _Emitter(graph, mirror, plan).emit()


class _Emitter:
    """Puts a plan into the ONNX graph."""

    def __init__(self, graph: gs.Graph, mirror: Mirror, plan: Planned) -> None:
        self.graph, self.plan = graph, plan
        self.builder = Builder(plan.lifter, plan.planner, exact=EXACT)
        self.tensors = dict(mirror.tensors)
        self.constants: dict[str, list[Any]] = {}
        self.whole = {id_ for id_, calls in mirror.parts.items() if self._stays(calls)}
        self.node_of = {call: id_ for id_, calls in mirror.parts.items() for call in calls}

    def _stays(self, calls: list[fx.Node]) -> bool:
        """Whether no call of a node is replaced, nor left out because another takes its work over."""
        affine, choices = self.plan.planner.ops, self.plan.choices
        return all(call not in affine or isinstance(choices.get(call), Keep) for call in calls)

    def emit(self) -> list[Region]:
        """Replace what the plan replaces; returns the regions."""
        for node in self.plan.planner.graph.nodes:
            choice = self.plan.choices.get(node)
            if choice is None:
                continue
            op = self.plan.planner.ops[node]
            if isinstance(choice, Keep):
                if self.node_of.get(node) in self.whole:
                    continue
                if not isinstance(op, Linear):
                    continue  # one call: the node stays as it is
                choice = OneMap(op.source, op.form)
            if isinstance(choice, OneMap) and choice.form.identity:
                self._put(node, "Identity", [self.tensors[choice.source]], {}, str(node.name))
                continue
            self._replace(node, choice, list(self.builder.build(node, choice)))
        return self.builder.regions

    def _replace(self, node: fx.Node, choice: OneMap | GroupedSum, convs: list[Merged]) -> None:
        """Make the value of `node` by convolutions: of one source, or the sum of several terms."""
        if isinstance(choice, OneMap):
            self._put(node, *self._convolution(convs[0], choice.source))
            return
        terms = []
        for group in choice.groups:
            if group.source is None:
                ((value, weight),) = group.terms
                terms.append(self._scaled(self.tensors[value], weight, node))
                continue
            merged = convs.pop(0)
            op, inputs, attrs, name = self._convolution(merged, group.source)
            terms.append(append(self.graph, op, inputs, name=name, like=self._like(node), attrs=attrs))
        total = terms[0]
        for i, term in enumerate(terms[1:], start=2):
            if i == len(terms):
                self._put(node, "Add", [total, term], {}, f"{node.name}_sum")
            else:
                total = append(self.graph, "Add", [total, term], name=f"{node.name}_sum", like=self._like(node))

    def _scaled(self, tensor: Any, weight: float, node: fx.Node) -> Any:
        if weight == 1:
            return tensor
        factor = constant(self.graph, f"{node.name}_weight", np.array(weight, np.float64), self._dtype(node))
        return append(self.graph, "Mul", [tensor, factor], name=f"{node.name}_scaled", like=self._like(node))

    def _convolution(self, merged: Merged, source: fx.Node) -> tuple[str, list[Any], dict[str, Any], str]:
        """Op, inputs, attributes and name of the node; the pads before it are put in the graph."""
        x, module = self.tensors[source], merged.module
        rank = getattr(module, "weight", torch.empty(0, 0)).dim() - 2
        own = [0] * (2 * rank)
        for extend in merged.extends:
            if extend.mode == "constant" and min(extend.pads) >= 0 and extend is merged.extends[-1]:
                own = _begins_and_ends(extend.pads)  # a Conv of ONNX pads its two ends by zeros as it likes
            else:
                x = self._extended(x, extend, merged.name, source)
        dtype = self._dtype(source)
        parameters = {name: p.detach().numpy() for name, p in module.named_parameters()}
        if merged.name not in self.constants:
            self.constants[merged.name] = [
                constant(self.graph, f"{merged.name}.{name}", parameters[name], dtype)
                for name in ("weight", "bias")
                if name in parameters
            ]
        inputs = [x, *self.constants[merged.name]]
        if isinstance(module, nn.Linear):
            return "Gemm", inputs, {"transB": 1}, merged.name
        assert isinstance(module, nn.modules.conv._ConvNd)
        assert isinstance(module.padding, tuple)
        attrs: dict[str, Any] = {
            "dilations": list(module.dilation),
            "group": module.groups,
            "kernel_shape": list(module.kernel_size),
            "pads": [mine + before for mine, before in zip((*module.padding, *module.padding), own, strict=True)],
            "strides": list(module.stride),
        }
        if module.transposed:
            attrs["output_padding"] = list(module.output_padding)
        return "ConvTranspose" if module.transposed else "Conv", inputs, attrs, merged.name

    def _extended(self, x: Any, extend: Extend, name: str, source: fx.Node) -> Any:
        """x padded or cropped: a Pad node."""
        spatial = _begins_and_ends(extend.pads)
        rank = len(spatial) // 2
        flat = [0, 0, *spatial[:rank], 0, 0, *spatial[rank:]]
        attrs: dict[str, Any] = {"mode": MODES.get(extend.mode, "constant")}
        if self.graph.opset < PAD_INPUTS:
            inputs, attrs = [x], attrs | {"pads": flat}
        else:
            name_free = fresh(self.graph, f"{name}.pads")
            inputs = [x, gs.Constant(name_free, np.array(flat, np.int64))]
        return append(self.graph, "Pad", inputs, name=f"{name}_pad", like=self._like(source), attrs=attrs)

    def _like(self, node: fx.Node) -> Any:
        """A value with the type of `node` and no shape yet."""
        return gs.Variable("", dtype=self._dtype(node))

    def _dtype(self, node: fx.Node) -> Any:
        return NUMPY[node.meta["val"].dtype]

    def _put(self, node: fx.Node, op: str, inputs: list[Any], attrs: dict[str, Any], name: str) -> None:
        """A node that makes the value of `node`: the ONNX value if there is one, else one of its own."""
        if node not in self.tensors:
            self.tensors[node] = gs.Variable(fresh(self.graph, name), dtype=self._dtype(node))
        add_node(self.graph, op, inputs, self.tensors[node], name=name, attrs=attrs)


def _begins_and_ends(pads: tuple[int, ...]) -> list[int]:
    """Pads as torch lists them, (begin, end) of the last axis first, in ONNX's order: all begins, then all ends."""
    return [pads[2 * d + side] for side in (0, 1) for d in reversed(range(len(pads) // 2))]
