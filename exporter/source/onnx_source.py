"""An ONNX file as SOURCE: its graph, the module that evaluates it, and what it says of inputs and outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from ..bundle.manifest import DTYPES, FileRecord, sha256_of_files
from ..bundle.reader import sha256_of_file
from ..errors import PlainconvError, SourceError, first_line
from ..onnx_file.external import place
from ..onnx_file.file import SMALL, check, read, refuse_unknown_types
from ..onnx_file.held import Held, inner_tensors
from ..onnx_file.wire import is_stub, split
from ..onnx_module import REMEDY, OnnxModule, module_from_onnx
from ..parity.widen import float64_outputs
from ..surgery.edit import sort
from .network import Given, Network, Request

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
APART = 1e-9
"""How far, of the largest output, images evaluated together may be from those evaluated alone, in float64."""


def network_from_onnx(source: str, request: Request) -> Network:
    """The network in the ONNX file `source`, at the shape that the file and --input-shape give.

    Raises:
        ExportError: the file is missing or no sound ONNX file.
        SourceError: it is not a network of one input of numbers and of outputs of finite floats.

    """
    _refuse_options(source, request)
    path = Path(source)
    check(path, full=False)
    graph, metadata = read(path)
    sort(graph)
    refuse_unknown_types(graph)
    _fix_defaults(graph)
    example = _example(_only_input(graph), request.input_shape, request.usual_size)
    module = module_from_onnx(graph)
    _check_outputs(path.name, module, example)
    given = Given(graph, metadata)
    sha256 = _sha256(path)
    provenance = {"source": source, "file": {"name": path.name, "sha256": sha256, "opset": graph.opset}}
    return Network(path.stem, module, example, {}, provenance, sha256, given=given)


def settle_batch(network: Network, *, dynamic: bool) -> None:
    """See whether images keep apart in the graph; one that does not, or is made for one batch size, is held to that.

    Raises SourceError where it has to be `dynamic`.
    """
    assert isinstance(network.module, OnnxModule)
    if not dynamic and network.example.shape[0] != 1:
        return  # then nothing but this batch is evaluated
    reason = _why_not_apart(network.module, network.example)
    if reason is None:
        return
    if dynamic:
        raise SourceError(
            f"{network.name} is made for a batch of {network.example.shape[0]} ({reason}); leave --dynamic-batch out, "
            "or write the ONNX file again with an open batch axis"
        )
    network.module.batch = int(network.example.shape[0])


def graph_at(network: Network, *, dynamic_batch: bool, sizes: tuple[tuple[int, int], ...] | None = None) -> gs.Graph:
    """The graph of the file with the shapes that its values have for the example input, what is asked for left open.

    What the file says of them is forgotten: it is of other sizes, or less than this. With `dynamic_batch` an axis is
    open where it grows with the batch; with `sizes`, which the network takes, where one of these heights and widths
    changes it. Where nothing is open, shape inference finds the values between inputs and outputs by itself.
    """
    assert network.given is not None and isinstance(network.module, OnnxModule)
    graph, example, module = network.given.graph, network.example, network.module
    others = [torch.cat((example, example))] if dynamic_batch else []
    others += [_at_size(example, size) for size in sizes or ()]
    source = graph.inputs[0].name
    small, *large = ({source: tuple(x.shape)} | module.shapes(x) for x in (example, *others))
    outer = (*graph.inputs, *graph.outputs)
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable):
            known = name in small and (bool(others) or tensor in outer)
            axes = zip(small[name], *(each[name] for each in large), strict=True) if known else None
            tensor.shape = None if axes is None else [_axis(found, int(example.shape[0])) for found in axes]
    if sizes is not None:
        graph.inputs[0].shape = [*graph.inputs[0].shape[:2], HEIGHT, WIDTH]
        for tensor in graph.outputs:
            tensor.shape = [f"{tensor.name}_{k}" if n is None else n for k, n in enumerate(tensor.shape)]
    return graph


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


def _at_size(example: Tensor, size: tuple[int, int]) -> Tensor:
    """The example as if it were of this size: repeated, and cut."""
    height, width = (-(-n // have) for n, have in zip(size, example.shape[2:], strict=True))
    return example.repeat(1, 1, height, width)[:, :, : size[0], : size[1]]


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


def _only_input(graph: gs.Graph) -> Any:
    if len(graph.inputs) != 1:
        names = ", ".join(t.name for t in graph.inputs) or "none"
        raise SourceError(f"the ONNX file has {len(graph.inputs)} inputs ({names}), wanted one; {REMEDY}")
    found = graph.inputs[0]
    dtype = np.dtype(found.dtype).name if not isinstance(found.dtype, int) else TensorProto.DataType.Name(found.dtype)
    if dtype not in DTYPES:
        raise SourceError(f"the input {found.name} is {dtype.lower()}, wanted one of {', '.join(DTYPES)}; {REMEDY}")
    return found


def _example(tensor: Any, wanted: tuple[int, ...] | None, usual_size: tuple[int, int] | None = None) -> Tensor:
    """A seeded input of the shape that the file says, its open axes from `wanted`; an open batch is 1.

    An open height and width are of `usual_size`, unless `wanted` says them.
    """
    said = tensor.shape if tensor.shape is not None else [None] * len(wanted or ())
    if wanted is None and usual_size is not None and len(said) == 4:
        sizes = [n if isinstance(n, int) else size for n, size in zip(said[2:], usual_size, strict=True)]
        said = [*said[:2], *sizes]
    if wanted is None:
        wanted = tuple(size if isinstance(size, int) else 1 for size in said)
        if tensor.shape is None or not all(isinstance(size, int) for size in said[1:]):
            axes = ",".join(str(size) for size in tensor.shape or ("N", "C", "H", "W"))
            raise SourceError(f"{_spelled(tensor)} has open axes; give --input-shape {axes} with a number for each")
    fits = len(wanted) == len(said) and all(not isinstance(a, int) or a == b for a, b in zip(said, wanted, strict=True))
    if not fits:
        shape = ",".join(map(str, wanted))
        raise SourceError(f"--input-shape is {shape}, but the ONNX file fixes {_spelled(tensor)}; give one that fits")
    if not wanted or not all(wanted):
        raise SourceError(f"{_spelled(tensor)} holds no images, wanted a first axis of 1 or more; {REMEDY}")
    dtype = np.dtype(tensor.dtype)
    rng = np.random.default_rng(0)
    values = rng.standard_normal(wanted) if dtype.kind == "f" else rng.integers(0, 2, wanted)
    return torch.from_numpy(values.astype(dtype))


def _spelled(tensor: Any) -> str:
    axes = "unknown rank" if tensor.shape is None else ",".join(str(s) if s is not None else "?" for s in tensor.shape)
    return f"the input {tensor.name} [{axes}]"


def _check_outputs(name: str, module: OnnxModule, example: Tensor) -> None:
    """Raise SourceError unless all outputs are finite floats."""
    try:
        with torch.no_grad():
            outputs = _tuple(module(example))
    except PlainconvError:
        raise
    except Exception as error:
        sizes = ",".join(map(str, example.shape))
        raise SourceError(f"{name} cannot take an input of shape {sizes}: {first_line(error)}; {REMEDY}") from error
    for output, y in zip(module.output_names, outputs, strict=True):
        if not y.is_floating_point():
            found = str(y.dtype).removeprefix("torch.")
            raise SourceError(f"{name} gives {found} numbers as {output}; wanted floats: the scores, before any argmax")
        if y.numel() == 0:
            raise SourceError(f"{name} gives an empty output {output}; give a larger --input-shape")
        if not bool(torch.isfinite(y).all()):
            raise SourceError(
                f"{name} gives NaN or infinity as {output} for a normal input; wanted finite ones: see to its weights"
            )


def _why_not_apart(module: OnnxModule, example: Tensor) -> str | None:
    """f([a; b]) = [f(a); f(b)], in float64; else why not."""
    other = example.roll(1, -1) if example.is_floating_point() else 1 - example.to(torch.int64)
    pair = (example, other.to(example.dtype))
    try:
        together = _tuple(float64_outputs(module, (torch.cat(pair),), may_copy=False))
    except Exception as error:  # whatever a graph made for one batch size meets
        return first_line(error)
    alone = [_tuple(float64_outputs(module, (x,), may_copy=False)) for x in pair]
    for name, y, y_a, y_b in zip(module.output_names, together, *alone, strict=True):
        if not y_a.dim() or y.shape != (2 * y_a.shape[0], *y_a.shape[1:]):
            return f"its output {name} has no batch axis"
        if float((y - torch.cat((y_a, y_b))).abs().max()) > APART * float(y.abs().max()):
            return f"its output {name} for one image depends on the others"
    return None


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
