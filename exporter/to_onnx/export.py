"""A network as an ONNX file: `torch.onnx`'s exporter, its weights never copied, its outcome the same each time."""

import copy
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir
import torch
from torch import nn

from ..errors import ExportError, one_line
from ..onnx_file.file import LARGE, check, graph_from_proto, write
from ..onnx_file.wire import STUB
from ..parity.inputs import batch_of, has_batch
from ..quiet import quiet
from ..version import __version__
from . import MAX_OPSET, MIN_OPSET
from .attention import attention_in_rank_4
from .custom_ops import custom_translations
from .exactly import exact_constants
from .lowering import floor_negative_divisions, lower, needs_lowering
from .shuffles import gather_from_shuffles
from .translations import names_to_translate, translating

LOGGERS = ("torch", "torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
"""What the exporter logs to."""
BATCH, HEIGHT, WIDTH = "batch", "height", "width"
AXES = {0: BATCH, 2: HEIGHT, 3: WIDTH}
"""The names of the axes that may be open, by their place."""


def onnx_from_module(
    module: nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("logits",),
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    opset: int = MIN_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write `module` to `path` as an ONNX file that passes `onnx.checker` in full; the same input gives the same bytes.

    Past 2 GB, the most that one protobuf message holds, the weights go to `path` + ".data" beside it.

    Args:
        module: an eval-mode network; neither it nor its weights are changed or copied.
        example: its inputs; their shapes are those of the file.
        path: the file to write.
        input_names: the file's names of the inputs, in order.
        output_names: the file's names of the outputs, in order.
        dynamic_batch: leave the first axis of every input that has the batch there open, under the name "batch".
        dynamic_size: leave the axes 2 and 3 of every image of the first one's size open, as "height" and "width".
        opset: of the standard operators, `MIN_OPSET` to `MAX_OPSET`.
        metadata: kept in the file, as `metadata_props`.

    Raises:
        ExportError: `module` is in train mode or cannot be traced; it does what ONNX cannot express; the number of
            names does not fit; `opset` is out of range; the file cannot be written.

    """
    graph = graph_from_module(
        module,
        example,
        input_names=input_names,
        output_names=output_names,
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        opset=opset,
    )
    write(graph, path, metadata)
    check(path)
    return path


def graph_from_module(
    module: nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("logits",),
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    opset: int = MIN_OPSET,
) -> gs.Graph:
    """As `onnx_from_module`, without a file: a graph whose large weights are views of the module's own tensors."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset}: want {MIN_OPSET} to {MAX_OPSET}; choose one with --opset")
    inputs = example if isinstance(example, tuple) else (example,)
    _refuse_train_mode(module)
    _refuse_count("input", len(input_names), len(inputs))
    with quiet(*LOGGERS), redirect_stdout(io.StringIO()), torch.no_grad():
        axes = open_axes([x.shape for x in inputs], batch=dynamic_batch, size=dynamic_size)
        flat = _contiguous(module)
        program = _traced(flat, inputs, axes)
        _refuse_count("output", len(output_names), len(program.graph_signature.user_outputs))
        names = list(input_names), list(output_names)
        try:
            chosen = names_to_translate(program, custom_translations())
            try:
                exported = _onnx_program(program, opset, *names, chosen)
            except Exception:  # an op that types are promoted by, which is none of these
                if chosen is None:
                    raise
                exported = _onnx_program(_traced(flat, inputs, axes), opset, *names, None)
        except Exception as error:  # the exporter wraps whatever an operator's translation raises
            raise ExportError(_unsupported(error)) from error
    if exported is None:
        raise ExportError("torch.onnx returned no program; report the network that it was given")
    graph = _graph_from_ir(exported.model)
    if dynamic_size:
        gather_from_shuffles(graph)
    if graph.opset != opset:
        raise ExportError(
            f"torch.onnx wrote opset {graph.opset}: cannot convert this network to {opset}; try --opset 20"
        )
    return graph


def _onnx_program(
    program: torch.export.ExportedProgram,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    translated: set[str] | None,
) -> torch.onnx.ONNXProgram | None:
    """What PyTorch's exporter makes of the trace."""
    with exact_constants(), translating(translated):
        return torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=input_names,
            output_names=output_names,
            custom_translation_table=custom_translations(),
        )


def open_axes(shapes: Sequence[Sequence[int]], *, batch: bool, size: bool) -> list[tuple[int, ...]]:
    """For each input which of its axes are open: the first where that is the batch, 2 and 3 of images of one size."""
    images = batch_of(shapes)
    first = next((tuple(s[2:]) for s in shapes if len(s) == 4), None)
    return [
        (0,) * (batch and has_batch(s, images)) + (2, 3) * (size and len(s) == 4 and tuple(s[2:]) == first)
        for s in shapes
    ]


def _refuse_train_mode(module: nn.Module) -> None:
    """Raise where dropout or batch statistics would be exported as they are in training."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    traced = isinstance(module, torch.fx.GraphModule)  # its own flag means nothing: the trace has decided
    for name, part in module.named_modules():
        if part.training and (isinstance(part, kinds) or (part is module and not traced)):
            raise ExportError(
                f"{name or type(module).__name__} is in train mode, want eval mode; call .eval() before export"
            )


def _refuse_count(what: str, names: int, found: int) -> None:
    if names != found:
        raise ExportError(f"{names} {what} names for {found} {what}s; give one name for each")


def _contiguous(module: nn.Module) -> nn.Module:
    """`module`, or a copy that shares all its weights but those whose layout would take ops to undo."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(t.stride() == _c_strides(t) for t in tensors):
        return module
    laid_out: dict[int, Any] = {}
    for t in tensors:
        # An axis of size 1 may have any stride and say "channels last" by it: give it the one of C order.
        flat = t.detach().contiguous().as_strided(t.shape, _c_strides(t))
        laid_out[id(t)] = nn.Parameter(flat, t.requires_grad) if isinstance(t, nn.Parameter) else flat
    return copy.deepcopy(module, laid_out)


def _c_strides(t: torch.Tensor) -> tuple[int, ...]:
    return tuple(prod(t.shape[axis + 1 :]) for axis in range(t.dim()))


def _traced(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], of_inputs: Sequence[tuple[int, ...]]
) -> torch.export.ExportedProgram:
    """The network with these axes of each input open. Raises ExportError where it cannot be, with what holds it."""
    shapes, axes = None, tuple(sorted({axis for each in of_inputs for axis in each}))
    # torch.export takes a size of 1 for a constant: trace two images.
    pairs = zip(inputs, of_inputs, strict=True)
    inputs = tuple(torch.cat([t, t]) if 0 in own and t.shape[0] == 1 else t for t, own in pairs)
    if axes:
        batch = torch.export.Dim(BATCH)
        shapes = tuple({axis: torch.export.Dim.AUTO if axis else batch for axis in own} for own in of_inputs)
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
        if needs_lowering(program.graph_module):
            lowered = lower(program.module(), inputs)
            program = torch.export.export(lowered, inputs, dynamic_shapes=shapes)
        if axes:
            _refuse_open_attributes(program, axes)
            floor_negative_divisions(program.graph)
        attention_in_rank_4(program.graph)
    except ExportError:
        raise
    except Exception as error:  # anything that the network's own code raises reaches us here
        found = one_line(error).partition(" While executing ")[0].rstrip(". ")
        if axes:
            raise ExportError(f"the network does not take every {_open(axes)} ({found}); {_closed(axes)}") from error
        raise ExportError(
            f"torch.export cannot trace {type(module).__name__} ({found}); try it eagerly with the same input first"
        ) from error
    if 2 in axes:
        _refuse_fixed_size(program, of_inputs)
    return program


