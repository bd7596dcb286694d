"""SOURCE, as a user writes it, to an nn.Module in eval mode with its weights loaded.

NAME                      a network of ours, with --checkpoint or --random-init
timm:NAME                 a timm network (pretrained unless told otherwise)
FILE.py:CALLABLE          the user's own network: CALLABLE() returns an nn.Module
package.module:CALLABLE   the same, imported from the working folder or the environment
FILE.onnx                 an ONNX file; the network is its graph, evaluated node by node
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from plainconv import models
from plainconv.models.checkpoints import published as checkpoints

from ..bundle import DTYPES, sha256_of_arrays
from ..bundle.presets import Recipe
from ..errors import PlainconvError, SourceError, first_line
from ..reparam import unwrapped
from .images import fitted_to, timm_recipe
from .inputs import EXAMPLE, call_of_request, remedy, rows_like
from .lazy import materialize
from .names import file_safe
from .network import Network, Request
from .outputs import flatten, named_outputs
from .randomize import randomized
from .signature import ONLY, Call, signature_of, spelled

DEFAULT_INPUT = (1, 3, 224, 224)
_HALF = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def is_onnx(source: str) -> bool:
    """Whether SOURCE names an ONNX file."""
    return source.lower().endswith(".onnx") and ".py:" not in source


def load_network(source: str, request: Request) -> Network:
    """Resolve SOURCE. Raises SourceError, CheckpointError or, for an ONNX file, ExportError, each in one line."""
    network = _resolved(source, request)
    return replace(network, name=request.name or file_safe(network.name))


def _resolved(source: str, request: Request) -> Network:
    if request.checkpoint is None and (request.key is not None or request.drop):
        raise SourceError("--key or --drop given without --checkpoint; they tell what of a checkpoint to take")
    if is_onnx(source):
        from .onnx_source import network_from_onnx

        return network_from_onnx(source, request)
    if request.checkpoint is not None and request.random_init is not None:
        raise SourceError("both --checkpoint and --random-init given; wanted one of them")
    if request.slope is not None and request.checkpoint is None:
        raise SourceError("--slope given without --checkpoint; it tells the slope that a checkpoint was trained to")
    kind, _, rest = source.rpartition(":") if ".py:" in source else source.partition(":")
    if not rest and (":" in source or source.endswith(".py")):
        wanted = "FILE.py:CALLABLE, module:CALLABLE, timm:NAME or FILE.onnx"
        raise SourceError(f"{source} names a file alone; wanted {wanted}")
    if not rest:
        return _from_catalogue(source, request)
    if request.slope is not None or request.layout != "auto":
        raise SourceError(f"--slope and --layout are for networks of the catalogue, not {source}; leave them out")
    if kind == "timm":
        return _from_timm(source, rest, request)
    return _from_callable(source, kind, rest, request)


# ------------------------------------------------------------------ kinds of source


def _from_catalogue(source: str, request: Request) -> Network:
    entry = models.find(source)
    info: dict[str, Any] = {}
    if request.checkpoint is not None:
        loaded = checkpoints.load_checkpoint(
            source,
            request.checkpoint,
            ema=request.ema,
            layout=request.layout,
            slope=request.slope,
            options=dict(request.options),
            key=request.key,
            drop=request.drop,
        )
        module, checkpoint = loaded.module, loaded.info
        info = _checkpoint_record(checkpoint)
        warnings = tuple(checkpoint.warnings)
    elif request.random_init is not None:
        torch.manual_seed(request.random_init)
        deploy = request.layout == "deploy"
        module = models.create(source, deploy=deploy, **request.options)
        warnings = ()
    else:
        raise SourceError(
            f"{source} has no weights; wanted --checkpoint FILE, or --random-init SEED for a network with random ones"
        )
    network = _network(
        source,
        source,
        module,
        request,
        entry.input_shape,
        entry.preprocessing,
        info,
        warnings,
        f"it takes {entry.takes}",
    )
    network.postprocess = entry.postprocess
    return network


def _from_timm(source: str, name: str, request: Request) -> Network:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise SourceError(f"{source} needs timm ({error}); pip install 'plainconv[timm]'") from error
    pretrained = request.checkpoint is None and request.random_init is None
    try:
        module = timm.create_model(name, pretrained=pretrained, **request.options)
    except Exception as error:
        remedy = "" if not pretrained else "; --checkpoint FILE or --random-init SEED does without a download"
        raise SourceError(f"timm cannot create {name}: {first_line(error)}{remedy}") from error
    config = getattr(module, "pretrained_cfg", {}) or {}
    shape = (1, *config.get("input_size", DEFAULT_INPUT[1:]))
    info, warnings = _load_own_weights(module, request)
    return _network(source, name, module, request, shape, timm_recipe(config), info, warnings)


def _from_callable(source: str, place: str, name: str, request: Request) -> Network:
    build, beside = _find_callable(source, place, name)
    if request.random_init is not None:
        torch.manual_seed(request.random_init)
    try:
        module = build(**request.options)
    except PlainconvError:
        raise
    except (Exception, SystemExit) as error:
        remedy = "; its arguments are given by --set NAME=VALUE" if isinstance(error, TypeError) else ""
        raise SourceError(
            f"{source} raised {type(error).__name__}: {first_line(error)}; wanted an nn.Module{remedy}"
        ) from error
    if not isinstance(module, nn.Module):
        raise SourceError(f"{source} returned {type(module).__name__}; wanted an nn.Module")
    module = unwrapped(module)
    info, warnings = _load_own_weights(module, request)
    example = getattr(beside, EXAMPLE, None)
    called = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return _network(source, called, module, request, DEFAULT_INPUT, None, info, warnings, example=example)


def network_from_module(
    module: nn.Module, request: Request, example: Any, name: str, rows: Mapping[str, Any] | None = None
) -> Network:
    """A module at hand, and what it is called with, as a network; the module is changed: give a copy.

    `rows` are more of its inputs, by name. Raises SourceError as `load_network` does.
    """
    source = f"{type(module).__module__}:{type(module).__qualname__}"
    called = request.name or name
    network = _network(source, called, module, request, DEFAULT_INPUT, None, {}, (), example=lambda: example)
    return replace(network, data=rows_like("data", rows or {}, network.inputs))


def _find_callable(source: str, place: str, name: str) -> tuple[Callable[..., Any], ModuleType]:
    """Import the user's file or module with their folder first on the path; CALLABLE, and the module that it is in."""
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            if not path.is_file():
                raise SourceError(f"{place} is not a file; wanted FILE.py:CALLABLE")
            sys.path.insert(0, str(path.parent))
            alias = path.stem if path.stem not in sys.modules else f"plainconv_source_{path.stem}"
            spec = importlib.util.spec_from_file_location(alias, path)
            assert spec is not None and spec.loader is not None
            module = sys.modules[alias] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
    except SourceError:
        raise
    except (Exception, SystemExit) as error:
        raise SourceError(
            f"{place} cannot be imported: {type(error).__name__}: {first_line(error)}; wanted a file that imports by "
            "itself, or a package.module:CALLABLE of the working folder"
        ) from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise SourceError(f"{source}: {place} has no callable {name}; it has {', '.join(names[:8]) or 'none'}")
    return found, module


