"""A module at hand to a bundle: what the command line does for SOURCE."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..bundle import Bundle, Preprocessing
from ..errors import PlainconvWarning, SourceError
from ..reparam import unwrapped
from ..source.names import NAME, file_safe, snake_case
from ..source.network import Network, Request
from ..source.resolve import network_from_module
from ..source.shapes import MAX_SIZE, Batches
from .build import LEFT_OUT, BuildJob
from .export import Job, export_bundle


def export(
    module: nn.Module,
    example_inputs: Any,
    out: Path | str,
    *,
    name: str | None = None,
    data: Mapping[str, Any] | None = None,
    dynamic_batch: Batches | None = None,
    dynamic_size: Sequence[int | tuple[int, int]] | None = None,
    opset: int | None = None,
    eval_data: Path | str | None = None,
    preprocessing: str | Path | Mapping[str, Any] | Preprocessing | None = None,
    postprocess: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    nms: str | None = None,
    fold_preprocessing: bool = False,
    precision: str | Sequence[str] = ("fp32",),
    engine: str = "none",
    calibration: Path | str | None = None,
    tolerance: float | None = None,
    check: bool = True,
    force: bool = False,
) -> Bundle:
    """Write the bundle `out` of `module` as it computes in eval mode on the CPU; the module itself is not changed.

    Args:
        module: any network, on any device.
        example_inputs: what it is called with: a tensor, a tuple of arguments, or a dict of keyword arguments; each a
            tensor, or lists, tuples and dicts of them. The bundle's inputs have the names of forward's parameters.
        out: the folder to write.
        name: the bundle's; by default the name of the module's class, in snake case.
        data: arrays [n, …] by the names of inputs: parity is measured on these rows, too.
        dynamic_batch: the smallest, usual and largest batch, which is then open.
        dynamic_size: the smallest, usual and largest (height, width), or side of a square, which are then open.
        opset: of the ONNX file.
        eval_data: labelled images, as `--eval-data` takes them: accuracy, mIoU or AP is counted at every step.
        preprocessing: how an image becomes the input: a preset's name, a JSON file, its content, or the record.
        postprocess: what the outputs mean: "classify[:k]", "segment", "detect[:score,iou,max]" or "none".
        classes: their names, or a file of them.
        nms: "plain" or "node": put a detector's non-maximum suppression into the graph, by a Loop or NonMaxSuppression.
        fold_preprocessing: put scale, mean, std, colour and layout into the graph, which then takes bytes.
        precision: one or several of fp32, fp16, bf16, int8, fp8, …
        engine: "tensorrt_rtx", "tensorrt" or "auto" to build engines; "none" for ONNX graphs alone.
        calibration: an .npz file of images that lower precisions are calibrated and judged on.
        tolerance: of lower precisions, instead of their own.
        check: compare the plain network with `module` at other sizes, too.
        force: replace a bundle that is there.

    Raises:
        PlainconvError: for whatever the command line ends with exit code 2 on.
        CheckFailedError: a parity or an accuracy does not hold; no bundle is written.

    """
    if not isinstance(module, nn.Module):
        raise SourceError(
            f"{type(module).__name__} is no torch.nn.Module; export(module, example_inputs, out) wants one"
        )
    if name is not None and not NAME.fullmatch(name):
        raise SourceError(f"{name!r} is no name of a file; wanted up to 64 letters, digits, '.', '-' and '_'")
    inner = unwrapped(module)
    called = file_safe(snake_case(type(inner).__name__))

    def load(request: Request) -> Network:
        return network_from_module(_copied(inner), request, example_inputs, called, data)

    batch, size = _ascending("dynamic_batch", dynamic_batch), _ascending("dynamic_size", dynamic_size, axes=2)
    precisions = (precision,) if isinstance(precision, str) else tuple(precision)
    build = BuildJob(
        precisions=precisions,
        engine=engine,
        shapes=((batch, size),),
        calibration=_path(calibration),
        tolerance=tolerance,
        eval_data=_path(eval_data),
    )
    job = Job(
        source=f"{type(inner).__module__}:{type(inner).__qualname__}",
        request=Request(name=name),
        target=Path(out),
        force=force,
        dynamic_batch=batch,
        dynamic_size=size,
        opset=opset,
        eval_data=_path(eval_data),
        end_to_end=check,
        preprocessing=preprocessing,
        postprocess=postprocess,
        classes=classes,
        fold=fold_preprocessing,
        nms=nms,
        build=None if engine == "none" and precisions == ("fp32",) else build,
        load=load,
    )
    bundle = Bundle.open(export_bundle(job))
    for each in bundle.manifest.extra.get(LEFT_OUT) or ():
        warnings.warn(f"{out} lacks {each['precision']}: {each['reason']}", PlainconvWarning, stacklevel=2)
    return bundle


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _ascending(what: str, given: Any, axes: int = 1) -> Any:
    """Three numbers, or of several axes three tuples of them, a number for all of these; None stays.

    Raises SourceError unless 1 <= MIN <= OPT <= MAX.
    """
    if given is None:
        return None
    try:
        found = tuple((n,) * axes if isinstance(n, int) else tuple(n) for n in given)
        ascend = all(1 <= low <= usual <= high <= MAX_SIZE for low, usual, high in zip(*found, strict=True))
    except (TypeError, ValueError):
        found, ascend = (), False
    if not ascend or not found or len(found[0]) != axes:
        raise SourceError(f"{what} is {given}; wanted three that ascend from 1, like (1, 8, 32)")
    return found if axes > 1 else tuple(n for (n,) in found)


def _copied(module: nn.Module) -> nn.Module:
    """A copy on the CPU that shares the parameters that lie there, which nothing writes to."""
    shared: dict[int, Any] = {}
    for part in module.modules():
        for value in (*vars(part).values(), *part._parameters.values()):
            if isinstance(value, nn.Parameter) and not is_lazy(value):
                shared[id(value)] = nn.Parameter(value.detach().cpu(), requires_grad=False)
            elif (
                isinstance(value, Tensor) and value.grad_fn is not None
            ):  # as weight_norm leaves one, made by a forward
                shared[id(value)] = value.detach().clone()
    with torch.no_grad():
        return copy.deepcopy(module, shared).cpu()
