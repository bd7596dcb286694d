"""Graphs of lower precisions and engines, added to a bundle: once, held to float64, each all or nothing."""

import contextlib
import importlib.util
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from plainconv.engines import building, choice, loading, split_loading
from plainconv.engines.onnxruntime.split import OnnxRuntimeSplitRunner
from plainconv.engines.options import BuildOptions
from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.cli.main import main
from plainconv.exporter.errors import CheckFailedError, EngineError, PlainconvWarning
from plainconv.exporter.onnx_file import ir_graph
from plainconv.exporter.parity import Reference
from plainconv.exporter.partition import Part, Plan
from plainconv.exporter.pipeline import build as build_module
from plainconv.exporter.pipeline import lower_graphs
from plainconv.exporter.pipeline.build import BuildJob, _warn_of_size, build_bundle
from plainconv.exporter.pipeline.export import validate_bundle
from plainconv.exporter.pipeline.split import SplitJob, split_bundle
from plainconv.exporter.pipeline.steps import Steps
from plainconv.exporter.progress import be_quiet

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")


GRAPHS = {"engine": "none"}
RTX = {"engine": "tensorrt_rtx", "builder": BuildOptions(targets=("sm89",))}
OTHER_RTX = RTX | {"builder": BuildOptions(targets=("sm120",))}
SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def _quiet():
    be_quiet(True)
    yield
    be_quiet(False)


def make_onnx(path, batch="1"):
    """Conv, ReLU, conv, ReLU, mean, Gemm: three classes of images 3×8×8, each of about a third of random ones."""
    random = np.random.default_rng(0)
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        net (float[{batch},3,8,8] input) => (float[{batch},3] logits) {{
            [first] a = Conv <pads = [1, 1, 1, 1]> (input, w0, b0)  r = Relu(a)
            [second] b = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)  s = Relu(b)
            m = GlobalAveragePool(s)  f = Flatten(m)
            [head] logits = Gemm <transB = 1> (f, w2, b2)
        }}"""
    )
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "b1": (8,), "w2": (3, 8), "b2": (3,)}
    for name, shape in shapes.items():
        values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    y = np.concatenate([session.run(None, {"input": x[None]})[0] for x in random.normal(size=(99, *SHAPE)).astype("f")])
    for tensor in model.graph.initializer[-2:]:  # logits of mean 0 and standard deviation 1
        values = (numpy_helper.to_array(tensor).T - (y.mean(axis=0) if tensor.name == "b2" else 0)) / y.std(axis=0)
        tensor.CopyFrom(numpy_helper.from_array(values.T.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return path


@dataclass(frozen=True)
class Net:
    """The exported bundle, and images for it."""

    bundle: Path
    open_batch: Path
    images: Path
    others: Path
    labelled: Path
    on_the_edge: Path


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    random = np.random.default_rng(1)
    source = make_onnx(folder / "net.onnx")
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])

    def logits(images):
        return np.concatenate([session.run(None, {"input": x[None]})[0] for x in images])

    def classes(images):
        return logits(images).argmax(axis=1)

    images = random.normal(size=(200, *SHAPE)).astype(np.float32)
    sure = np.diff(np.sort(logits(images), axis=1)[:, -2:]).ravel()
    images = images[np.argsort(sure)[-40:]]
    np.savez(folder / "images.npz", images=images)
    np.savez(folder / "others.npz", images=random.normal(size=(30, *SHAPE)).astype(np.float32))
    np.savez(folder / "labelled.npz", images=images, labels=classes(images))
    edge = between_classes(images, classes)
    np.savez(folder / "edge.npz", images=edge, labels=classes(edge))
    for name, path in (("bundle", source), ("open", make_onnx(folder / "open.onnx", "batch"))):
        batch = ["--dynamic-batch", "1:2:4"] if name == "open" else []
        assert main(["export", str(path), "-o", str(folder / name), "--quiet", "--json", *batch]) == 0
    files = (folder / f"{name}.npz" for name in ("images", "others", "labelled", "edge"))
    return Net(folder / "bundle", folder / "open", *files)


def between_classes(images, classes, steps=16):
    """Images on the edge between two classes, where the least change tells them apart from what they were."""
    start = classes(images)
    pairs = [(i, j) for i in range(len(images)) for j in range(i) if start[i] != start[j]][:40]
    a, b = images[[i for i, _ in pairs]], images[[j for _, j in pairs]]
    wanted = start[[i for i, _ in pairs]]
    for _ in range(steps):
        middle = (a + b) / 2
        same = (classes(middle) == wanted)[:, None, None, None]
        a, b = np.where(same, middle, a), np.where(same, b, middle)
    return a


@pytest.fixture
def bundle(net, tmp_path):
    return shutil.copytree(net.bundle, tmp_path / "b")


def state(path):
    """What a writer would change: the folder itself, and every byte in it."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return path.stat().st_ino, [(str(file), file.read_bytes()) for file in files]


def graphs(path):
    return {graph.precision: graph for graph in Bundle.open(path).manifest.graphs}


def parities(path, file):
    return [p for p in Bundle.open(path).manifest.parities if p.get("file") == file]


def build(path, *precisions, **options):
    return build_bundle(path, BuildJob(precisions=precisions, **(GRAPHS | options)))


# --- graphs --------------------------------------------------------------------------------------------------------


def test_a_graph_of_each_precision_is_added_once(net, bundle):
    """Given precisions -> for each one graph, linked, measured, that ONNX takes; again -> not one byte is written."""
    names = ("fp16", "bf16", "int8", "int8+fp16", "fp8")
    assert build(bundle, *names, calibration=net.images)
    opened = Bundle.open(bundle)
    assert set(graphs(bundle)) == set(names)
    for name, graph in graphs(bundle).items():
        assert graph.file == f"model.{name.replace('+', '_')}.onnx"
        kept = [layer["type"] for layer in graph.kept]
        assert Counter(graph.layers) == Counter([name.partition("+")[0]] * (3 - len(kept)) + kept) and len(kept) < 3
        assert [p["status"] for p in parities(bundle, graph.file)] == ["held"]
        assert parities(bundle, graph.file)[0]["tolerance"] == graph.tolerance
        onnx.checker.check_model(str(opened.file(graph.file)), full_check=True)
        link = next(link for link in opened.manifest.chain if link.sha256 == graph.sha256)
        assert (link.step, link.parent, link.files) == ("typed", opened.onnx_sha256, (graph.file,))
    before = state(bundle)
    assert not build(bundle, *names, calibration=net.images)
    assert not build(bundle, "fp16") and not build(bundle, "fp32")
    assert state(bundle) == before


