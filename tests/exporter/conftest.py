"""Small networks with two branches, exported once, and what a command that fails must leave as it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from plainconv.exporter.bundle import Bundle
from plainconv.exporter.cli.main import main
from plainconv.exporter.partition import Part, Plan
from plainconv.exporter.progress import be_quiet

BRANCHES = """
    [stem] a = Conv<pads=[1,1,1,1]>(input, w0) r = Relu(a)
    [left_0] b = Conv<pads=[1,1,1,1]>(r, w1) s = Relu(b)
    [left_1] c = Conv<pads=[1,1,1,1]>(s, w2) t = Relu(c)
    [right_0] d = Conv<pads=[1,1,1,1]>(r, w3) u = Relu(d)
    [right_1] e = Conv<pads=[1,1,1,1]>(u, w4) v = Relu(e)
    [join] y = Add(t, v)
    m = GlobalAveragePool(y) f = Flatten(m)
    [head] logits = Gemm<transB=1>(f, w5, b5)"""
WEIGHTS = {"w0": (8, 3, 3, 3), **{f"w{i}": (8, 8, 3, 3) for i in range(1, 5)}, "w5": (3, 8), "b5": (3,)}
CHAIN = """
    [stem] a = Conv<pads=[1,1,1,1]>(input, w0) r = Relu(a)
    [next] b = Conv<pads=[1,1,1,1]>(r, w1) y = Relu(b)
    m = GlobalAveragePool(y) f = Flatten(m)
    [head] logits = Gemm<transB=1>(f, w5, b5)"""


def make_branches(path: Path, batch: str = "1", size: str = "8,8", text: str = BRANCHES) -> Path:
    """A stem, two branches of two convs on it, their sum, and a head: three classes of images."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> net (float[{batch},3,{size}] input) => (float[{batch},3] logits)'
        f"{{ {text} }}"
    )
    for name, shape in WEIGHTS.items():
        if f"{name}," in text or f"{name})" in text:
            values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, path)
    return path


def four_parts(**changed: Part) -> Plan:
    """Stem, left branch and head on device 0, the right branch on device 1; some of them `changed`."""
    parts = {
        "stem": Part("stem", 0, 0, ("input",), ("r",)),
        "left": Part("left", 0, 0, ("r",), ("t",)),
        "right": Part("right", 1, 0, ("r",), ("v",)),
        "head": Part("head", 0, 0, ("t", "v"), ("logits",)),
    }
    return Plan(tuple((parts | changed).values()), 2)


@pytest.fixture(scope="session")
def branches(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Bundles of the networks above, exported once, and files to split them by.

    `bundle` and `open_batch` are of the one with branches, `chain` of one without; `plan` is `four_parts`, by which it
    loses on an A100, `slow` a profile with which it pays; `make`, `four_parts` and `of`, a copy of one, make more.
    """
    folder = tmp_path_factory.mktemp("branches")
    made: tuple[tuple[str, Path, list[str]], ...] = (
        ("bundle", make_branches(folder / "branches.onnx"), []),
        ("open_batch", make_branches(folder / "open.onnx", "N"), ["--dynamic-batch", "1:2:4"]),
        ("chain", make_branches(folder / "chain.onnx", text=CHAIN), []),
    )
    for name, path, options in made:
        assert main(["export", str(path), "-o", str(folder / name), "--quiet", "--json", *options]) == 0
    be_quiet(False)
    nodes = onnx.load(folder / "bundle" / "model.onnx").graph.node
    (folder / "slow.json").write_text(json.dumps({node.name: 1e-3 for node in nodes}))
    (folder / "plan.json").write_text(four_parts().to_json())

    def of(name: str, target: Path) -> Path:
        return Path(shutil.copytree(folder / name, target))

    return SimpleNamespace(
        bundle=folder / "bundle",
        open_batch=folder / "open_batch",
        chain=folder / "chain",
        source=folder / "branches.onnx",
        slow=folder / "slow.json",
        plan=folder / "plan.json",
        make=make_branches,
        four_parts=four_parts,
        of=of,
    )


@pytest.fixture
def said_once(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and gives the one line that it says; bundle and folder are as they were."""

    def run(path: Path, *arguments: Any, code: int = 2) -> str:
        before, inode, beside = Bundle.open(path).sha256, path.stat().st_ino, sorted(path.parent.iterdir())
        try:
            result = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # of the parser
            result = int(str(stop.code))
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if not line.startswith("exporter: warning: ")]
        assert (result, said.out, len(lines)) == (code, "", 1), said
        assert (Bundle.open(path).sha256, path.stat().st_ino) == (before, inode)
        assert sorted(path.parent.iterdir()) == beside
        return lines[0]

    return run
