"""Ten faults planted in bundles of whole networks, and the module that `exporter validate BUNDLE --layers` names.

    python tests/benchmarks/table_faults.py                    # all networks, most of an hour on two cores
    python tests/benchmarks/table_faults.py digits_detector

Networks have their real depth and width, random weights (seed 0; the detector its trained ones), and small images. int8
takes in the layers of random networks whatever they are off by (`--tolerance 9`). A fault is named where the first
module at fault is in the form tampered with, and the module tampered with is the one, or among those named with it. Of
sound bundles no module may be named. Exits with 1 unless all hold.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
from places import ASSETS
from planted import attribute, change, planted

from plainconv.exporter.cli.main import main as exporter
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.randomize import randomized
from plainconv.exporter.source.resolve import load_network
from plainconv.models import create

HEAD = "| network | fault | planted in | found in | module named | by itself | rounding | s |"
SOURCE = """
from torch import nn

from plainconv.models import create


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(3)


def other_eps():
    network = create({name!r})
    network.get_submodule({norm!r}).eps *= 100
    return network


def mirrored():
    network = create({name!r})
    network.set_submodule({flipped!r}, nn.Sequential(Flip(), network.get_submodule({flipped!r})))
    return network
"""
FP32, FP16, INT8, PARTS = "ONNX (ONNX Runtime)", "ONNX fp16", "ONNX int8", "fp32 in parts"


@dataclass(frozen=True)
class Spec:
    """A network: its image, a module to mirror the input of, how it is split, and options of its own."""

    shape: tuple[int, ...]
    flipped: str
    split: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()


NETWORKS = {
    "vanillanet_9": Spec((1, 3, 64, 64), "stages.4", options=("--slope", "1")),
    "parnet_s": Spec((1, 3, 64, 64), "streams.1.2", ("--devices", "2", "--force")),
    "repvgg_a0": Spec((1, 3, 64, 64), "stage3.4"),
    "digits_detector": Spec(
        (1, 1, 96, 96), "coarse", ("--devices", "2", "--force"), calibration=("scenes_heldout.npz",)
    ),
}


@dataclass(frozen=True)
class Fault:
    """What is planted: in a file of which bundle, by what, in which form it is to be found."""

    name: str
    bundle: str
    form: str
    plant: Callable[[onnx.ModelProto], str]


# ------------------------------------------------------------------ faults: each edits a graph, and says in which node


def one_weight_off(model: onnx.ModelProto) -> str:
    """The largest weight of a conv, by 1 %."""
    node = _middle(model, lambda n: n.op_type == "Conv")

    def edit(w: np.ndarray) -> None:
        w.flat[np.argmax(np.abs(w))] *= 1.01

    change(model, node.input[1], edit)
    return node.name


def slice_dropped(model: onnx.ModelProto) -> str:
    """The Slice that reverses the columns: what it is read by reads its input."""
    backwards = _middle(model, lambda n: n.op_type == "Slice" and _constant(model, n.input[4]).tolist() == [-1])
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == backwards.output[0]:
                node.input[i] = backwards.input[0]
    reader = next(n for n in model.graph.node if backwards.input[0] in n.input and n is not backwards)
    model.graph.node.remove(backwards)
    return reader.name


def channels_swapped(model: onnx.ModelProto) -> str:
    """The first two of a conv's output."""
    node = _middle(model, lambda n: n.op_type == "Conv")
    for name in node.input[1:]:
        change(model, name, lambda w: w[[1, 0, *range(2, len(w))]])
    return node.name


def pad_moved(model: onnx.ModelProto) -> str:
    """One row of a conv's padding from the top to the bottom."""
    node = _middle(model, lambda n: n.op_type == "Conv" and any(_ints(n, "pads")))
    top, left, bottom, right = _ints(node, "pads")
    attribute(node, "pads", [top - 1, left, bottom + 1, right])
    return node.name


def stride_wrong(model: onnx.ModelProto) -> str:
    """1 in the place of 2, of a conv or pool in the middle."""
    node = _middle(model, lambda n: n.op_type in ("Conv", "MaxPool") and _ints(n, "strides") == [2, 2])
    attribute(node, "strides", [1, 1])
    return node.name if node.op_type == "Conv" else _conv_before(model, node).name


def overflow(model: onnx.ModelProto) -> str:
    """Weights of a conv in float16 near the largest that there is."""
    half = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    node = _middle(model, lambda n: n.op_type == "Conv" and n.input[1] in half)
    for name in node.input[1:]:
        change(model, name, lambda w: np.clip(w.astype(np.float64) * 1e6, -6e4, 6e4))
    return node.name