def test_int8_is_made_for_cpus_too(net, bundle):
    """Given int8 -> beside TensorRT's graph one for CPUs, of the same images, measured as served; no other has."""
    build(bundle, "int8", "int8+fp16", "fp16", calibration=net.images)
    opened = Bundle.open(bundle)
    (graph,), other = opened.manifest.cpu_graphs, graphs(bundle)["int8"]
    assert (graph.file, graph.precision) == ("model.int8.cpu.onnx", "int8")
    assert (graph.tolerance, graph.reference, graph.calibration) == (
        other.tolerance,
        other.reference,
        other.calibration,
    )
    (parity,) = parities(bundle, graph.file)
    assert (parity["step"], parity["status"]) == ("ONNX int8 for CPUs", "held")
    link = next(link for link in opened.manifest.chain if link.sha256 == graph.sha256)
    assert (link.step, link.parent, link.files) == ("typed-cpu", opened.onnx_sha256, (graph.file,))
    assert graph.layers["int8"] == 3 - len(graph.kept)


def test_a_bundle_without_a_graph_for_cpus_gets_one(net, bundle):
    """Given a bundle as it was made before there were any -> int8 asked for again adds just that, where it can."""
    build(bundle, "int8", calibration=net.images)
    whole = Bundle.open(bundle).manifest
    with update_bundle(bundle) as draft:
        draft.remove_cpu_graph("int8")
    assert not build(bundle, "int8")  # without the images
    assert build(bundle, "int8", calibration=net.images)
    again = Bundle.open(bundle).manifest
    assert (again.graphs, again.cpu_graphs) == (whole.graphs, whole.cpu_graphs)
    assert not build(bundle, "int8", calibration=net.images)


def test_a_graph_for_cpus_that_does_not_hold_is_left_out(net, bundle, monkeypatch):
    """Given one that no layer of can be -> TensorRT's is there, why the other is not, and no new try."""
    typed = lower_graphs.typed_model

    def without_cpu(*args, layout=None, **options):
        if layout is not None:
            raise CheckFailedError("no layer can be int8")
        return typed(*args, **options)

    monkeypatch.setattr(lower_graphs, "typed_model", without_cpu)
    build(bundle, "int8", calibration=net.images)
    manifest = Bundle.open(bundle).manifest
    assert (len(manifest.graphs), manifest.cpu_graphs) == (1, ())
    assert manifest.extra["left_out"] == [{"precision": "int8 for CPUs", "reason": "no layer can be int8"}]
    assert not build(bundle, "int8", calibration=net.images)


def test_calibration_is_on_record(net, bundle):
    """Given images -> how many, their hash, and for int8 the method asked for and the one taken."""
    build(bundle, "fp16", "int8", calibration=net.images)
    calibration = graphs(bundle)["int8"].calibration
    assert calibration["images"] == 40 and calibration["method"] == "auto"
    assert calibration["chosen"] in ("minmax", "percentile") and len(calibration["sha256"]) == 64
    assert graphs(bundle)["fp16"].calibration == {"images": 40, "sha256": calibration["sha256"]}
    build(bundle, "bf16")
    assert graphs(bundle)["bf16"].calibration is None


def test_rebuild_makes_it_again(net, bundle):
    build(bundle, "int8", calibration=net.images)
    first, before = graphs(bundle)["int8"], state(bundle)
    assert build(bundle, "int8", calibration=net.images, rebuild=True)
    assert state(bundle)[0] != before[0]
    assert graphs(bundle)["int8"] == first and len(parities(bundle, first.file)) == 1


@pytest.mark.parametrize("change", ["images", "method", "tolerance"])
def test_another_wish_makes_the_graph_again(net, bundle, change):
    """Given other images, another method, another tolerance -> the graph in the place of the old one."""
    build(bundle, "fp16", "int8", calibration=net.images, method="minmax")
    kept, first = graphs(bundle)["fp16"], graphs(bundle)["int8"]
    wish = {"calibration": net.images, "method": "minmax"} | {
        "images": {"calibration": net.others},
        "method": {"method": "percentile"},
        "tolerance": {"tolerance": 0.4},
    }[change]
    assert build(bundle, "int8", **wish)
    again = graphs(bundle)["int8"]
    assert again != first and graphs(bundle)["fp16"] == kept
    assert len(parities(bundle, again.file)) == 1
    assert parities(bundle, again.file)[0]["tolerance"] == again.tolerance == (wish.get("tolerance") or 0.3)
    assert [link.step for link in Bundle.open(bundle).manifest.chain].count("typed") == 2


def test_the_same_images_in_another_file_are_the_same(net, bundle):
    build(bundle, "int8", calibration=net.images)
    assert not build(bundle, "int8", calibration=net.labelled)
    assert not build(bundle, "int8", eval_data=net.labelled)


def test_the_same_images_make_one_reference(net, bundle, monkeypatch):
    """Given two precisions on the same images -> one file; it goes with the last graph that is measured against it."""
    made, evaluate = [], lower_graphs.reference_from_module
    monkeypatch.setattr(lower_graphs, "reference_from_module", lambda *a, **k: made.append(a) or evaluate(*a, **k))
    build(bundle, "int8", calibration=net.images)
    build(bundle, "int8+fp16", "int8+bf16", calibration=net.images)
    assert len(made) == 1
    build(bundle, "int8+bf16", calibration=net.others)
    first = graphs(bundle)["int8"].reference
    assert graphs(bundle)["int8+fp16"].reference == first != "reference.npz"
    files = set(Bundle.open(bundle).manifest.files)
    third = graphs(bundle)["int8+bf16"].reference
    assert {name for name in files if name.startswith("reference")} == {"reference.npz", first, third}
    build(bundle, "int8", calibration=net.others)
    second = graphs(bundle)["int8"].reference
    assert second != first and {first, second} <= set(Bundle.open(bundle).manifest.files)
    build(bundle, "int8+fp16", calibration=net.others)
    assert first not in Bundle.open(bundle).manifest.files
    build(bundle, "fp16")
    assert graphs(bundle)["fp16"].reference == "reference.npz"


def test_reference_on_the_users_images_is_the_network_in_float64(net, bundle):
    """Given images -> the reference holds these, and what the ONNX model gives for them, to float32's rounding."""
    build(bundle, "int8", calibration=net.images)
    opened = Bundle.open(bundle)
    reference = Reference.load(opened.file(graphs(bundle)["int8"].reference))
    images = np.load(net.images)["images"]
    assert set(reference.kinds) == {"data"}
    np.testing.assert_array_equal(reference.arrays[0], images)
    session = onnxruntime.InferenceSession(str(opened.onnx), providers=["CPUExecutionProvider"])
    y = np.concatenate([session.run(None, {"input": x[None]})[0] for x in images])
    values = reference.outputs["logits"].values
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, y, atol=1e-5)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_quantizing_without_images_warns(bundle, method):
    """Given no images -> the method asked for on random ones, on record as such, and a warning."""
    with pytest.warns(PlainconvWarning, match="int8 is calibrated on random images.*give --calibration") as warned:
        build(bundle, "fp16", "int8", method=method)
    assert len(warned) == 1
    graph = graphs(bundle)["int8"]
    assert graph.calibration == {"images": None, "method": method, "chosen": method}
    assert graph.reference == "reference.npz"
    assert not build(bundle, "int8", method=method)


