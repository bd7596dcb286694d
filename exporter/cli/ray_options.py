"""The options of `exporter serve --ray`: where the cluster is, how many replicas, what each of them gets."""

import argparse
import ast
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import EngineError
from .arguments import count, number

if TYPE_CHECKING:
    from plainconv.engines.serving.backend import Loader
    from plainconv.engines.serving.ray.options import RayOptions

_ADDRESS = re.compile(r"local|auto|(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
_NO_AMOUNT = "is not an amount; wanted a number like 2 or 0.5"
_amount = number(_NO_AMOUNT, 1e6)
_some = number(_NO_AMOUNT, 1e6, zero="is too little; wanted a number above 0")
_FLAGS = {
    "replicas": "--replicas",
    "cpus_per_replica": "--cpus-per-replica",
    "gpus_per_replica": "--gpus-per-replica",
    "autoscale": "--autoscale",
    "target_ongoing": "--target-ongoing",
    "autoscale_option": "--autoscale-option",
    "replica_start": "--replica-start",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Set up the options of `--ray`."""
    ray = parser.add_argument_group("replicas on a Ray cluster, which --workers then counts in each")
    ray.add_argument(
        "--ray", nargs="?", const="", type=_address, metavar="HOST:PORT", help="of the cluster; also auto, local"
    )
    ray.add_argument("--replicas", type=count(1), metavar="N", help="of each model (default 1)")
    ray.add_argument("--gpus-per-replica", type=_gpus, metavar="N", help="a part of one, as 0.5, shares it (default 0)")
    ray.add_argument("--cpus-per-replica", type=_amount, metavar="N", help="cores of a replica (default 1)")
    ray.add_argument("--autoscale", type=_least_most, metavar="MIN:MAX", help="as many replicas as the load asks for")
    ray.add_argument("--target-ongoing", type=_some, metavar="N", help="batches of a replica to scale to (--workers)")
    ray.add_argument(
        "--autoscale-option",
        action="append",
        type=_option,
        metavar="NAME=VALUE",
        help="of Ray Serve's AutoscalingConfig, such as upscale_delay_s=5",
    )
    ray.add_argument("--replica-start", type=_some, metavar="S", help="to find a place and be ready (default 600)")


def ray_options_of(args: argparse.Namespace) -> "RayOptions | None":
    """The options as the cluster takes them, None without --ray. Raises EngineError where they do not fit together."""
    from plainconv.engines.serving.ray.options import RayOptions

    given = {name: value for name in _FLAGS if (value := getattr(args, name)) is not None}
    if args.ray is None:
        if given:
            raise EngineError(f"{_FLAGS[next(iter(given))]} given without --ray; add --ray, or leave it out")
        return None
    if args.autoscale is None:
        for name in ("target_ongoing", "autoscale_option"):
            if name in given:
                raise EngineError(f"{_FLAGS[name]} given without --autoscale; add --autoscale MIN:MAX")
    elif "replicas" in given:
        raise EngineError("both --replicas and --autoscale given; give the number of replicas, or its bounds")
    return RayOptions(
        address=args.ray,
        replicas=given.get("replicas", 1),
        cpus=given.get("cpus_per_replica", 1.0),
        gpus=given.get("gpus_per_replica", 0.0),
        autoscale=args.autoscale,
        target_ongoing=args.target_ongoing,
        autoscaling=dict(given.get("autoscale_option", ())),
        start_s=given.get("replica_start", 600.0),
    )


@contextmanager
def loader_of(args: argparse.Namespace) -> Iterator[tuple["Loader", Callable[[], None] | None]]:
    """What makes bundles into backends: this process, or with --ray a cluster, which is left at the end.

    Beside it what makes a load give up, which may take minutes on a cluster, None where it takes none.

    Raises EngineError where Ray is missing, there is no cluster, or an option does not fit another.
    """
    options = ray_options_of(args)
    if options is None:
        from plainconv.engines.serving.backend import load_here

        yield load_here, None
        return
    from plainconv.engines.serving.ray.backend import RayCluster

    with RayCluster(options) as cluster:
        yield cluster.load, cluster.give_up


def _address(text: str) -> str:
    if text and not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address of a Ray cluster; wanted HOST:PORT, auto or local, and PATH before --ray"
        )
    return text


def _gpus(text: str) -> float:
    value = _amount(text)
    if value > 1 and value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} GPUs cannot be given; wanted a whole number, or a part of one")
    return value


def _least_most(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    numbers = [int(part) if part.isascii() and part.isdecimal() else -1 for part in (least, most)]
    if not (0 <= numbers[0] <= numbers[1] <= 100_000 and numbers[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of replicas; wanted MIN:MAX like 1:8")
    return numbers[0], numbers[1]


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not an option; wanted NAME=VALUE like upscale_delay_s=5")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
