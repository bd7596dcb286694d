"""The options of `exporter serve --ray`, as the server takes them."""

import sys
from typing import Any

import pytest

from plainconv.engines.serving.backend import load_here
from plainconv.engines.serving.ray.options import RayOptions
from plainconv.exporter.cli import ray_options
from plainconv.exporter.cli.arguments import Parser
from plainconv.exporter.errors import EngineError

_OPTIONS = ("--autoscale-option", "upscale_delay_s=5", "--autoscale-option", "aggregation_function=max")


def parsed(*arguments: str) -> Any:
    parser = Parser(prog="exporter serve")
    parser.add_argument("path")
    ray_options.add_arguments(parser)
    return parser.parse_args(["out/v6", *arguments])


def options_of(*arguments: str) -> Any:
    return ray_options.ray_options_of(parsed(*arguments))


def test_without_ray() -> None:
    """Given no --ray -> no options, this process loads, and Ray is not imported."""
    assert options_of() is None
    before = set(sys.modules)
    with ray_options.loader_of(parsed()) as (loader, _):
        assert loader is load_here
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] == "ray"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--ray"], RayOptions()),
        (["--ray", "local"], RayOptions(address="local")),
        (["--ray", "auto"], RayOptions(address="auto")),
        (["--ray", "head.ray.svc:6379"], RayOptions(address="head.ray.svc:6379")),
        (["--ray", "[::1]:6379"], RayOptions(address="[::1]:6379")),
        (
            ["--ray", "--replicas", "4", "--gpus-per-replica", "1", "--cpus-per-replica", "2.5"],
            RayOptions(replicas=4, gpus=1.0, cpus=2.5),
        ),
        (["--ray", "--gpus-per-replica", "0.25", "--replica-start", "90"], RayOptions(gpus=0.25, start_s=90.0)),
        (["--ray", "--autoscale", "0:8"], RayOptions(autoscale=(0, 8))),
        (
            ["--ray", "--autoscale", "1:8", "--target-ongoing", "1.5", *_OPTIONS],
            RayOptions(
                autoscale=(1, 8),
                target_ongoing=1.5,
                autoscaling={"upscale_delay_s": 5, "aggregation_function": "max"},
            ),
        ),
    ],
)
def test_options(given: list[str], wanted: Any) -> None:
    assert options_of(*given) == wanted


@pytest.mark.parametrize(
    ("options", "most"), [(RayOptions(replicas=3), 3), (RayOptions(replicas=3, autoscale=(1, 8)), 8)]
)
def test_most(options: Any, most: int) -> None:
    """Given a number of replicas, or its bounds -> how many there may be."""
    assert options.most == most


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--replicas", "2"], "--replicas given without --ray; add --ray, or leave it out"),
        (["--gpus-per-replica", "1"], "--gpus-per-replica given without --ray; add --ray, or leave it out"),
        (["--cpus-per-replica", "0"], "--cpus-per-replica given without --ray; add --ray, or leave it out"),
        (["--autoscale", "1:2"], "--autoscale given without --ray; add --ray, or leave it out"),
        (["--target-ongoing", "1"], "--target-ongoing given without --ray; add --ray, or leave it out"),
        (["--autoscale-option", "a=1"], "--autoscale-option given without --ray; add --ray, or leave it out"),
        (["--replica-start", "9"], "--replica-start given without --ray; add --ray, or leave it out"),
        (["--ray", "--target-ongoing", "1"], "--target-ongoing given without --autoscale; add --autoscale MIN:MAX"),
        (["--ray", "--autoscale-option", "a=1"], "--autoscale-option given without --autoscale; add"),
        (["--ray", "--replicas", "2", "--autoscale", "1:2"], "both --replicas and --autoscale given; give the number"),
    ],
)
def test_options_that_do_not_fit(given: list[str], said: str) -> None:
    """Given one without the other that it needs -> one line."""
    with pytest.raises(EngineError) as raised:
        options_of(*given)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--ray", "out/v6"],
            "'out/v6' is no address of a Ray cluster; wanted HOST:PORT, auto or local, and PATH before",
        ),
        (["--ray", "ray://head:10001"], "'ray://head:10001' is no address of a Ray cluster"),
        (["--ray", "head:6379:1"], "is no address"),
        (["--replicas", "0"], "'0' is not a whole number from 1 to"),
        (["--gpus-per-replica", "1.5"], "'1.5' GPUs cannot be given; wanted a whole number, or a part of one"),
        (["--gpus-per-replica", "-1"], "'-1' is not an amount; wanted a number like 2 or 0.5"),
        (["--cpus-per-replica", "nan"], "'nan' is not an amount"),
        (["--cpus-per-replica", "two"], "'two' is not an amount"),
        (["--autoscale", "3:2"], "'3:2' is not a range of replicas; wanted MIN:MAX like 1:8"),
        (["--autoscale", "0:0"], "'0:0' is not a range of replicas"),
        (["--autoscale", "4"], "'4' is not a range of replicas"),
        (["--autoscale", "-1:2"], "'-1:2' is not a range of replicas"),
        (["--target-ongoing", "0"], "'0' is too little; wanted a number above 0"),
        (["--autoscale-option", "upscale_delay_s"], "wanted NAME=VALUE like upscale_delay_s=5"),
    ],
)
def test_bad_values(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Given what is no value of the option -> one line, exit code 2."""
    with pytest.raises(SystemExit) as raised:
        parsed(*(f"{given[0]}={given[1]}" if len(given) == 2 else each for each in given[:1]))
    error = capsys.readouterr().err
    assert raised.value.code == 2 and said in error and error.count("\n") == 1