def test_eval_data_are_what_it_is_calibrated_on_where_there_is_nothing_else(net, bundle):
    """Given labelled images -> int8 is calibrated on them, and what each graph gets right is on record."""
    build(bundle, "int8", "fp16", eval_data=net.labelled)
    assert graphs(bundle)["int8"].calibration["images"] == 40
    for graph in graphs(bundle).values():
        accuracy = parities(bundle, graph.file)[0]["accuracy"]
        assert accuracy["images"] == 40 and accuracy["correct"] >= 39


@pytest.mark.filterwarnings("ignore:int8 is calibrated on random images")
def test_eval_data_take_the_place_of_random_images(net, bundle):
    """Given int8 calibrated on random images, then labelled ones → it is calibrated on these, once."""
    build(bundle, "int8", "fp16")
    assert graphs(bundle)["int8"].calibration["images"] is None
    assert build(bundle, "int8", eval_data=net.labelled)
    assert graphs(bundle)["int8"].calibration["images"] == 40
    assert build(bundle, "int8", "fp16", eval_data=net.labelled)  # fp16 on these too
    assert not build(bundle, "int8", "fp16", eval_data=net.labelled)


def test_weights_in_a_file_of_their_own(net, bundle, monkeypatch, tmp_path):
    """Given a graph with external data -> linked over both files; made again, no byte of the old version is written."""
    monkeypatch.setattr(ir_graph, "_BESIDE", 0)
    build(bundle, "fp16")
    link = next(link for link in Bundle.open(bundle).manifest.chain if link.step == "typed")
    assert link.files == ("model.fp16.onnx", "model.fp16.onnx.data")
    os.link(bundle / link.files[1], tmp_path / "held")
    build(bundle, "fp16", rebuild=True)
    assert (bundle / link.files[1]).stat().st_ino != (tmp_path / "held").stat().st_ino
    assert (bundle / link.files[1]).read_bytes() == (tmp_path / "held").read_bytes()
    monkeypatch.undo()
    be_quiet(True)
    build(bundle, "fp16", rebuild=True)
    assert not (bundle / link.files[1]).exists() and graphs(bundle)["fp16"].layers == {"fp16": 3}


# --- engines -------------------------------------------------------------------------------------------------------


@needs_rtx
def test_engines_of_graphs(net, bundle):
    """Given precisions -> an engine of each, linked to its graph; a further target makes one more, and no graph."""
    job = {"calibration": net.images, **RTX}
    assert build(bundle, "fp32", "fp16", "int8", **job)
    found = {engine.precision: engine for engine in Bundle.open(bundle).engines}
    of = {name: graph.sha256 for name, graph in graphs(bundle).items()} | {"fp32": Bundle.open(bundle).onnx_sha256}
    assert {name: engine.onnx_sha256 for name, engine in found.items()} == of
    layers = {name: graph.layers for name, graph in graphs(bundle).items()} | {"fp32": {"fp32": 3}}
    assert {name: engine.layers for name, engine in found.items()} == layers
    for engine in found.values():
        assert [p["step"] for p in parities(bundle, engine.file)] == [f"tensorrt_rtx {engine.precision}"]
    before, made = state(bundle), graphs(bundle)
    assert not build(bundle, "fp32", "fp16", "int8", **job)
    assert state(bundle) == before
    assert build(bundle, "fp16", **OTHER_RTX)
    assert [e.targets for e in Bundle.open(bundle).engines if e.precision == "fp16"] == [("sm89",), ("sm120",)]
    assert graphs(bundle) == made


def tighter(bundle, file="model.fp16.onnx"):
    """A tolerance that the graph in `file` just misses: one that meets it keeps a layer in fp32."""
    return 0.9 * parities(bundle, file)[0]["error"]


@needs_rtx
@pytest.mark.filterwarnings("ignore:fp16 in name")
@pytest.mark.parametrize("wish", [{}, GRAPHS], ids=["engine again", "no engine"])
def test_another_graph_drops_the_engines_of_the_old_one(bundle, wish):
    """Given a graph that comes out otherwise -> the files, link and parities of its engines are gone, no others."""
    build(bundle, "fp16", **OTHER_RTX)
    build(bundle, "fp16", "fp32", **RTX)
    old = {e.targets[0] + e.precision: e for e in Bundle.open(bundle).engines}
    assert set(old) == {"sm120fp16", "sm89fp16", "sm89fp32"}
    build(bundle, "fp16", **(RTX | {"tolerance": tighter(bundle)} | wish))
    opened = Bundle.open(bundle)
    left = {e.targets[0] + e.precision: e for e in opened.engines}
    assert set(left) == {"sm89fp32"} | ({"sm89fp16"} if "engine" not in wish else set())
    assert left["sm89fp32"] == old["sm89fp32"]
    gone = [old["sm120fp16"], *([old["sm89fp16"]] if "engine" in wish else [])]
    for engine in gone:
        assert not {engine.file, engine.log} & set(opened.manifest.files)
        assert not any(engine.file in link.files for link in opened.manifest.chain)
        assert parities(bundle, engine.file) == []


@needs_rtx
def test_same_graph_keeps_its_engines(bundle):
    """Given a graph made again for another tolerance, the same byte for byte -> its engines stay, checked anew."""
    build(bundle, "fp16", **OTHER_RTX)
    before = Bundle.open(bundle)
    assert build(bundle, "fp16", tolerance=0.05)
    opened = Bundle.open(bundle)
    assert graphs(bundle)["fp16"].tolerance == 0.05
    assert opened.engines == before.engines and opened.manifest.chain == before.manifest.chain
    assert [p["step"] for p in parities(bundle, opened.engines[0].file)] == ["tensorrt_rtx fp16"]


def test_what_is_not_said_is_as_the_bundle_has_it(net, bundle):
    """Given a graph with images, method and tolerance of its own -> asking for the precision alone changes nothing."""
    build(bundle, "int8", calibration=net.images, method="percentile", tolerance=0.4)
    before = state(bundle)
    assert not build(bundle, "int8")
    assert not build(bundle, "int8", eval_data=net.labelled)
    assert state(bundle) == before
    assert build(bundle, "int8", rebuild=True) and graphs(bundle)["int8"].calibration["method"] == "percentile"
    assert build(bundle, "int8", method="minmax", calibration=net.images)
    assert graphs(bundle)["int8"].calibration["chosen"] == "minmax"


