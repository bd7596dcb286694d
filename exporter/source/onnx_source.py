"""An ONNX file as SOURCE: its graph, the module that evaluates it, and what it says of inputs and outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from ..bundle.manifest import FileRecord, sha256_of_files
from ..bundle.reader import sha256_of_file
from ..errors import PlainconvError, SourceError, first_line
from ..onnx_file.external import place
from ..onnx_file.file import SMALL, check, infer_shapes, read, refuse_unknown_types
from ..onnx_file.held import Held, inner_tensors
from ..onnx_file.wire import is_stub, split
from ..onnx_module import OPS, REMEDY, OnnxModule, module_from_onnx
from ..parity.inputs import batch_of, has_batch
from ..parity.widen import float64_outputs
from ..surgery.edit import outputs_inferred, sort
from .file_inputs import examples_of_file
from .network import Given, Network, Request

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
SIZED_BY_VALUES = {"NonMaxSuppression", "NonZero", "Unique", "Compress", "Loop", "If", "Range"}
"""Ops whose outputs may have other shapes for other numbers of the same inputs."""
SIZED_BY = {name: op.told for name, op in OPS.items()} | {"TopK": {1}, "OneHot": {1}}
"""Inputs of ops that say a shape."""
MIXED = "for one image depends on the others"
SAME = 0.999
"""The share of integers that must be the same."""
APART = 1e-9
"""How far, of the largest output, images evaluated together may be from those evaluated alone, in float64."""


def network_from_onnx(source: str, request: Request) -> Network:
    """The network in the ONNX file `source`, at the shapes that the file and the request give.

    Raises:
        ExportError: the file is missing or no sound ONNX file.
        SourceError: it is not a network of inputs and outputs of numbers.

    """
    _refuse_options(source, request)
    path = Path(source)
    check(path, full=False)
    graph, metadata = read(path)
    sort(graph)
    refuse_unknown_types(graph)
    _fix_defaults(graph)
    inputs, data = examples_of_file(graph.inputs, request)
    module = module_from_onnx(graph, any_op=True)
    _check_outputs(path.name, module, inputs)
    warnings: tuple[str, ...] = ()
    if module.by_reference:
        ops = ", ".join(sorted(module.by_reference))
        warnings += (f"{ops} of {path.name}: evaluated in float64 by onnx's reference evaluator, which is slow",)
    given = Given(graph, metadata)
    sha256 = _sha256(path)
    provenance = {"source": source, "file": {"name": path.name, "sha256": sha256, "opset": graph.opset}}
    return Network(path.stem, module, inputs, None, provenance, sha256, warnings, given, data=data)


def settle_batch(network: Network, *, dynamic: bool) -> None:
    """See whether images keep apart in the graph; one that does not, or is made for one batch size, is held to that.

    Raises SourceError where it has to be `dynamic`.
    """
    assert isinstance(network.module, OnnxModule)
    batch = batch_of(x.shape for x in network.examples)
    if batch is None or (not dynamic and batch != 1):
        return  # then nothing but this batch is evaluated
    if dynamic:
        _refuse_half_open(network, batch)
    reason = _why_not_apart(network.module, network.inputs, batch)
    if reason is None or (dynamic and reason.endswith(MIXED) and _fixed_and_open(network, batch)[1]):
        return
    if dynamic:
        raise SourceError(
            f"{network.name} is made for a batch of {batch} ({reason}); leave --dynamic-batch out, "
            "or write the ONNX file again with an open batch axis"
        )
    network.module.batches = {name: batch for name, x in network.inputs.items() if has_batch(x.shape, batch)}


def _fixed_and_open(network: Network, batch: int) -> tuple[list[str], list[str]]:
    """The inputs whose batch the file fixes, and those that it leaves open."""
    assert network.given is not None
    fixed: list[str] = []
    is_open: list[str] = []
    for tensor in network.given.graph.inputs:
        if has_batch(network.inputs[tensor.name].shape, batch):
            of_file = tensor.shape[0] if tensor.shape else None
            (fixed if isinstance(of_file, int) else is_open).append(str(tensor.name))
    return fixed, is_open


def _refuse_half_open(network: Network, batch: int) -> None:
    fixed, is_open = _fixed_and_open(network, batch)
    if fixed and is_open:
        raise SourceError(
            f"the ONNX file leaves the batch of {is_open[0]} open and fixes that of {fixed[0]} to {batch}; leave "
            "--dynamic-batch out, or write the file again with both open"
        )


def graph_at(network: Network, *, dynamic_batch: bool, sizes: tuple[tuple[int, int], ...] | None = None) -> gs.Graph:
    """The graph of the file with the shapes that its values have for the example, what is asked for left open.

    What the file says of them is forgotten: it is of other sizes, or less than this. With `dynamic_batch` an axis is
    open where it grows with the batch; with `sizes`, which the network takes, where one of these heights and widths
    changes it. Where nothing is open, shape inference finds the values between inputs and outputs by itself. What
    depends on the values of inputs is open too, as far as shape inference does not know it.
    """
    assert network.given is not None and isinstance(network.module, OnnxModule)
    graph, inputs, module = network.given.graph, network.inputs, network.module
    batch = batch_of(x.shape for x in network.examples) or 1
    others = [doubled(inputs)] if dynamic_batch else []
    others += [_at_size(inputs, size) for size in sizes or ()]
    seen = [
        {name: tuple(x.shape) for name, x in each.items()} | module.shapes(*each.values()) for each in (inputs, *others)
    ]
    outer = (*graph.inputs, *graph.outputs)
    moving = _sized_by_values(graph, module)
    said = {tensor.name: tensor.shape for tensor in graph.outputs}
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable):
            known = name in seen[0] and name not in moving and (bool(others) or tensor in outer)
            axes = zip(*(each[name] for each in seen), strict=True) if known else None
            tensor.shape = None if axes is None else [_axis(found, batch) for found in axes]
    for tensor in graph.inputs:
        if sizes is not None and len(tensor.shape) == 4:
            tensor.shape = [*tensor.shape[:2], HEIGHT, WIDTH]
    if moving:
        with outputs_inferred(graph):
            infer_shapes(graph)
    for tensor in graph.outputs:
        if tensor.name in moving:
            tensor.shape = _known_axes(tensor.shape, said[tensor.name], seen[0][tensor.name])
        if isinstance(tensor, gs.Variable):
            tensor.shape = [f"{tensor.name}_{k}" if n is None else n for k, n in enumerate(tensor.shape)]
    return graph


def _sized_by_values(graph: gs.Graph, module: OnnxModule) -> set[str]:
    """The values whose shapes may depend on the numbers fed: what follows from `SIZED_BY_VALUES`."""
    found: set[str] = set()
    for node in graph.nodes:
        says = [t for i, t in enumerate(node.inputs) if i in SIZED_BY.get(node.op, ()) and not t.is_empty()]
        moves = node.op in SIZED_BY_VALUES or any(t.name not in module.known for t in says)
        if moves or any(t.name in found for t in node.inputs if isinstance(t, gs.Variable)):
            found |= {t.name for t in node.outputs} - module.known
    return found


def _known_axes(
    inferred: Sequence[int | str | None] | None, said: Sequence[int | str | None] | None, seen: Sequence[int]
) -> list[int | str | None]:
    """What shape inference knows of an output, else what the file says where that is so; None elsewhere."""
    known: list[int | str | None] = []
    for k, size in enumerate(seen):
        a, b = (None if axes is None or len(axes) != len(seen) else axes[k] for axes in (inferred, said))
        known.append(a if isinstance(a, int) or a == BATCH else size if b == size else None)
    return known


def _axis(found: tuple[int, ...], batch: int) -> int | str | None:
    """An axis of these sizes, the first at a batch and size, the others at twice the batch and at other sizes.

    None where it is open, but not the batch itself.
    """
    if len(set(found)) == 1:
        return found[0]
    only_batch = (
        found[0] == batch and found[1] == 2 * batch and len(set(found[2:])) <= 1 and found[2:3] in ((), (batch,))
    )
    return BATCH if only_batch else None


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Twice as many images."""
    batch = batch_of(x.shape for x in inputs.values())
    return {name: torch.cat((x, x)) if has_batch(x.shape, batch) else x for name, x in inputs.items()}


