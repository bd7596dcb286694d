"""`exporter triton`: a bundle as models in a repository of Triton Inference Server."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle, plain_json
from .arguments import count, devices

if TYPE_CHECKING:
    from plainconv.engines.triton.repository import TritonModel, TritonPlan

SUMMARY = "write a bundle as models of Triton Inference Server"
MAX_INT32 = 2**31 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up `exporter triton`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the model repository")
    parser.add_argument("--name", default="", help="of the model (default: the network's)")
    parser.add_argument("--force", action="store_true", help="replace models of the name that this command wrote")
    prune = "remove parts of earlier versions, once Triton runs the new one; before that, requests are in them"
    parser.add_argument("--prune", action="store_true", help=prune)
    staging = "write there first: on the repository's file system, where Triton does not look (default: beside it)"
    parser.add_argument("--staging", type=Path, metavar="DIR", help=staging)
    engines = ("auto", "tensorrt", "onnxruntime")
    parser.add_argument("--engine", choices=engines, default="auto", help="what runs it (default: TensorRT, else ONNX)")
    parser.add_argument("--precision", default="auto", metavar="P", help="which of its precisions, such as fp16")
    parser.add_argument("--whole", action="store_true", help="one model, though the bundle has the network split")
    parser.add_argument("--devices", type=_devices, metavar="0,1,2", help=_DEVICES)
    parser.add_argument(
        "--instances", type=count(1, MAX_INT32), default=1, metavar="N", help="of each model on each device"
    )
    parser.add_argument(
        "--max-batch", type=count(1, MAX_INT32), metavar="N", help="the largest batch (default: what engines take)"
    )
    parser.add_argument(
        "--max-delay-us", type=count(1, MAX_INT32), default=0, metavar="N", help="wait as long for requests to batch"
    )


_DEVICES = "GPUs, one for each device of a split; or cpu (default: 0,1,… for TensorRT, cpu for ONNX Runtime)"


def _devices(text: str) -> tuple[int, ...]:
    try:
        return () if text == "cpu" else devices(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or cpu") from None


def run(args: argparse.Namespace) -> None:
    """Do it, and print what was written.

    Raises:
        BundleError: BUNDLE does not open.
        EngineError: it lacks what is asked for, Triton could not serve it so, or DIR cannot be written.

    """
    from plainconv.engines.triton.repository import TritonOptions, write_repository

    options = TritonOptions(
        name=args.name,
        engine=args.engine,
        precision=args.precision,
        whole=args.whole,
        devices=args.devices,
        instances=args.instances,
        max_batch=args.max_batch,
        max_delay_us=args.max_delay_us,
    )
    how = {"force": args.force, "prune": args.prune, "staging": args.staging}
    plan = write_repository(Bundle.open(args.bundle), args.output, options, **how)
    if args.json:
        print(json.dumps(_as_json(args.output, plan), indent=2))
    else:
        _print(args.output, plan)


def _as_json(repository: Path, plan: "TritonPlan") -> dict[str, Any]:
    return {
        "repository": str(repository),
        "name": plan.name,
        "precision": plan.precision,
        "models": [
            {
                "name": model.name,
                "runtime": model.runtime,
                "file": next(iter(model.files.values()), None),
                "devices": _devices_of(model),
                "instances": model.instances if model.files else None,
                "max_batch_size": model.max_batch,
                "max_delay_us": model.delay_us,
                "inputs": plain_json(model.inputs),
                "outputs": plain_json(model.outputs),
            }
            for model in plan.models
        ],
        "notes": list(plan.notes),
    }


def _devices_of(model: "TritonModel") -> Sequence[int] | str | None:
    """GPUs; "all" of the server; "cpu"; None for an ensemble, which its parts compute."""
    if not model.files:
        return None
    return "cpu" if model.gpus is None else list(model.gpus) or "all"


def _print(repository: Path, plan: "TritonPlan") -> None:
    from .table import rows_table

    files = [] if plan.models[-1].steps else [*plan.models[-1].files.values()]
    rows_table(
        [" · ".join([str(repository), f"{plan.name} {plan.precision}", *files, "every file checked"]), *plan.notes],
        ["model", "runtime", "device", "largest batch"],
        [
            [model.name, model.runtime, _device_words(model), str(model.max_batch) if model.max_batch else "fixed"]
            for model in plan.models
        ],
    )


def _device_words(model: "TritonModel") -> str:
    devices = _devices_of(model)
    if isinstance(devices, list):
        return f"GPU {','.join(map(str, devices))}"
    return {"cpu": "CPU", "all": "every GPU"}.get(str(devices), "")