def _open(axes: tuple[int, ...]) -> str:
    """The open axes in words."""
    return " or ".join(["batch"] * (0 in axes) + ["height and width"] * (2 in axes))


def _closed(axes: tuple[int, ...]) -> str:
    """What to do where an axis cannot be open."""
    return f"leave {' and '.join(['--dynamic-batch'] * (0 in axes) + ['--dynamic-size'] * (2 in axes))} out"


def _refuse_open_attributes(program: torch.export.ExportedProgram, axes: tuple[int, ...]) -> None:
    """Raise where a convolution's groups follow from an open size (kernels of each image's own): ONNX fixes them."""
    for node in program.graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target.overloadpacket.__name__.startswith("conv"):
            continue
        given = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False)) | node.kwargs
        if isinstance(given.get("groups"), torch.fx.Node):
            raise ExportError(
                f"{node.name} has as many groups as {_open(axes)} says, which an ONNX file fixes; {_closed(axes)}"
            )


def _refuse_fixed_size(program: torch.export.ExportedProgram, of_inputs: Sequence[tuple[int, ...]]) -> None:
    """Raise where the trace took a height or width for a number, or one for the other."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.find_nodes(op="placeholder") if node.name in names]
    for node in (node for node, own in zip(nodes, of_inputs, strict=True) if 2 in own):
        height, width = (str(n) for n in node.meta["val"].shape[2:4])
        for name, size in ((HEIGHT, height), (WIDTH, width)):
            if size.isdigit():
                raise ExportError(f"the network fixes its {name} to {size}; leave --dynamic-size out")
        if height == width:
            raise ExportError(
                "the network takes squares alone, height and width cannot differ; leave --dynamic-size out"
            )


def _unsupported(error: BaseException) -> str:
    """What the exporter could not translate, in one line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"torch.onnx cannot express the network ({one_line(cause)}); replace that operation in the network by others"


def _graph_from_ir(model: onnx_ir.Model) -> gs.Graph:
    """The exporter's model as a `gs.Graph` that shares its large weights' memory, free of notes on this machine."""
    weights: dict[str, np.ndarray] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LARGE:
            weights[name] = tensor.numpy()
            shape = onnx_ir.Shape(tensor.shape.numpy())
            value.const_value = onnx_ir.ExternalTensor(STUB, 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
    graph = graph_from_proto(onnx_ir.to_proto(model), weights)
    graph.name, graph.doc_string = "plainconv", ""
    graph.producer_name, graph.producer_version = "plainconv", __version__
    _name_nodes(graph)
    _name_axes(graph)
    return graph


def _name_nodes(graph: gs.Graph) -> None:
    """Name a node after the module whose weight it reads ("stages.0.conv"), else as the trace does ("max_pool2d_1")."""
    taken: set[str] = set()
    for node in graph.nodes:
        weights = [t.name for t in node.inputs if isinstance(t, gs.Constant) and t.name.endswith(".weight")]
        name = weights[0].removesuffix(".weight") if weights else node.name.removeprefix("node_")
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name


def _name_axes(graph: gs.Graph) -> None:
    """Call the open axes of the inputs "batch", "height" and "width"; the trace gives them numbers of its own.

    Those of two images have one name, whether the network holds them to be equal or not: they are opened as one size.
    """
    names: dict[str, str] = {}
    for tensor in graph.inputs:
        for axis, symbol in enumerate(tensor.shape or ()):
            if isinstance(symbol, str):
                names.setdefault(symbol, AXES[axis])
    if not names:
        return
    spelled = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for tensor in [*graph.tensors().values(), *graph.inputs]:
        if isinstance(tensor, gs.Variable) and tensor.shape is not None:
            tensor.shape = [
                spelled.sub(lambda found: names[found[1]], size) if isinstance(size, str) else size
                for size in tensor.shape
            ]