def _load_own_weights(module: nn.Module, request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    if request.checkpoint is None:
        return {}, ()
    checkpoint = checkpoints.read_checkpoint(request.checkpoint, key=request.key, drop=request.drop)
    info = checkpoints.load_into(module, checkpoint, ema=request.ema)
    return _checkpoint_record(info), info.warnings


def _checkpoint_record(info: checkpoints.CheckpointInfo) -> dict[str, Any]:
    keys = ("sha256", "weights", "layout", "ema", "epoch", "slope")
    record = {key: getattr(info, key) for key in keys if getattr(info, key) is not None}
    classes = {"classes": info.classes} if info.classes else {}
    return {"file": info.path.name, **record, **classes}


# ------------------------------------------------------------------ what all kinds share


def _network(
    source: str,
    name: str,
    module: nn.Module,
    request: Request,
    default_shape: tuple[int, ...],
    recipe: Recipe | None,
    checkpoint: Mapping[str, Any],
    warnings: tuple[str, ...],
    takes: str = "give one that it can",
    example: Callable[[], Any] | None = None,
) -> Network:
    module.eval()
    if request.usual_size is not None and len(default_shape) == 4:
        default_shape = (*default_shape[:2], *request.usual_size)
    call, data = call_of_request(module, request, default_shape, example)
    warnings += materialize(module, call, request.random_init or 0, remedy(module))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    warnings += _widened(name, module)
    _check_weights(name, module)
    returns = _checked_call(name, module, call, takes)
    if request.random_init is not None:
        randomized(module, request.random_init, call.inputs)
    provenance: dict[str, Any] = {"source": source, "options": dict(request.options)}
    if checkpoint:
        provenance["checkpoint"] = {key: value for key, value in checkpoint.items() if key != "classes"}
    if request.random_init is not None:
        provenance["random_init"] = request.random_init
    sha256 = checkpoint.get("sha256") or weights_sha256(module)
    return Network(
        name,
        module,
        dict(call.inputs),
        fitted_to(recipe, next(iter(call.inputs.values()))),
        provenance,
        sha256,
        warnings,
        returns=returns,
        classes=tuple(checkpoint.get("classes", ())),
        data=data,
    )


def _widened(name: str, module: nn.Module) -> tuple[str, ...]:
    """Widen weights in half precision to float32, which holds every one of them exactly, and say so."""
    held = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.dtype in _HALF]
    if not held:
        return ()
    module._apply(lambda tensor: tensor.float() if tensor.dtype in _HALF else tensor)  # type: ignore[no-untyped-call]
    found = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in held}))
    again = f"--precision {_HALF[held[0]]} makes it that again"
    return (f"{name} has weights in {found}: exported in float32, which holds each exactly; {again}",)