def _at_size(inputs: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """The images as if they were of this size: repeated, and cut."""
    found = {}
    for name, x in inputs.items():
        if x.dim() == 4:
            height, width = (-(-n // have) for n, have in zip(size, x.shape[2:], strict=True))
            x = x.repeat(1, 1, height, width)[:, :, : size[0], : size[1]]
        found[name] = x
    return found


# ------------------------------------------------------------------ what the file must be


def _refuse_options(source: str, request: Request) -> None:
    given = {
        "--checkpoint": request.checkpoint is not None,
        "--random-init": request.random_init is not None,
        "--ema": request.ema is not None,
        "--slope": request.slope is not None,
        "--layout": request.layout != "auto",
        "--set": bool(request.options),
    }
    wrong = [option for option, is_given in given.items() if is_given]
    if wrong:
        raise SourceError(f"{source} is an ONNX file, which has its weights and form: {wrong[0]} given; leave it out")


def _fix_defaults(graph: gs.Graph) -> None:
    """Make a constant of each input that has a value in the file."""
    held: Held = vars(graph)["held"]
    inputs = {t.name: t for t in graph.inputs}
    for default in held.defaults:
        values = held.arrays.get(default.name)
        tensor = inputs.pop(default.name)
        tensor.to_constant(values if values is not None else numpy_helper.to_array(default))
    graph.inputs[:] = inputs.values()
    held.defaults, held.arrays = [], {}


def _check_outputs(name: str, module: OnnxModule, inputs: Mapping[str, Tensor]) -> None:
    """Raise SourceError unless all outputs are tensors, of finite numbers."""
    shapes = "; ".join(",".join(map(str, x.shape)) for x in inputs.values())
    remedy = "give a larger --input-shape" if len(inputs) == 1 else "give larger inputs"
    try:
        with torch.no_grad():
            outputs = _tuple(module(*inputs.values()))
    except PlainconvError:
        raise
    except Exception as error:
        raise SourceError(f"{name} cannot take an input of shape {shapes}: {first_line(error)}; {REMEDY}") from error
    for output, y in zip(module.output_names, outputs, strict=True):
        if not isinstance(y, Tensor):
            raise SourceError(f"{name} gives a list of tensors as {output}; wanted tensors; {REMEDY}")
        if not bool(torch.isfinite(y).all()):
            raise SourceError(
                f"{name} gives NaN or infinity as {output} for a normal input; wanted finite ones: see to its weights"
            )
    empty = next((o for o, y in zip(module.output_names, outputs, strict=True) if not y.numel()), None)
    if empty is not None:
        raise SourceError(f"{name} gives an empty output {empty}; {remedy}, or real ones by --inputs F.npz")


def _why_not_apart(module: OnnxModule, inputs: Mapping[str, Tensor], batch: int) -> str | None:
    """f([a; b]) = [f(a); f(b)], in float64; else why not."""
    others = {name: _other(x) if has_batch(x.shape, batch) else x for name, x in inputs.items()}
    pairs = zip(inputs.values(), others.values(), strict=True)
    joined = tuple(torch.cat((a, b)) if has_batch(a.shape, batch) else a for a, b in pairs)
    try:
        together = _tuple(float64_outputs(module, joined, may_copy=False))
    except Exception as error:  # whatever a graph made for one batch size meets
        return first_line(error)
    alone = [_tuple(float64_outputs(module, tuple(each.values()), may_copy=False)) for each in (inputs, others)]
    for name, y, y_a, y_b in zip(module.output_names, together, *alone, strict=True):
        if y_a.shape != y_b.shape:
            return f"its output {name} has another shape for other numbers"
        if not y_a.dim() or y.shape != (2 * y_a.shape[0], *y_a.shape[1:]):
            return f"its output {name} has no batch axis"
        if not _close(y, torch.cat((y_a, y_b))):
            return f"its output {name} {MIXED}"
    return None


def _other(example: Tensor) -> Tensor:
    """Another example of the same numbers."""
    return example.roll(1, -1) if example.is_floating_point() else (1 - example.to(torch.int64)).to(example.dtype)


def _close(y: Tensor, wanted: Tensor) -> bool:
    if not y.is_floating_point():
        return bool((y == wanted).double().mean() > SAME)
    return float((y - wanted).abs().max()) <= APART * float(y.abs().max())


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _sha256(path: Path) -> str:
    """The hash of the file and of those that its weights lie in, as one thing."""
    proto, _ = split(path, SMALL)
    tensors = [t for t in (*proto.graph.initializer, *inner_tensors(proto)) if not is_stub(t)]
    beside = {place(t, path)[0] for t in tensors if t.data_location == TensorProto.EXTERNAL}
    root = path.parent.resolve()
    files = {path.name: path} | {str(p.relative_to(root)): p for p in beside}
    return sha256_of_files({name: FileRecord(p.stat().st_size, sha256_of_file(p)) for name, p in files.items()})