@needs_rtx
@pytest.mark.filterwarnings("ignore:fp16 in name")
def test_the_last_engine_takes_its_folder_with_it(bundle):
    """Given a graph made again whose engine was the only one -> a bundle without engines that opens."""
    build(bundle, "fp16", **RTX)
    build(bundle, "fp16", tolerance=tighter(bundle))
    assert Bundle.open(bundle).engines == () and not (bundle / "engines").exists()


@needs_rtx
def test_rebuild_of_an_engine(net, bundle):
    build(bundle, "fp32", **RTX)
    before = state(bundle)
    assert not build(bundle, "fp32", **RTX) and state(bundle) == before
    assert build(bundle, "fp32", rebuild=True, **RTX) and state(bundle)[0] != before[0]
    assert len(Bundle.open(bundle).engines) == 1


@needs_rtx
def test_several_optimization_profiles(net, tmp_path):
    """Given an open batch and two ranges -> one engine with two profiles; without a range, one line."""
    bundle = shutil.copytree(net.open_batch, tmp_path / "b")
    shapes = (((1, 1, 2), None), ((4, 8, 8), None))
    assert build(bundle, "fp16", shapes=shapes, **RTX)
    (engine,) = Bundle.open(bundle).engines
    assert [profile["input"].opt for profile in engine.profiles] == [(1, *SHAPE), (8, *SHAPE)]
    assert not build(bundle, "fp16", shapes=shapes, **RTX)
    assert build(bundle, "fp16", shapes=shapes[:1], **RTX) and len(Bundle.open(bundle).engines) == 2


@pytest.fixture
def runs(monkeypatch):
    """An engine that "runs": ONNX Runtime on its graph in its place, its outputs `changed`."""

    def install(change=lambda y: y):
        class Runner(loading.OnnxRuntimeRunner):
            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.close()

            def __call__(self, inputs, outputs=None):
                return {name: change(y) for name, y in super().__call__(inputs, outputs).items()}

        def run_record(draft, record, device):
            file, _ = choice.graph_of(draft.manifest, record.precision)
            return Runner(draft.file(file), providers="cpu", threads=1, precision=record.precision)

        monkeypatch.setattr(choice, "why_not_run", lambda record, device=0: None)
        monkeypatch.setattr(loading, "run_record", run_record)

    return install


@needs_rtx
def test_an_engine_that_runs_is_held_to_its_graphs_reference_and_tolerance(net, bundle, runs):
    """Given engines that run here -> measured: int8 on the user's images and to its tolerance, fp32 as ever."""
    runs()
    build(bundle, "fp32", "int8", calibration=net.images, eval_data=net.labelled, **RTX)
    by_step = {p["step"]: p for p in Bundle.open(bundle).manifest.parities if "file" in p}
    assert {p["status"] for p in by_step.values()} == {"held"}
    assert by_step["tensorrt_rtx int8"]["tolerance"] == by_step["ONNX int8"]["tolerance"] == 0.3
    assert by_step["tensorrt_rtx int8"]["worst_input"] == "data"
    assert by_step["tensorrt_rtx fp32"]["tolerance"] < 1e-4
    assert by_step["tensorrt_rtx fp32"]["accuracy"] == {"correct": 40, "images": 40, "changed": 0}


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_that_computes_something_else_fails(net, bundle, runs, precision):
    """Given an engine that is off -> CheckFailedError, and neither it nor its graph is written."""
    runs(lambda y: y + 1)
    before = state(bundle)
    with pytest.raises(CheckFailedError, match=rf"tensorrt_rtx {precision}, logits: failed; .*nothing was written"):
        build(bundle, precision, calibration=net.images if precision == "int8" else None, **RTX)
    assert state(bundle) == before


# --- engines of the parts of a split -------------------------------------------------------------------------------

PARTS = ("stem", "left", "right", "head")


@pytest.fixture
def split(branches, tmp_path):
    """A bundle of two branches, split by hand: `parts(path)` are its parts by name."""
    path = branches.of("bundle", tmp_path / "split")
    split_bundle(path, SplitJob(plan=branches.plan, force=True))
    return path


def parts(path, precision="fp32"):
    return next(split for split in Bundle.open(path).splits if split.precision == precision)


def sets(path, precision="fp32"):
    return split_loading.sets_of_engines(parts(path, precision))


@needs_rtx
def test_an_engine_of_each_part(split):
    """Given a split -> beside the engine of the whole one of each part, linked to it; again -> not one byte."""
    assert build(split, "fp32", **RTX)
    opened, record = Bundle.open(split), parts(split)
    assert [engine.onnx_sha256 for engine in opened.engines] == [opened.onnx_sha256]
    assert [engine.onnx_sha256 for engine in record.engines] == [part.sha256 for part in record.parts]
    (alike,) = sets(split)
    assert alike == record.engines
    for part, engine in zip(record.parts, record.engines, strict=True):
        assert engine.file.startswith(f"engines/{part.name}/tensorrt_rtx-fp32-sm89-") and engine.profiles == ()
        assert {engine.file, engine.log} <= set(opened.manifest.files)
        link = next(link for link in opened.manifest.chain if link.files == (engine.file,))
        assert (link.step, link.parent) == ("part-engine", part.sha256)
    layers = {part.name: engine.layers for part, engine in zip(record.parts, record.engines, strict=True)}
    assert layers == {"stem": {"fp32": 1}, "left": {"fp32": 2}, "right": {"fp32": 2}, "head": {"fp32": 1}}
    before = state(split)
    assert not build(split, "fp32", **RTX) and state(split) == before


@needs_rtx
def test_parts_added_later_leave_the_engine_of_the_whole(branches, bundle, tmp_path):
    """Given an engine, then a split, then the same build -> the parts' engines alone are new; its file is the same."""
    path = branches.of("bundle", tmp_path / "later")
    build(path, "fp32", **RTX)
    whole = Bundle.open(path).engines[0]
    inode = (path / whole.file).stat().st_ino
    split_bundle(path, SplitJob(plan=branches.plan, force=True))
    assert build(path, "fp32", **RTX)
    assert Bundle.open(path).engines == (whole,) and (path / whole.file).stat().st_ino == inode
    assert len(sets(path)) == 1


