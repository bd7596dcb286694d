"""The builder's options of each part: the profiles of the network, as they are where the part begins."""

import dataclasses

import numpy as np
import onnx
import pytest

from plainconv.engines import BuildOptions
from plainconv.exporter.bundle import (
    Bundle,
    PartRecord,
    ShapeRange,
    SplitRecord,
    TensorSpec,
    update_bundle,
    write_bundle,
)
from plainconv.exporter.cli.main import main
from plainconv.exporter.errors import EngineError
from plainconv.exporter.partition import Part, Plan, read_model, wiring_of, write_parts
from plainconv.exporter.pipeline.part_options import part_options
from plainconv.exporter.pipeline.split import SplitJob, _tensors, split_bundle
from plainconv.exporter.progress import be_quiet


@pytest.fixture(autouse=True)
def _quiet():
    be_quiet(True)
    yield
    be_quiet(False)


@pytest.fixture(scope="module")
def open_size(branches, tmp_path_factory):
    """The network of branches whose batch, height and width are open, split into four parts."""
    folder = tmp_path_factory.mktemp("open")
    path = branches.make(folder / "net.onnx", "N", "H,W")
    shapes = ["--dynamic-batch", "1:2:4", "--dynamic-size", "8x8:8x16:16x16"]
    assert main(["export", str(path), "-o", str(folder / "b"), "--quiet", "--json", *shapes]) == 0
    split_bundle(folder / "b", SplitJob(plan=branches.plan, force=True))
    return folder / "b"


def options_of(path, **changes):
    opened = Bundle.open(path)
    return dict(part_options(opened, opened.splits[0], BuildOptions(**changes)))


def covered(channels, *shapes):
    return ShapeRange(*((batch, channels, *size) for batch, size in shapes))


def test_a_fixed_network_has_no_profiles(branches, tmp_path):
    """Given fixed shapes → each part's options are the network's."""
    path = branches.of("bundle", tmp_path / "b")
    split_bundle(path, SplitJob(plan=branches.plan, force=True))
    wish = {"targets": ("sm89",), "tf32": True, "workspace": 2**20, "optimization_level": 1}
    found = options_of(path, **wish)
    assert list(found) == ["stem", "left", "right", "head"]
    assert set(found.values()) == {BuildOptions(**wish)}


def test_profiles_of_an_open_batch_reach_every_part(branches, tmp_path):
    """Given several profiles → each part has as many, in their order, for its own inputs; the rest stays."""
    path = branches.of("open_batch", tmp_path / "b")
    split_bundle(path, SplitJob(plan=branches.plan, force=True))
    ranges = ((1, 1, 2), (4, 8, 8))
    size = (8, 8)
    profiles = tuple({"input": covered(3, *((batch, size) for batch in each))} for each in ranges)
    found = options_of(path, profiles=profiles, targets=("sm86",))
    inside = tuple(covered(8, *((batch, size) for batch in each)) for each in ranges)
    assert {name: options.profiles for name, options in found.items()} == {
        "stem": profiles,
        "left": tuple({"r": each} for each in inside),
        "right": tuple({"r": each} for each in inside),
        "head": tuple({"t": each, "v": each} for each in inside),
    }
    assert {options.targets for options in found.values()} == {("sm86",)}


def test_profiles_of_open_sizes_reach_every_part(open_size):
    """Given ranges of batch, height and width → the smallest, usual and largest shape of each part's inputs."""
    corners = ((1, (8, 8)), (2, (8, 16)), (4, (16, 16)))
    found = options_of(open_size, profiles=({"input": covered(3, *corners)},))
    assert found["stem"].profiles == ({"input": covered(3, *corners)},)
    assert found["head"].profiles == ({"t": covered(8, *corners), "v": covered(8, *corners)},)


def test_a_typed_graph_has_its_own_parts(branches, tmp_path):
    """Given the split of a graph of a lower precision → the shapes of its values, under its names."""
    path = branches.of("open_batch", tmp_path / "b")
    job = ["build", str(path), "--engine", "none", "--precision", "fp16", "--quiet", "--json"]
    assert main(job) == 0
    split_bundle(path, SplitJob(plan=branches.plan, force=True, precisions=("fp16",)))
    profile = {"input": covered(3, *((n, (8, 8)) for n in (1, 2, 4)))}
    found = options_of(path, profiles=(profile,))
    assert found["right"].profiles == ({"r": covered(8, *((n, (8, 8)) for n in (1, 2, 4)))},)


