"""A loaded model, and how a bundle becomes one."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plainconv.engines.serving.backend import Loaded, RunnerBackend, load_here
from plainconv.engines.serving.model import Model, open_model
from plainconv.engines.serving.options import ServeOptions
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.errors import BundleError, EngineError

LONG_S = 60.0
OPTIONS = ServeOptions(engine="onnxruntime", threads=1, workers=2, max_batch=8)
X = np.array([[1, 2, 3, 4]], np.float32)


class Backend:
    """Gives `outputs`, or raises them."""

    def __init__(self, outputs: Any) -> None:
        self.outputs, self.rows, self.closed = outputs, list[int](), 0

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.rows.append(len(inputs["x"]))
        if isinstance(self.outputs, Exception):
            raise self.outputs
        return self.outputs  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed += 1


def answer(model: Model) -> Any:
    return model.batcher.submit({"x": X}, time.monotonic() + LONG_S).result(LONG_S).outputs["y"].tolist()


def test_a_bundle(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a bundle -> what it says, and what runs it."""
    folder = make(tmp_path / "b")
    seen: list[int] = []
    model = open_model(folder, OPTIONS, lambda rows, seconds: seen.append(rows))
    bundle = Bundle.open(folder)
    assert answer(model) == [[3, 7]] and seen == [1]
    assert (model.sha256, model.inputs, model.outputs) == (bundle.sha256, bundle.inputs, bundle.outputs)
    assert (model.backend, model.precision, model.platform) == ("onnxruntime", "fp32", "onnxruntime_onnx")
    assert model.predictor == "the bundle says not how an image becomes its input; export it with --preprocessing"
    assert model.covering is not None and model.covering.most == 8
    model.retire()
    assert model.closed.wait(LONG_S)


def test_load_here(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given options -> a runner of this process, in as many runs at a time as they say."""
    loaded = load_here(Bundle.open(make(tmp_path / "b")), OPTIONS)
    assert isinstance(loaded.backend, RunnerBackend) and (loaded.runtime, loaded.workers) == ("onnxruntime", 2)
    assert loaded.backend.predict({"x": X})["y"].tolist() == [[3, 7]]
    loaded.backend.close()
    with pytest.raises(EngineError):
        load_here(Bundle.open(tmp_path / "b"), ServeOptions(engine="tensorrt"))


def test_what_is_waited_for_nowhere_else(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a runner on the CPU, by ONNX Runtime on a GPU, and of an engine -> the first alone needs nobody else."""
    loaded = load_here(Bundle.open(make(tmp_path / "b")), OPTIONS)
    assert isinstance(loaded.backend, RunnerBackend) and loaded.backend.is_here
    loaded.backend.close()
    others: list[Any] = [SimpleNamespace(provider="cuda"), SimpleNamespace()]
    assert not any(RunnerBackend(runner).is_here for runner in others)


def test_another_backend(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given a loader -> its backend computes, is run once before, and is closed in the end, once."""
    backend = Backend({"y": np.array([[5, 6]], np.float32)})
    folder = make(tmp_path / "b", batch=1)
    model = open_model(folder, OPTIONS, loader=lambda bundle, options: Loaded(backend, "tensorrt", "fp16"))
    assert answer(model) == [[5, 6]] and backend.rows == [1, 1]
    assert (model.platform, model.precision, model.covering) == ("tensorrt_plan", "fp16", None)
    model.retire()
    model.retire()
    assert model.closed.wait(LONG_S) and backend.closed == 1


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "gives nothing as y"),
        ({"y": np.zeros((1, 2))}, "gives float64"),
        ({"y": np.zeros(2, np.float32)}, "gives float32"),
        (EngineError("it does not run"), "it does not run"),
    ],
)
def test_one_that_does_not_give_what_it_says(
    make: Callable[..., Path], tmp_path: Path, outputs: Any, said: str
) -> None:
    """Given a backend that gives something else, or fails -> found when it is loaded, and closed."""
    backend = Backend(outputs)
    with pytest.raises(EngineError, match=said):
        open_model(make(tmp_path / "b"), OPTIONS, loader=lambda *_: Loaded(backend, "onnxruntime", "fp32"))
    assert backend.closed == 1


def test_one_that_is_replaced_again_and_again(make: Callable[..., Path], tmp_path: Path) -> None:
    """Given another version at each try -> an error in the end, and nothing left open."""
    folder, backends = make(tmp_path / "b"), list[Backend]()

    def loader(bundle: Bundle, options: ServeOptions) -> Loaded:
        make(folder, scale=2 + len(backends), force=True)
        backends.append(Backend({}))
        return Loaded(backends[-1], "onnxruntime", "fp32")

    with pytest.raises(BundleError, match="is replaced again and again while it is loaded"):
        open_model(folder, OPTIONS, loader=loader)
    assert [backend.closed for backend in backends] == [1] * len(backends) and len(backends) > 1


def test_what_loads_it_is_told(make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given options of a server that are `load`'s -> it gets them."""
    told: dict[str, object] = {}

    def load(*arguments: object, **options: object) -> None:
        told.update(options)
        raise EngineError("enough")

    monkeypatch.setattr("plainconv.engines.serving.backend.load", load)
    options = replace(OPTIONS, precision="fp16", threads=3, devices=(1,), eager_kernels=True)
    with pytest.raises(EngineError, match="enough"):
        load_here(Bundle.open(make(tmp_path / "b")), options)
    assert told == {"precision": "fp16", "threads": 3, "devices": (1,), "eager_kernels": True}
