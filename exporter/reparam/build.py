"""The convolutions of a plan: kernels built in float64, checked against the ops they replace, and rounded once."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import CheckFailedError
from ..modes import Uninitialized
from ..names import NumberedNames
from ..parity.widen import widened
from .affine import AffineMap, conv_weight
from .choices import Choice, GroupedSum, OneMap
from .forms import Form
from .geometry import ConvGeometry, Extend, conv_geometry
from .graph import attribute, places
from .lift import Lifter, Linear, Op, Sum
from .numbers import Numbers, blocks
from .plan import Planner, inputs
from .replay import probes
from .report import Region

REPLAY_ERROR = 1e-10  # of a region against its ops, relative to the largest output, in float64
CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass(frozen=True)
class Merged:
    """One convolution ready to be inserted, and the pads or crops before it."""

    name: str
    module: nn.Module
    extends: tuple[Extend, ...]


class Builder:
    """Builds the convolutions of a plan on the untouched graph, rounded to the dtype of the values.

    Weights of at most `exact` elements are left in float64, for someone who changes them again and rounds then.
    """

    def __init__(self, lifter: Lifter, planner: Planner, *, exact: int = 0) -> None:
        self.lifter, self.planner, self.exact = lifter, planner, exact
        self.regions: list[Region] = []
        self.names = NumberedNames(name for name, _ in lifter.graph_module.named_children())
        self.made: dict[Hashable, dict[str, nn.Module]] = defaultdict(dict)
        self.position = {node: i for i, node in enumerate(planner.ops)}

    def build(self, node: fx.Node, choice: Choice) -> list[Merged]:
        """The convolutions of one choice, in the order of its groups; none for a node that stays as it is."""
        if isinstance(choice, OneMap) and not choice.form.identity:
            return [self._merged(choice.source, Sum(((node, 1.0),)), choice.form, node)]
        if isinstance(choice, GroupedSum):
            return [
                self._merged(group.source, Sum(group.terms), self.planner.group_form(group), node)
                for group in choice.groups
                if group.source is not None
            ]
        return []

    def _merged(self, source: fx.Node, wanted: Sum, form: Form, node: fx.Node) -> Merged:
        """The convolution of one form, made and checked some rows at a time."""
        geometry = conv_geometry(form)
        expected = probes(self.lifter, source, wanted, form)
        numbers = Numbers(self.planner.ops, source, form)
        value: Tensor = node.meta["val"]
        module = _convolution(form, geometry)
        elements = sum(p.numel() for p in module.parameters())
        dtype = torch.float64 if elements <= self.exact else value.dtype
        for name, parameter in [*module.named_parameters()]:
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=False))
        worst = largest = 0.0
        for rows, read in blocks(form):
            m = numbers.of(wanted, rows)
            exact = _filled(_convolution(m.form, geometry), m)
            deviation = _deviation(exact, geometry.extends, expected, read, rows, node.name)
            worst = worst if deviation <= worst else deviation  # NaN is worst of all
            largest = max(largest, _largest(m.kernel))
            for name, parameter in module.named_parameters():
                (parameter.data if rows is None else parameter.data[rows]).copy_(exact.get_parameter(name))
        if math.isnan(worst):
            raise CheckFailedError(f"{node.name}: NaN or infinity comes out of its ops; look at the weights before it")
        if not worst <= REPLAY_ERROR:
            raise CheckFailedError(
                f"{node.name}: merged convolution is off by {worst:.1e} in float64; please report this"
            )
        nodes = self._between(source, [value for value, _ in wanted.terms])
        module = module.to(value.device) if value.device.type != "meta" else module
        alike = self.made[_look(module)]
        twin = next((known for known, made in alike.items() if _equal(made, module)), None)
        name = twin or self._name(nodes)  # a network that applies the same weights twice goes on doing so
        alike[name] = module
        self._record(name, source, node, nodes, form, geometry, worst, largest)
        return Merged(name, module, geometry.extends)

    def _between(self, source: fx.Node, results: Sequence[fx.Node]) -> list[fx.Node]:
        """The affine ops from `source` (exclusive) to `results`, in graph order."""
        seen: set[fx.Node] = set()
        stack = list(results)
        while stack:
            node = stack.pop()
            if node is not source and node not in seen:
                seen.add(node)
                stack.extend(inputs(self.planner.ops[node]))
        return sorted(seen, key=self.position.__getitem__)

    # -------------------------------------------------------------- names and records

    def _record(
        self,
        name: str,
        source: fx.Node,
        node: fx.Node,
        nodes: Sequence[fx.Node],
        form: Form,
        geometry: ConvGeometry,
        error: float,
        largest: float,
    ) -> None:
        old = [self._largest_weight(n) for n in nodes]
        self.regions.append(
            Region(
                name=name,
                source=source.name,
                result=node.name,
                merged=tuple(n.name for n in nodes),
                kernel=(form.out_channels, form.in_channels // form.groups, *map(len, geometry.boxes)),
                macs_before=sum(own_macs(n, self.planner.ops[n]) for n in nodes),
                macs_after=form.macs(places(node, len(form.axes))),
                error=error,
                max_weight=largest,
                growth=largest / max([w for w in old if w > 0], default=math.nan),
                least_size=self._least_size(nodes, geometry),
                modules=tuple(dict.fromkeys(filter(None, map(_module_path, nodes)))),
            )
        )

    def _least_size(self, nodes: Sequence[fx.Node], geometry: ConvGeometry) -> int:
        """The smallest size that the padding of the convolution takes where the ops it replaces took a smaller one.

        Circular and reflecting pads read no further than the map is wide; pads of merged ops add up.
        """
        forms = [op.form for n in nodes if isinstance(op := self.planner.ops[n], Linear)]
        before = max(map(_reach, (e for form in forms for e in conv_geometry(form).extends)), default=0)
        after = max(map(_reach, geometry.extends), default=0)
        return after if after > before else 0

    def _largest_weight(self, node: fx.Node) -> float:
        weight = node.args[1] if own_macs(node, self.planner.ops[node]) and len(node.args) > 1 else None
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return 0.0
        return _largest(attribute(self.lifter.graph_module, str(weight.target)).detach())

    def _name(self, nodes: Sequence[fx.Node]) -> str:
        """The module that the merged ops share, else the one of their first convolution."""
        paths = [_module_path(n) for n in nodes]
        shared = [part for part, *others in zip(*(p.split(".") for p in paths), strict=False) if set(others) <= {part}]
        first = next((p for n, p in zip(nodes, paths, strict=True) if own_macs(n, self.planner.ops[n])), "")
        stem = "_".join(shared) or first.replace(".", "_") or "conv"
        return self.names(f"_{stem}" if stem[0].isdigit() else stem)


def _look(module: nn.Module) -> Hashable:
    """What two convolutions that are the same have in common: their settings and first numbers."""
    return repr(module), *(float(p.reshape(-1)[0]) for p in module.parameters())


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two convolutions of the same look are the same, number by number."""
    return all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def _largest(tensor: Tensor) -> float:
    low, high = torch.aminmax(tensor)
    return max(-float(low), float(high))