@needs_rtx
def test_rebuild_of_the_engines_of_parts(split):
    """Given --rebuild -> every engine again, in the place of the old ones; another target -> one more of each."""
    build(split, "fp32", **RTX)
    files = [engine.file for engine in parts(split).engines]
    inodes = [(split / file).stat().st_ino for file in files]
    assert build(split, "fp32", rebuild=True, **RTX)
    assert [engine.file for engine in parts(split).engines] == files
    assert all((split / file).stat().st_ino != inode for file, inode in zip(files, inodes, strict=True))
    assert build(split, "fp32", **OTHER_RTX)
    assert [[engine.targets for engine in alike] for alike in sets(split)] == [[("sm89",)] * 4, [("sm120",)] * 4]
    steps = [link.step for link in Bundle.open(split).manifest.chain]
    assert (steps.count("engine"), steps.count("part-engine")) == (2, 8)
    assert len([p for p in Bundle.open(split).manifest.parities if p["step"] == "tensorrt_rtx fp32 parts"]) == 2


@needs_rtx
def test_a_part_that_lacks_its_engine_gets_it(split):
    """Given the engine of one part lost -> that one is built, the others stay the very files that they were."""
    build(split, "fp32", **RTX)
    lost, *kept = parts(split).engines
    with update_bundle(split) as draft:
        (record,) = draft.manifest.splits
        draft.manifest.splits = (replace(record, engines=tuple(kept)),)
        draft.manifest.chain = tuple(link for link in draft.manifest.chain if link.files != (lost.file,))
        draft.remove(lost.file)
        draft.remove(lost.log)
    assert sets(split) == []
    inodes = [(split / engine.file).stat().st_ino for engine in kept]
    assert build(split, "fp32", **RTX)
    assert [engine.file for engine in sets(split)[0]] == [lost.file, *(engine.file for engine in kept)]
    assert [(split / engine.file).stat().st_ino for engine in kept] == inodes


@needs_rtx
def test_another_split_drops_the_engines_of_the_old_one(branches, split):
    """Given the graph split otherwise -> no engine of its old parts, nor its log, is left; built again for the new."""
    build(split, "fp32", **RTX)
    whole = Bundle.open(split).engines
    split_bundle(split, SplitJob(devices=2, profile=str(branches.slow)))
    assert parts(split).engines == () and Bundle.open(split).engines == whole
    assert sorted(path.name for path in (split / "engines").iterdir()) == sorted(
        Path(name).name for name in (whole[0].file, whole[0].log)
    )
    assert not [p for p in Bundle.open(split).manifest.parities if p["step"].endswith("fp32 parts")]
    assert build(split, "fp32", **RTX)
    assert [engine.onnx_sha256 for engine in sets(split)[0]] == [part.sha256 for part in parts(split).parts]


@needs_rtx
def test_another_graph_drops_the_engines_of_the_parts_of_the_old_one(branches, split):
    """Given the fp16 graph made otherwise -> its split is gone with engines and logs, that of fp32 stays."""
    build(split, "fp16", "fp32")
    split_bundle(split, SplitJob(plan=branches.plan, force=True, precisions=("fp16",)))
    build(split, "fp32", "fp16", **RTX)
    assert {frozenset(engine.layers) for engine in parts(split, "fp16").engines} == {frozenset({"fp16"})}
    whole = parts(split)
    assert len(whole.engines) == len(parts(split, "fp16").engines) == 4
    build(split, "fp16", tolerance=tighter(split))
    assert [record.precision for record in Bundle.open(split).splits] == ["fp32"] and parts(split) == whole
    assert not list((split / "engines").rglob("*fp16*")) and not (split / "parts" / "fp16").exists()


@needs_rtx
@pytest.mark.filterwarnings("ignore:int8 is calibrated on random images")
def test_a_part_that_two_precisions_share_has_an_engine_for_each(branches, split, tmp_path):
    """Given a part whose file is the same in int8 as in fp32 -> each split has an engine of it, of its precision."""
    join = branches.four_parts(head=Part("join", 0, 0, ("t", "v"), ("f",)))
    plan = Plan((*join.parts, Part("head", 0, 0, ("f",), ("logits",))), 2)
    (tmp_path / "plan.json").write_text(plan.to_json())
    build(split, "int8")
    split_bundle(split, SplitJob(plan=tmp_path / "plan.json", force=True, precisions=("fp32", "int8")))
    assert parts(split).parts[3].sha256 == parts(split, "int8").parts[3].sha256
    for precision in ("fp32", "int8"):
        assert build(split, precision, **RTX)
        assert {engine.precision for engine in sets(split, precision)[0]} == {precision}
    assert not build(split, "fp32", "int8", **RTX)
    split_bundle(split, SplitJob(plan=tmp_path / "plan.json", force=True))
    assert len(sets(split, "int8")) == 1 and sets(split) == []


@needs_rtx
def test_several_optimization_profiles_of_parts(branches, tmp_path):
    """Given an open batch and two ranges -> engines of parts with two profiles each, as the whole's; once."""
    path = branches.of("open_batch", tmp_path / "b")
    split_bundle(path, SplitJob(plan=branches.plan, force=True))
    shapes = (((1, 1, 2), None), ((4, 8, 8), None))
    assert build(path, "fp32", shapes=shapes, **RTX)
    (alike,) = sets(path)
    for part, engine in zip(parts(path).parts, alike, strict=True):
        names = {spec.name for spec in part.inputs}
        assert [set(profile) for profile in engine.profiles] == [names] * 2
        assert [{covered.opt[0] for covered in profile.values()} for profile in engine.profiles] == [{1}, {8}]
        assert {covered.max[1:] for profile in engine.profiles for covered in profile.values()} == {
            SHAPE if part.name == "stem" else (8, 8, 8)
        }
    before = state(path)
    assert not build(path, "fp32", shapes=shapes, **RTX) and state(path) == before
    assert build(path, "fp32", shapes=shapes[:1], **RTX) and len(parts(path).engines) == 8


@pytest.fixture
def parts_run(monkeypatch, runs):
    """Engines of parts that "run": ONNX Runtime on their graphs in their place, the outputs `changed`."""

    def install(change=lambda y: y):
        runs()
        make = OnnxRuntimeSplitRunner

        class Runner(make):
            def __call__(self, inputs, outputs=None):
                return {name: change(y) for name, y in super().__call__(inputs, outputs).items()}

        def run_split(draft, record, records):
            assert [engine.onnx_sha256 for engine in records] == [part.sha256 for part in record.parts]
            files = {part.name: draft.file(part.file) for part in record.parts}
            return Runner(record, files, draft.manifest.inputs, draft.manifest.outputs)

        monkeypatch.setattr(split_loading, "run_split", run_split)

    return install