def test_a_part_of_fixed_shapes_in_an_open_network_has_none(tmp_path):
    """Given a part that reads only what has one size at every batch → it has no profile, the others theirs."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]> net (float[batch,3,8,8] input) => (float[batch,3,8,8] y) {
            [mean] m = ReduceMean<keepdims=1>(input, first) [gate] g = Sigmoid(m) [much] y = Mul(input, g)
        }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    path = tmp_path / "b"
    write_bundle_of(model, path)
    parts = (
        Part("mean", 0, 0, ("input",), ("m",)),
        Part("gate", 0, 0, ("m",), ("g",)),
        Part("much", 0, 0, ("input", "g"), ("y",)),
    )
    record_split(path, Plan(parts, 1))
    profile = {"input": covered(3, *((n, (8, 8)) for n in (1, 2, 4)))}
    found = {name: options.profiles for name, options in options_of(path, profiles=(profile,)).items()}
    fixed = covered(3, *((1, (8, 8)) for _ in range(3)))
    assert found == {"mean": (profile,), "gate": (), "much": ({**profile, "g": fixed},)}


def test_a_shape_that_only_a_run_tells_is_refused(tmp_path):
    """Given a part that reads what NonZero found → one line that names part and value; without profiles nothing."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]> net (float[batch,3,8,8] input) => (float[4,K] y) {
            [find] i = NonZero(input) [cast] f = Cast<to=1>(i) [tail] y = Relu(f)
        }"""
    )
    path = tmp_path / "b"
    write_bundle_of(model, path)
    record_split(path, Plan((Part("find", 0, 0, ("input",), ("f",)), Part("tail", 0, 0, ("f",), ("y",))), 1))
    profile = {"input": covered(3, *((n, (8, 8)) for n in (1, 2, 4)))}
    with pytest.raises(EngineError, match="part tail: the shape of f is not known before it runs") as raised:
        options_of(path, profiles=(profile,))
    assert "\n" not in str(raised.value) and str(raised.value).endswith("split it elsewhere")
    assert [options.profiles for options in options_of(path).values()] == [(), ()]


def test_a_split_of_no_graph_is_refused(open_size):
    """Given a record of a precision that the bundle lacks → as where it is asked for."""
    opened = Bundle.open(open_size)
    split = dataclasses.replace(opened.splits[0], precision="fp16")
    profile = {"input": covered(3, *((n, (8, 8)) for n in (1, 2, 4)))}
    with pytest.raises(EngineError, match="there is no fp16 graph in the bundle"):
        list(part_options(opened, split, BuildOptions(profiles=(profile,))))


def write_bundle_of(model, path):
    """A bundle of a model that `exporter export` would not certify."""
    with write_bundle(path) as draft:
        for what, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
            specs = []
            for value in values:
                axes = value.type.tensor_type.shape.dim
                shape = tuple(axis.dim_param or axis.dim_value for axis in axes)
                specs.append(TensorSpec(value.name, "float32", shape))
            setattr(draft.manifest, what, tuple(specs))
        onnx.save(model, draft.path("model.onnx"))
        draft.link("source", sha256="c" * 64)
        draft.link_onnx()


def record_split(path, plan):
    """The split by `plan` in the bundle, without its parts being held to the whole."""
    with update_bundle(path) as draft:
        model = read_model(draft.file("model.onnx"))
        wiring = wiring_of(model)
        draft.path("parts/fp32/plan").parent.mkdir(parents=True, exist_ok=True)
        write_parts(model, plan, draft.folder / "parts/fp32")
        parts = []
        for at, part in enumerate(plan.parts):
            writers = {value: plan.writer(value, at) for value in part.reads}
            parts.append(
                PartRecord(
                    part.name, f"parts/fp32/{part.name}.onnx", "", 0, 0,
                    _tensors(part.reads, wiring), _tensors(part.writes, wiring),
                    {value: None if w is None else plan.parts[w].name for value, w in writers.items()},
                )
            )  # fmt: skip
        onnx_sha256 = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
        results = {spec.name: plan.parts[-1].name for spec in draft.manifest.outputs}
        draft.add_split(SplitRecord("fp32", onnx_sha256, 1, 1, tuple(parts), results))