def own_macs(node: fx.Node, op: Op) -> int:
    """Multiply-accumulates of an op as it stands: convolutions and Linears have them, pools and norms have none."""
    name = node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else ""
    multiplies = name.startswith("conv") or name in ("linear", "matmul", "mm")
    return op.form.macs(places(node, len(op.form.axes))) if isinstance(op, Linear) and multiplies else 0


def _reach(extend: Extend) -> int:
    """The smallest map that torch pads so; it takes any where it pads zeros or repeats the border."""
    widest = max(extend.pads)
    return {"circular": widest, "reflect": widest + 1}.get(extend.mode, 0)


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return paths[-1] if paths else ""


Probes = Sequence[tuple[Tensor, Tensor]]


def _deviation(
    exact: nn.Module, extends: Sequence[Extend], expected: Probes, read: slice, rows: slice | None, where: str
) -> float:
    """max |new − old| / max |old| over the probes, of those rows, which read those channels."""
    worst = 0.0
    axis = -1 if isinstance(exact, nn.Linear) else 1
    for source, want in expected:
        x = source.narrow(axis, read.start, read.stop - read.start)
        largest = want.abs().max().clamp_min(1e-300)
        with widened():  # all is float64 already; this is for its float64 depthwise convolution
            for extend in extends:
                x = nn.functional.pad(x, extend.pads, extend.mode)
            got = exact(x)
        want = want if rows is None else want.narrow(axis, rows.start, rows.stop - rows.start)
        if got.shape != want.shape:
            raise CheckFailedError(f"{where}: merged convolution gives {tuple(got.shape)}, not {tuple(want.shape)}")
        deviation = float((got - want).abs().max() / largest)
        worst = worst if deviation <= worst else deviation
    return worst


def _filled(module: nn.Module, m: AffineMap) -> nn.Module:
    """The float64 module with the map's numbers."""
    module.weight = nn.Parameter(conv_weight(m).contiguous(), requires_grad=False)
    if m.form.biased:
        module.bias = nn.Parameter(m.bias, requires_grad=False)
    return module


def _convolution(form: Form, geometry: ConvGeometry) -> nn.Module:
    """The form as a module, without numbers."""
    rank = len(form.axes)
    module: nn.Module
    with torch.device("meta"), Uninitialized():
        if rank == 0:
            module = nn.Linear(form.in_channels, form.out_channels, bias=form.biased)
        else:
            taps = tuple(map(len, geometry.boxes))
            shared: dict[str, Any] = {"padding": geometry.padding, "dilation": geometry.dilations}
            shared |= {"groups": form.groups, "bias": form.biased}
            if form.transposed:
                up = tuple(axis.up for axis in form.axes)
                shared |= {"stride": up, "output_padding": geometry.output_padding}
                module = TRANSPOSED[rank](form.in_channels, form.out_channels, taps, **shared)
            else:
                stride = tuple(axis.stride for axis in form.axes)
                module = CONVOLUTIONS[rank](form.in_channels, form.out_channels, taps, stride=stride, **shared)
    return module.eval().requires_grad_(False)