def _check_weights(name: str, module: nn.Module) -> None:
    for key, parameter in module.named_parameters():
        if parameter.device.type != "cpu" or (parameter.is_floating_point() and parameter.dtype != torch.float32):
            found = f"{parameter.dtype} on {parameter.device}".removeprefix("torch.")
            raise SourceError(f"{name}: {key} is {found}; wanted float32 on cpu: return network.float().cpu()")
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise SourceError(f"{key} has {bad} NaN or infinite values; wanted finite weights: take a sound checkpoint")


def _checked_call(name: str, module: nn.Module, call: Call, takes: str) -> tuple[str, ...]:
    """The names of the outputs, once the network has run on its example.

    One that it cannot take is named before any work. From here on the network takes its inputs by position, and
    returns a flat tuple where it returned anything but a tensor.
    """
    only = list(call.inputs) == [ONLY]
    try:
        with torch.no_grad():
            returned = call.run(module)
    except Exception as error:
        why = first_line(error)
        if only:
            found = f"{name} cannot take one float32 input of {call} ({why}); {remedy(module, takes)}"
        else:
            found = f"{name} cannot take {call} ({why}); give what {spelled(signature_of(module))} does"
        raise SourceError(found) from error
    outputs = named_outputs(returned)
    for key, output in outputs.items():
        if str(output.dtype).removeprefix("torch.") not in DTYPES:
            raise SourceError(f"{name} gives {key} in {output.dtype}; wanted one of {', '.join(DTYPES)}: cast it")
        if output.numel() == 0:
            advice = "a larger --input-shape" if only else "larger ones"
            raise SourceError(f"{name} gives an empty output for an input of {call}; give {advice}")
        if not bool(torch.isfinite(output).all()):
            raise SourceError(
                f"{name} gives NaN or infinity for a normal input of {call}; wanted finite outputs: "
                "see to its weights, or train it"
            )
    if not isinstance(returned, Tensor) or not call.is_flat:
        flatten(module, call)
    return tuple(f"{output}_out" if output in call.inputs else output for output in outputs)


def weights_sha256(module: nn.Module) -> str:
    """The hash of the state dict, as BUNDLE.md defines it for the links `initialization` and `plain`."""
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    widened = {
        name: t.float() if t.dtype == torch.bfloat16 else t for name, t in state.items()
    }  # NumPy has no bfloat16
    return sha256_of_arrays({name: tensor.numpy() for name, tensor in widened.items()})
