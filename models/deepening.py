"""Deep training and series activations for any network (VanillaNet §3 and Table 2).

    conv → [norm] → act    becomes    conv → norm → fading activation → 1×1 conv → norm → act

Once the slope of the fading activation is 1, all before `act` is one conv again, padded as the first: a 1×1 conv looks
over no border. (The other order, 1×1 first, would pad behind a bias, and not merge.)
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from plainconv.exporter.errors import SourceError, one_line

from .deep_training import Fading, SavedFadingActivation
from .options import Option, flag, whole
from .series_activation import SeriesActivation

ADDED = "deepened"
"""Every key that deepening adds to a state dict begins so; without these keys it is the network's own."""

_RELUS: tuple[Any, ...] = (nn.ReLU, functional.relu, torch.relu, "relu", "relu_")
_ACTIVATIONS: tuple[Any, ...] = (
    *_RELUS,
    *(nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh),
    *(functional.relu6, functional.leaky_relu, functional.elu, functional.silu, functional.gelu, functional.mish),
    *(functional.hardswish, torch.sigmoid, torch.tanh, "sigmoid", "tanh"),
)
_KEEP_CHANNELS = (
    *_ACTIVATIONS,
    *(nn.MaxPool2d, nn.AvgPool2d, nn.Identity, nn.Dropout, nn.Dropout2d, nn.BatchNorm2d),
    *(operator.add, operator.iadd, torch.add, "add", "add_"),
)


_BY_HAND = "put plainconv.models.deepening.Deepened behind its convs in its own code"


def deepen(module: nn.Module, *, deep: bool = True, series_order: int = 0, slope: float = 0.0) -> fx.GraphModule:
    """Return `module` with every conv and activation deepened; it shares the weights of `module`.

    The state dict keeps the keys it had, and has new ones that begin with "deepened."; the slope λ is among them, so
    that a checkpoint knows whether its convs may be merged. `set_slope` drives it, after `slope_at`, linear or cosine.

    Args:
        module: a network that `torch.fx` can trace.
        deep: put a fading activation, a 1×1 conv and its norm between each conv and its activation.
        series_order: n of the series activations (VanillaNet eq. 6) that take the place of every ReLU; 0 for none.
        slope: λ to begin with, 0 for a plain ReLU, 1 for none.

    Raises:
        SourceError: the network cannot be traced, does another thing in training, or has nothing to deepen.
    """
    return _deepen(module, deep=deep, series_order=series_order, slope=slope, deploy=False)


def deepened(network: nn.Module, *, deep: bool, series_order: int, deploy: bool) -> nn.Module:
    """Deepen a network of the catalogue after its options, for training; the deploy form has series activations alone.

    The slope is 1 to begin with, as in every network of the catalogue.
    """
    deep = deep and not deploy
    if not deep and not series_order:
        return network
    return _deepen(network, deep=deep, series_order=series_order, slope=1.0, deploy=deploy)


def deep_options(*, deep: bool = False, series_order: int = 0) -> dict[str, Option]:
    """Return the options of a network that can be deepened."""
    return {"deep": flag(deep), "series_order": whole(series_order, low=0, high=15)}


class Deepened(nn.Module):
    """norm → fading activation → 1×1 conv → norm, behind a conv; without the first where the conv has one (eq. 1).

    The 1×1 conv has the groups of the conv before it, so that the two are one conv of the same cost.
    """

    def __init__(self, channels: int, groups: int = 1, *, normed: bool, slope: float) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if normed else nn.BatchNorm2d(channels)
        self.fade = SavedFadingActivation(slope)
        self.conv = nn.Conv2d(channels, channels, 1, groups=groups)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] in, the same shape out."""
        return self.norm2(self.conv(self.fade(self.norm1(x))))  # type: ignore[no-any-return]


def _deepen(module: nn.Module, *, deep: bool, series_order: int, slope: float, deploy: bool) -> fx.GraphModule:
    graph = _traced(module)
    result = fx.GraphModule(module, graph, type(module).__name__)
    for node in _activations(result):
        (source, *_) = node.all_input_nodes
        normed = _is(result, source, (nn.BatchNorm2d,))
        conv = source.all_input_nodes[0] if normed and source.all_input_nodes else source
        channels = _channels(result, source)
        name = str(node.name)
        if deep and _is(result, conv, (nn.Conv2d,)) and len(source.users) == len(conv.users) == 1:
            assert channels is not None  # of a conv or a norm
            groups = int(result.get_submodule(str(conv.target)).groups)  # type: ignore[arg-type]
            result.add_submodule(f"{ADDED}.{name}", Deepened(channels, groups, normed=normed, slope=slope))
            with graph.inserting_after(source):
                behind = graph.call_module(f"{ADDED}.{name}", (source,))
            node.replace_input_with(source, behind)
        if series_order and channels is not None and _is(result, node, _RELUS):
            result.add_submodule(f"{ADDED}.{name}_series", SeriesActivation(channels, series_order, deploy=deploy))
            with graph.inserting_after(node):
                series = graph.call_module(f"{ADDED}.{name}_series", (node.all_input_nodes[0],))
            node.replace_all_uses_with(series)
            graph.erase_node(node)
    if not hasattr(result, ADDED):
        raise SourceError(
            f"{type(module).__name__} has no conv with an activation behind it to deepen; wanted nn.Conv2d, "
            f"nn.BatchNorm2d or none, and a ReLU or another activation; {_BY_HAND}"
        )
    result.recompile()
    result.get_submodule(ADDED).train(module.training)
    result.training = module.training
    return result


def _traced(module: nn.Module) -> fx.Graph:
    """Trace the network in both modes; a trace keeps what `self.training` decides, so both must be the same."""
    name = type(module).__name__
    if any(isinstance(part, Fading) for part in module.modules()):
        raise SourceError(f"{name} has fading activations already; deepen the network that it was made from")
    modes = {part: part.training for part in module.modules()}
    try:
        graphs = [fx.Tracer().trace(module.train(mode)) for mode in (False, True)]
    except Exception as error:  # of many kinds: whatever the network's own code raises for a symbol
        raise SourceError(
            f"torch.fx cannot trace {name} ({one_line(error)}), which finds its activations; {_BY_HAND}"
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    if str(graphs[0]) != str(graphs[1]):
        raise SourceError(
            f"{name} reads self.training in its forward; wanted one that is the same in both "
            "modes: use nn.Dropout for F.dropout"
        )
    return graphs[0]


def _activations(module: fx.GraphModule) -> Iterator[fx.Node]:
    yield from [node for node in module.graph.nodes if _is(module, node, _ACTIVATIONS) and node.all_input_nodes]


def _is(module: fx.GraphModule, node: fx.Node, kinds: tuple[Any, ...]) -> bool:
    """Whether `node` calls one of these: modules by their type, functions themselves, methods by their name."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) in kinds
    return node.op in ("call_function", "call_method") and node.target in kinds


def _channels(module: fx.GraphModule, node: fx.Node) -> int | None:
    """Return the channels of a value, from the conv or the norm that it came from; None where that does not tell."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if isinstance(part, nn.Conv2d):
            return part.out_channels
        if isinstance(part, nn.BatchNorm2d):
            return part.num_features
        if isinstance(part, Deepened):
            return part.conv.out_channels
        if isinstance(part, SeriesActivation):
            return part.channels
    if not _is(module, node, _KEEP_CHANNELS):
        return None
    return next(filter(None, (_channels(module, source) for source in node.all_input_nodes)), None)