def scale_doubled(model: onnx.ModelProto) -> str:
    """The scale of what a quantized conv reads."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def is_quantized(node: onnx.NodeProto) -> bool:
        made = [makers.get(name) for name in node.input[:2]]
        return node.op_type == "Conv" and all(m is not None and m.op_type == "DequantizeLinear" for m in made)

    node = _middle(model, is_quantized)
    scale = makers[node.input[0]].input[1]
    change(model, scale, lambda x: x * 2)
    return node.name


def weights_stale(model: onnx.ModelProto) -> str:
    """All weights of a conv of a part, by a thousandth."""
    node = _middle(model, lambda n: n.op_type == "Conv")
    change(model, node.input[1], lambda w: w * 0.999)
    return node.name


FAULTS = (
    Fault("one weight off by 1 %", "fp32", FP32, one_weight_off),
    Fault("swapped channels", "fp32", FP32, channels_swapped),
    Fault("a pad moved", "fp32", FP32, pad_moved),
    Fault("a wrong stride", "fp32", FP32, stride_wrong),
    Fault("a reversed Slice dropped", "mirrored", FP32, slice_dropped),
    Fault("fp16 overflow", "fp16", FP16, overflow),
    Fault("one int8 scale ×2", "int8", INT8, scale_doubled),
    Fault("a stale part of a split", "split", PARTS, weights_stale),
)
FILES = {FP32: "model.onnx", FP16: "model.fp16.onnx", INT8: "model.int8.onnx"}


def _middle(model: onnx.ModelProto, wanted: Callable[[onnx.NodeProto], bool]) -> onnx.NodeProto:
    found = [node for node in model.graph.node if wanted(node)]
    return found[len(found) // 2]


def _ints(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])


def _constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def _conv_before(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.NodeProto:
    makers = {name: each for each in model.graph.node for name in each.output}
    while node.op_type != "Conv":
        node = makers[node.input[0]]
    return node


# ------------------------------------------------------------------ bundles, and what is said of them


class Bench:
    """The bundles of one network in a folder, and the command on them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.spec, self.folder = name, NETWORKS[name], folder
        network = create(name)
        norms = [key for key, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
        self.norm = norms[len(norms) // 2]
        (folder / "faulty.py").write_text(SOURCE.format(name=name, norm=self.norm, flipped=self.spec.flipped))
        trained = ASSETS / f"{name}.pth"
        if trained.exists():
            weights = load_network(name, Request(checkpoint=trained)).module.state_dict()
        else:
            image = torch.randn(self.spec.shape, generator=torch.Generator().manual_seed(0))
            weights = randomized(network.eval(), 0, image).state_dict()
        inner = {f"{self.spec.flipped}.": f"{self.spec.flipped}.1."}
        self.weights = {"plain": folder / "plain.pth", "mirrored": folder / "mirrored.pth"}
        torch.save(weights, self.weights["plain"])
        torch.save({_renamed(key, inner): value for key, value in weights.items()}, self.weights["mirrored"])

    def make(self) -> None:
        """The sound ones."""
        images = [word for file in self.spec.calibration for word in ("--calibration", str(ASSETS / file))]
        lenient = [] if images else ["--tolerance", "9"]
        self._export(self.name, "fp32", "plain", *self.spec.options)
        self._export(f"{self.folder / 'faulty.py'}:mirrored", "mirrored", "mirrored")
        for made in ("fp16", "int8", "split"):
            shutil.copytree(self.folder / "fp32", self.folder / made)
        for precision, more in (("fp16", images), ("int8", images + lenient)):
            _run("build", self.folder / precision, "--precision", precision, "--engine", "none", *more)
        plan = self.spec.split
        if not plan:
            (self.folder / "plan.json").write_text(json.dumps(self._in_two()))
            plan = ("--plan", str(self.folder / "plan.json"), "--force")
        _run("split", self.folder / "split", *plan)

    def _export(self, source: str, bundle: str, weights: str, *options: str) -> None:
        shape = ",".join(map(str, self.spec.shape))
        arguments = ["--checkpoint", self.weights[weights], "--input-shape", shape, *options, "--skip-end-to-end"]
        _run("export", source, *arguments, "-o", self.folder / bundle)

    def _in_two(self) -> dict[str, Any]:
        """A plan of two parts, of a chain."""
        graph = onnx.load(self.folder / "fp32" / "model.onnx").graph
        relus = [node for node in graph.node if node.op_type == "Relu"]
        cut, first, last = relus[len(relus) // 2].output[0], graph.input[0].name, graph.output[0].name
        ends = (("first", 0, first, cut), ("second", 1, cut, last))
        parts = [{"name": n, "device": d, "reads": [r], "writes": [w]} for n, d, r, w in ends]
        return {"format": "plainconv-plan", "format_version": 1, "devices": 2, "parts": parts}

    def validate(self, bundle: Path, source: str = "", weights: str = "plain", *options: str) -> dict[str, Any]:
        """What `exporter validate --layers` prints, and how long it took."""
        started = time.perf_counter()
        checkpoint = ["--checkpoint", self.weights[weights]]
        given = options if source or options else self.spec.options
        found = _run("validate", bundle, "--layers", source or self.name, *checkpoint, *given, is_check=True)
        return {**found, "seconds": time.perf_counter() - started}

    def rows(self) -> Iterator[tuple[str, bool]]:
        """Each line of the table, and whether it is as it should be."""
        mirrored, other_eps = (f"{self.folder / 'faulty.py'}:{name}" for name in ("mirrored", "other_eps"))
        for bundle in ("fp32", "fp16", "int8", "split", "mirrored"):
            source = (mirrored, "mirrored") if bundle == "mirrored" else ()
            yield self._row(f"none ({bundle})", "", "", self.validate(self.folder / bundle, *source))
        for fault in FAULTS:
            target = self.folder / "planted"
            planted_in = self._planted(fault, target)
            source = (mirrored, "mirrored") if fault.bundle == "mirrored" else ()
            yield self._row(fault.name, planted_in, fault.form, self.validate(target, *source))
            shutil.rmtree(target)
        found = self.validate(self.folder / "fp32", other_eps)
        yield self._row("a norm's eps", self.norm, FP32, found)
        if "--slope" in self.spec.options:
            found = self.validate(self.folder / "fp32", "", "plain", "--slope", "0.9")
            yield self._row("slope .9", "stem1", FP32, found)

    def _planted(self, fault: Fault, target: Path) -> str:
        bundle, file, said = self.folder / fault.bundle, FILES.get(fault.form), ""
        if file is None:  # the part with most convs
            parts = json.loads((bundle / "manifest.json").read_text())["splits"][0]["parts"]
            file = max((part["file"] for part in parts), key=lambda f: (bundle / f).stat().st_size)

        def edit(model: onnx.ModelProto) -> None:
            nonlocal said
            said = fault.plant(model)

        planted(bundle, target, file, edit)
        return said

    def _row(self, fault: str, planted_in: str, form: str, found: dict[str, Any]) -> tuple[str, bool]:
        at = found["fault"]
        if at is None:
            cells, named = ["", "none", "", ""], not planted_in
        else:
            cells = [at["step"], at["module"], _number(at["local"]), _number(at["tolerance"])]
            named = bool(planted_in) and at["step"] == form and _is_of(planted_in, [at["module"], *at["within"]])
        mark = "" if named else " ✗"
        line = [self.name, fault, planted_in, cells[0], cells[1] + mark, *cells[2:], f"{found['seconds']:.0f}"]
        return f"| {' | '.join(line)} |", named


def _is_of(planted_in: str, modules: list[str]) -> bool:
    """Whether a node, named after a module, is of one of these modules, or of one within them."""
    node = planted_in.replace(".", "_")
    return any(m and (f"{m}_".startswith(f"{node}_") or f"{node}_".startswith(f"{m}_")) for m in map(_plain, modules))


def _plain(module: str) -> str:
    return module.replace(".", "_")


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.1e}"


def _renamed(key: str, starts: dict[str, str]) -> str:
    return next((new + key.removeprefix(old) for old, new in starts.items() if key.startswith(old)), key)


def _run(*arguments: Any, is_check: bool = False) -> dict[str, Any]:
    """The JSON that a command prints. A failed check is an outcome, what cannot be run ends it all."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = exporter([*map(str, arguments), "--json", "--quiet"])
    if code not in ((0, 1) if is_check else (0,)):
        raise SystemExit(f"exporter {' '.join(map(str, arguments))}: {code}\n{said.getvalue()}")
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def main() -> int:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--keep", type=Path, help="a folder for the bundles; what is there is taken as it is")
    args = parser.parse_args()
    print(f"{HEAD}\n{'|---' * HEAD.count(' | ')}|---|", flush=True)
    wrong = 0
    for name in args.networks:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.keep / name if args.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            bench = Bench(name, folder)
            if not (folder / "split").exists():
                bench.make()
            for line, named in bench.rows():
                print(line, flush=True)
                wrong += not named
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