@needs_rtx
def test_engines_of_parts_that_run_are_held_to_the_reference(split, parts_run):
    """Given engines of parts that run here -> measured together, once, as the engine of the whole; validate too."""
    parts_run()
    build(split, "fp32", **RTX)
    first = parts(split).engines[0].file
    (parity,) = parities(split, first)
    assert (parity["step"], parity["status"]) == ("tensorrt_rtx fp32 parts", "held")
    with update_bundle(split) as draft:
        draft.manifest.parities[:] = [p | {"error": 0.5} for p in draft.manifest.parities]
    assert validate_bundle(split, eval_data=None) == []
    assert parities(split, first) == [parity]


@needs_rtx
def test_engines_of_parts_that_compute_something_else_fail(split, parts_run):
    """Given engines of parts that are off -> CheckFailedError and nothing is written; in validate named, exit 1."""
    before = state(split)
    parts_run(lambda y: y + 1)
    with pytest.raises(CheckFailedError, match=r"tensorrt_rtx fp32 parts, logits: failed; .*nothing was written"):
        build(split, "fp32", **RTX)
    assert state(split) == before
    parts_run()
    build(split, "fp32", **RTX)
    parts_run(lambda y: y + 1)
    failed = validate_bundle(split, eval_data=None)
    assert len(failed) == 1 and failed[0].startswith("tensorrt_rtx fp32 parts, logits: failed")


@needs_rtx
def test_engines_of_parts_that_do_not_run_here_say_so(split):
    build(split, "fp32", **RTX)
    if all(choice.why_not_run(record) is None for record in parts(split).engines):
        pytest.skip("the engines run here")
    for _ in range(2):
        (parity,) = parities(split, parts(split).engines[0].file)
        assert parity["step"] == "tensorrt_rtx fp32 parts" and parity["status"].startswith("not executed: ")
        assert validate_bundle(split, eval_data=None) == []


@needs_rtx
def test_a_part_that_cannot_be_built_takes_all_with_it(split, monkeypatch, capsys):
    """Given a builder that fails at the third part -> no engine, not even that of the whole, is written."""
    compile_onnx, made = building.compile_onnx, []

    def fail(path, *arguments):
        if path.name == "right.onnx":
            raise EngineError("the builder gives up")
        made.append(path.name)
        return compile_onnx(path, *arguments)

    monkeypatch.setattr(building, "compile_onnx", fail)
    assert refused(capsys, split, "--targets", "sm89", code=2) == "exporter: the builder gives up"
    assert made == ["model.onnx", "stem.onnx", "left.onnx"]


