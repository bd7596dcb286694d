"""Engines module by module: built by the real builder, and run on the stand-in for a GPU and its runtime."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import standin_bundles
import standin_cuda
import standin_tensorrt
from planted import change

from plainconv import engines
from plainconv.engines import choice, loading
from plainconv.engines.cuda.gpu import Gpu
from plainconv.engines.options import BuildOptions
from plainconv.engines.tensorrt import loaded
from plainconv.exporter.bundle import Bundle, EngineRecord, update_bundle
from plainconv.exporter.errors import EngineError
from plainconv.exporter.pipeline import fused_layers
from plainconv.exporter.pipeline.layers import Layers, compare_bundle
from plainconv.exporter.source.network import Request

VALUES = ["r", "t", "v", "logits"]


@pytest.fixture
def bundle(branches: SimpleNamespace, tmp_path: Path) -> Path:
    """The network with two branches, and an engine of it that the stand-in runs."""
    target = tmp_path / "bundle"
    shutil.copytree(branches.bundle, target)
    with update_bundle(target) as draft:
        model = shutil.copy(draft.file("model.onnx"), tmp_path / "model.onnx")
        sha256 = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
        standin_bundles.add_engine(draft, model, sha256, ())
    return target


@pytest.fixture
def compare(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Layers]:
    """Compares the bundle on the stand-in, on which engines are built of a graph as `edit` leaves it."""
    device = standin_cuda.Device()
    monkeypatch.setenv("PLAINCONV_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", standin_tensorrt.module(device, rtx=True))
    monkeypatch.setattr(loading, "CudaRuntime", lambda: device.cuda)
    for module in (choice, loaded, fused_layers):
        monkeypatch.setattr(module, "find_gpu", lambda number=0: Gpu("NVIDIA GeForce RTX 3090", "sm86", 24 * 2**30))

    def compare(edit: Callable[[onnx.ModelProto], None] = lambda model: None) -> Layers:
        def build(draft: Any, *, engine: str, options: BuildOptions) -> EngineRecord:
            assert (engine, options.targets) == ("tensorrt_rtx", ("sm86",))
            model = onnx.load(draft.file("model.onnx"))
            edit(model)
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
            onnx.save(model, path)
            file = standin_bundles.add_engine(draft, path, draft.manifest.chain[-1].sha256, options.profiles)
            return next(record for record in draft.manifest.engines if record.file == file)

        monkeypatch.setattr(fused_layers, "build_into", build)
        return compare_bundle(bundle, None, Request())

    return compare


def test_an_engine_that_is_sound(bundle: Path, compare: Callable[..., Layers]) -> None:
    """Given an engine that runs here → each module of it is beside its graph, in three turns, and none at fault."""
    found = compare()
    engine, graph = found.steps[-1], found.steps[0]
    assert engine.step == _engine(bundle).file
    assert [b.value for b in engine.boundaries] == [b.value for b in graph.boundaries]
    assert found.fault is None and not any("not compared" in note for note in found.notes)


def test_the_module_at_fault_in_an_engine(compare: Callable[..., Layers]) -> None:
    """Given an engine whose second conv of the right branch is off → that one is named, by all its names."""
    found = compare(lambda model: change(model, "w4", lambda w: w * 1.001))
    assert found.fault is not None
    step, at = found.fault
    assert step.step.startswith("engines/") and len(step.faults) >= 1
    assert (at.value, at.node) == ("e", "right_1")


def test_an_engine_that_cannot_be_built_again(bundle: Path, compare: Callable[..., Layers]) -> None:
    """Given values that cannot be read → a line says why, and what else there is is compared."""

    def refuse(model: onnx.ModelProto) -> None:
        raise EngineError("model.onnx: the build failed; try again")

    found = compare(refuse)
    assert (
        found.notes[-1]
        == f"{Bundle.open(bundle).engines[0].file} not compared: model.onnx: the build failed; try again"
    )
    assert len(found.steps) == 2 and found.fault is None


def test_without_a_gpu_one_line_says_so(bundle: Path) -> None:
    found = compare_bundle(bundle, None, Request())
    said = [note for note in found.notes if "not compared" in note]
    assert said == [f"{_engine(bundle).file} not compared: {choice.why_not_run(_engine(bundle))}"]
    assert "\n" not in said[0]


def test_the_real_builder_takes_the_marked_graphs(
    branches: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a bundle with an engine by TensorRT-RTX → it is built again, for this GPU, with the values as outputs."""
    pytest.importorskip("tensorrt_rtx")
    target = shutil.copytree(branches.bundle, tmp_path / "b")
    engines.build(target, engine="tensorrt_rtx", options=BuildOptions(targets=("sm86", "sm89")))
    monkeypatch.setattr(fused_layers, "find_gpu", lambda number=0: Gpu("a GPU", "sm86", 2**30))
    built: list[tuple[set[str], EngineRecord]] = []

    class Nothing:
        def __enter__(self) -> "Nothing":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def note(marked: Bundle, record: EngineRecord) -> Nothing:
        built.append(({spec.name for spec in marked.outputs}, record))
        return Nothing()

    monkeypatch.setattr(fused_layers, "run_record", note)
    with fused_layers.EngineForm(Bundle.open(target), _engine(target), VALUES) as form:
        assert form.names == VALUES and form.nodes["logits"] == "head"
    assert set().union(*(outputs for outputs, _ in built)) == set(VALUES) and len(built) == 3
    assert all(record.targets == ("sm86",) and record.size for _, record in built)


def _engine(bundle: Path) -> EngineRecord:
    return Bundle.open(bundle).engines[0]