@needs_rtx
def test_run_builds_the_parts_too(branches, tmp_path, capsys):
    """Given `run --devices` -> graphs, split and the engines of whole and parts at once, as step by step."""
    job = ["run", str(branches.source), "-o", str(tmp_path / "b"), "--precision", "fp32,fp16", "--targets", "sm89"]
    assert main([*job, "--devices", "2", "--profile", str(branches.slow), "--quiet", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [engine["precision"] for engine in said["engines"]] == ["fp32", "fp16"]
    assert [split["precision"] for split in said["splits"]] == ["fp32"]  # the profile is of that graph
    assert len(said["splits"][0]["engines"]) == len(said["splits"][0]["parts"]) > 2
    assert not build(tmp_path / "b", "fp32", "fp16", **RTX)
    split_bundle(tmp_path / "b", SplitJob(plan=branches.plan, force=True, precisions=("fp16",)))
    assert build(tmp_path / "b", "fp32", "fp16", **RTX)
    assert main(["inspect", str(tmp_path / "b"), "--quiet"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert shown.count("× tensorrt_rtx") == 2  # of each split: what it gains, and whose engines its parts have


# --- what fails leaves the bundle ----------------------------------------------------------------------------------


def refused(capsys, path, *arguments, code):
    """`exporter build` that must fail: the one line it says; the bundle and the folder around it are as before."""
    before, beside = state(path), sorted(path.parent.iterdir())
    assert main(["build", str(path), "--quiet", *map(str, arguments)]) == code
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("exporter: warning: ")]
    assert (said.out, len(lines)) == ("", 1), said
    assert state(path) == before and sorted(path.parent.iterdir()) == beside
    return lines[0]


def test_accuracy_that_falls_fails(net, bundle, capsys):
    """Given images that the least change tells from their class -> int8 loses more than 1 %: exit 1, by the figures."""
    line = refused(
        capsys, bundle, "--engine", "none", "--precision", "int8", "--calibration", net.images,
        "--eval-data", net.on_the_edge, code=1,
    )  # fmt: skip
    assert "ONNX int8: " in line and "of 40 correct" in line
    assert "fewer than the network before; at most 1% may be lost; nothing was written" in line


@pytest.mark.parametrize(
    ("method", "is_accuracy", "good", "tried"),
    [
        ("auto", True, "percentile", ["auto", "percentile"]),
        ("auto", True, None, ["auto", "percentile"]),
        ("auto", False, "percentile", ["auto"]),
        ("minmax", True, "percentile", ["minmax"]),
    ],
)
def test_the_other_method_is_tried_where_accuracy_alone_is_lost(monkeypatch, method, is_accuracy, good, tried):
    """Given a method that loses accuracy -> the other one, unless it was asked for; where both fail, why the first."""
    seen, draft = [], SimpleNamespace(manifest=SimpleNamespace(graphs=()))

    def lower(draft, job, name, steps):
        seen.append(job.method)
        draft.manifest.graphs = [SimpleNamespace(precision="int8", calibration={"chosen": "minmax"})]
        if job.method != good:
            steps.failed.append(job.method)
            steps.lost.extend([job.method] * is_accuracy)
            raise CheckFailedError(job.method)

    monkeypatch.setattr(build_module, "_add_lower", lower)
    monkeypatch.setattr(build_module, "undone_on_error", contextlib.nullcontext)
    with contextlib.nullcontext() if good == tried[-1] else pytest.raises(CheckFailedError, match=method):
        build_module._add_most_accurate(draft, BuildJob(("int8",), method=method), "int8", Steps(None, None))
    assert seen == tried


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp32,fp16,int8"])
def test_a_tolerance_that_no_layer_holds_fails(net, bundle, capsys, precision):
    images = ("--calibration", net.images) if "int8" in precision else ()
    wish = ("--precision", precision, "--tolerance", "1e-7", *images)
    line = refused(capsys, bundle, "--engine", "none", *wish, code=1)
    assert "no layer can be" in line and "allow more with --tolerance" in line


@needs_rtx
def test_an_engine_that_cannot_be_built_takes_its_graph_with_it(bundle, monkeypatch, capsys):
    """Given a builder that fails at the second precision -> the first is written, the second left out, exit 1."""
    compile_onnx = building.compile_onnx

    def fail(path, *arguments):
        if path.name == "model.bf16.onnx":
            raise EngineError("the builder gives up")
        return compile_onnx(path, *arguments)

    monkeypatch.setattr(building, "compile_onnx", fail)
    assert main(["build", str(bundle), "--precision", "fp16,bf16", "--targets", "sm89"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"exporter: {bundle} was written without bf16: the builder gives up"
    assert "bf16 left out: the builder gives up" in said.out
    opened = Bundle.open(bundle)
    assert set(graphs(bundle)) == {"fp16"} == {engine.precision for engine in opened.engines}
    assert opened.manifest.extra["left_out"] == [{"precision": "bf16", "reason": "the builder gives up"}]

    line = refused(capsys, bundle, "--precision", "bf16", "--targets", "sm89", code=2)
    assert line == "exporter: the builder gives up; nothing was written"
    monkeypatch.undo()
    build(bundle, "bf16", **RTX)
    assert "left_out" not in Bundle.open(bundle).manifest.extra


def test_a_precision_in_name_is_said_and_kept(net, bundle):
    """Given a tolerance that one layer of three holds -> a warning names the others; gone where all are in it."""
    build(bundle, "fp16", calibration=net.images)
    with pytest.warns(
        PlainconvWarning, match=r"fp16 in name: 1 of 3 layers are in it \(\w+, \w+ stay wider\); give another"
    ):
        build(bundle, "fp16", calibration=net.images, tolerance=tighter(bundle))
    (line,) = Bundle.open(bundle).manifest.extra["warnings"]
    assert line.startswith("fp16 in name")
    build(bundle, "fp16", calibration=net.images, tolerance=0.1)
    assert Bundle.open(bundle).manifest.extra["warnings"] == []


@pytest.mark.parametrize(("size", "targets", "weights", "kept", "says"), [
    (4_000_000, "sm89", 2_000_000, 1, "fp16 in name: its engine has 4.0 MB, that of fp32 3.0 MB; see which layers"),
    (4_000_000, "sm89", 2_000_000, 0, "fp16: its engine has 4.0 MB, that of fp32 3.0 MB: all layers are in fp16, and"),
    (3_000_000, "sm89", 2_000_000, 1, "fp16 in name: its engine has 3.0 MB"),
    (1_500_000, "sm89", 2_000_000, 1, None),
    (4_000_000, "sm80", 2_000_000, 1, None),
    (4_000_000, "sm89", 1_000_000, 1, None),
])  # fmt: skip
def test_an_engine_no_smaller_than_fp32s_is_said(size, targets, weights, kept, says, recwarn):
    """Given an engine of the same GPUs as fp32's and no smaller -> one line, kept; not where kernels are most of it."""

    def engine(precision, size, targets):
        return SimpleNamespace(precision=precision, size=size, targets=targets, backend="tensorrt_rtx", device=None)

    engines = (engine("fp32", 3_000_000, ("sm89",)), engine("fp16", size, (targets,)))
    counts = {"onnx": {"bytes": weights}}
    graphs = (SimpleNamespace(precision="fp16", kept=kept * ({"layer": "conv"},)),)
    draft = SimpleNamespace(manifest=SimpleNamespace(engines=engines, graphs=graphs, extra={}, counts=counts))
    _warn_of_size(draft, "fp16")
    said = draft.manifest.extra.get("warnings", [])
    assert [str(each.message) for each in recwarn] == said
    assert (says is None and said == []) or (len(said) == 1 and said[0].startswith(says))


def _not_npz(path):
    path.write_bytes(b"PK no zip")


def _array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((2, *SHAPE), np.float32))


def _objects(path):
    np.savez(path, images=np.array([{}], dtype=object))


def _saved(**arrays):
    return lambda path: np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "No such file or directory; give an .npz file with images"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b""), "no .npz file of plain arrays"),
        (_not_npz, "no .npz file of plain arrays"),
        (_array, "holds a single array, wants images"),
        (_objects, "no .npz file of plain arrays"),
        (_saved(pictures=np.zeros(3)), "holds ['pictures'], wants images; lacks images"),
        (_saved(images=np.zeros((0, *SHAPE), np.float32)), "images are [0, 3, 8, 8], want [n, 3, 8, 8]"),
        (_saved(images=np.zeros((4, 3, 9, 8), np.float32)), "images are [4, 3, 9, 8], want [n, 3, 8, 8]"),
        (_saved(images=np.zeros(SHAPE, np.float32)), "images are [3, 8, 8], want [n, 3, 8, 8]"),
        (_saved(images=np.zeros((), np.float32)), "images are [], want [n, 3, 8, 8]"),
        (_saved(images=np.full((4, *SHAPE), np.nan, np.float32)), "images are not all finite, want finite numbers"),
        (_saved(images=np.full((4, *SHAPE), 1e300)), "images are not all finite"),
        (_saved(images=np.zeros((4, *SHAPE), complex)), "images are complex128, want finite numbers"),
        (_saved(images=np.full((4, *SHAPE), "x")), "images are <U1, want finite numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_calibration_images_are_one_line(bundle, tmp_path, capsys, write, says):
    write(tmp_path / "c.npz")
    line = refused(
        capsys, bundle, "--engine", "none", "--precision", "fp16,int8", "--calibration", tmp_path / "c.npz", code=2
    )
    assert says in line and "c.npz" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--precision", "fp15"), "unknown precision 'fp15'; wanted one of fp32, fp16, bf16, int8, int8+fp16"),
        (("--precision", "fp16,fp16+int8"), "unknown precision 'fp16+int8'"),
        (("--precision", "bf16", "--targets", "sm75"), "sm75 has no bf16, sm80 and later have"),
        (("--precision", "fp32,fp8", "--targets", "sm80,sm89"), "sm80 has no fp8, sm89 and later have"),
        (("--precision", "fp8+bf16", "--targets", "sm75"), "sm75 has no"),
        (("--precision", "fp16", "--targets", "sm1"), "unknown target 'sm1'; tensorrt_rtx"),
        (("--precision", "fp16", "--targets", "sm89", "--dynamic-batch", "1:2:4"), "has a fixed batch; build without"),
        (("--targets", "sm89", "--dynamic-size", "8:16:32"), "has a fixed height or width; build without"),
        (("--engine", "none", "--targets", "sm89"), "both --targets and --engine none"),
        (
            ("--precision", "fp32", "--calibration", "nope.npz"),
            "--calibration given, and fp32 needs none; leave it out",
        ),
        (("--precision", "bf16", "--calibration-method", "minmax"), "--calibration-method given, and bf16 is not cali"),
        (("--tolerance", "0.1"), "--tolerance given, and fp32 has its own; leave it out, or add a lower --precision"),
        (("--precision", "int8", "--eval-data", "nope.npz"), "nope.npz"),
        (("--precision", "fp16", "--eval-data", "nope.npz"), "nope.npz"),
    ],
)
@needs_rtx
def test_a_build_that_cannot_be_is_one_line(bundle, capsys, arguments, says):
    assert says in refused(capsys, bundle, *arguments, code=2)


@needs_rtx
def test_what_cannot_be_built_is_known_before_the_graph_is_made(bundle, capsys, monkeypatch):
    """Given a precision that a target lacks -> refused before any layer is tried."""
    monkeypatch.setattr(lower_graphs, "typed_model", lambda *a, **k: pytest.fail("the graph was made"))
    assert "sm75 has no bf16" in refused(capsys, bundle, "--precision", "bf16", "--targets", "sm75", code=2)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.filterwarnings("ignore:.*is calibrated on random images")
def test_a_network_that_is_no_fp32_one_is_refused(tmp_path, capsys, precision):
    """Given an ONNX file in fp16 -> no other precision is made of it, in one line."""
    model = onnx.load(make_onnx(tmp_path / "net.onnx"))
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    assert main(["export", str(tmp_path / "half.onnx"), "-o", str(tmp_path / "b"), "--quiet"]) in (0, 1)
    capsys.readouterr()
    line = refused(capsys, tmp_path / "b", "--engine", "none", "--precision", precision, code=2)
    assert f"the network computes in fp16 as it is, {precision} is made of one in fp32" in line


def test_damaged_bundle(bundle, capsys):
    (bundle / "reference.npz").write_bytes(b"")
    assert "reference.npz has 0 bytes" in refused(capsys, bundle, "--engine", "none", "--precision", "fp16", code=2)


# --- the commands --------------------------------------------------------------------------------------------------


def test_build_says_what_is_new_and_what_was_there(net, bundle, capsys):
    """Given the same build twice -> its table; then the same table, and one line that nothing was done."""
    job = ["build", str(bundle), "--engine", "none", "--precision", "int8", "--calibration", str(net.images)]
    assert main([*job, "--quiet"]) == 0
    first = capsys.readouterr()
    assert "model.int8.onnx" in first.out and "3 int8" in first.out and "40 images" in first.out
    assert first.err == ""
    assert main([*job, "--quiet"]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == f"exporter: {bundle} holds it already; --rebuild builds it again\n"
    assert main([*job, "--rebuild", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*job, "--json"]) == 0
    (graph,) = json.loads(capsys.readouterr().out)["graphs"]
    assert (graph["precision"], graph["layers"]) == ("int8", {"int8": 3})


@needs_rtx
def test_run_makes_graphs_and_engines_at_once(net, tmp_path, capsys):
    """Given precisions -> what `export` and `build` make in two steps; a target that lacks one leaves nothing."""
    source = make_onnx(tmp_path / "net.onnx")
    job = ["run", str(source), "-o", str(tmp_path / "b"), "--precision", "fp32,fp16,int8", "--targets"]
    data = ["--eval-data", str(net.labelled), "--quiet"]
    assert main([*job, "sm89", *data, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [engine["precision"] for engine in said["engines"]] == ["fp32", "fp16", "int8"]
    assert {"fp16", "int8", "engine"} <= set(said["seconds"])
    assert all(p["accuracy"]["images"] == 40 for p in said["parities"] if p.get("error") is not None)
    assert not build(tmp_path / "b", "fp16", "int8", eval_data=net.labelled, **RTX)
    before = state(tmp_path / "b")
    assert main(["run", str(source), "-o", str(tmp_path / "c"), "--precision", "bf16", "--targets", "sm75"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "net.onnx"]
    assert state(tmp_path / "b") == before


def test_run_that_makes_graphs_alone(tmp_path, capsys):
    source = make_onnx(tmp_path / "net.onnx")
    job = ["run", str(source), "-o", str(tmp_path / "b"), "--engine", "none", "--precision", "fp16", "--json"]
    assert main(job) == 0
    capsys.readouterr()
    assert set(graphs(tmp_path / "b")) == {"fp16"} and Bundle.open(tmp_path / "b").engines == ()


# --- validate ------------------------------------------------------------------------------------------------------


def test_validate_measures_every_graph_again(net, bundle):
    """Given parities that someone changed -> those that are measured now, once each; accuracy where it is asked for."""
    build(bundle, "fp16", "int8", calibration=net.images)
    measured = {p["step"]: p for p in Bundle.open(bundle).manifest.parities}
    with update_bundle(bundle) as draft:
        draft.manifest.parities[:] = [p | {"error": 0.0} for p in draft.manifest.parities]
    assert validate_bundle(bundle, eval_data=None) == []
    again = {p["step"]: p for p in Bundle.open(bundle).manifest.parities}
    assert again.keys() == measured.keys() and len(Bundle.open(bundle).manifest.parities) == len(again)
    for step in ("ONNX fp16", "ONNX int8", "ONNX (ONNX Runtime)"):
        assert again[step] == measured[step]
    assert validate_bundle(bundle, eval_data=net.labelled) == []
    counted = {p["step"]: p.get("accuracy") for p in Bundle.open(bundle).manifest.parities}
    assert all(counted[step]["images"] == 40 for step in ("ONNX fp16", "ONNX int8", "ONNX (ONNX Runtime)"))


def test_validate_fails_where_a_graph_is_off(net, bundle, capsys):
    """Given the reference of one graph changed -> that one fails, by name, exit 1; the others hold."""
    build(bundle, "fp16")
    build(bundle, "int8", calibration=net.images)
    with update_bundle(bundle) as draft:
        (graph,) = (graph for graph in draft.manifest.graphs if graph.precision == "int8")
        reference = Reference.load(draft.file(graph.reference))
        wanted = reference.outputs["logits"]
        shifted = replace(reference, outputs={"logits": replace(wanted, values=wanted.values + 9)})
        shifted.save(draft.path(graph.reference))
    assert main(["validate", str(bundle), "--json", "--quiet"]) == 1
    said = capsys.readouterr()
    assert "ONNX int8, logits: failed" in said.err and len(said.err.splitlines()) == 1
    statuses = {p["step"]: p["status"] for p in json.loads(said.out)["parities"]}
    assert statuses["ONNX int8"] == "failed" and statuses["ONNX fp16"] == statuses["ONNX (ONNX Runtime)"] == "held"


@needs_rtx
def test_validate_of_engines_that_do_not_run_here_says_so(bundle):
    build(bundle, "fp32", "fp16", **RTX)
    if all(choice.why_not_run(record) is None for record in Bundle.open(bundle).engines):
        pytest.skip("the engines run here")
    assert validate_bundle(bundle, eval_data=None) == []
    for record in Bundle.open(bundle).engines:
        assert [p["status"].partition(":")[0] for p in parities(bundle, record.file)] == ["not executed"]
