"""The models that the ONNX package tests backends with: whatever ONNX Runtime runs computes the same after surgery."""

import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from plainconv.exporter.surgery import simplify

EVERY = 24
"""Of the models, how many the quick test leaves out for each that it takes."""


@cache
def cases() -> list[tuple[str, onnx.ModelProto, Any]]:
    """Name, model and inputs of each; those that come with files too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # expected outputs are computed with infinities and NaN
        from onnx.backend.test.case.node import collect_testcases
        from onnx.backend.test.loader import load_model_tests

        found = [(c.name, c.model, c.data_sets[0][0]) for c in collect_testcases(None)]
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for case in load_model_tests(kind=kind):
            path = Path(case.model_dir or "") / "model.onnx"
            if path.exists():
                found.append((case.name, onnx.load(path), sorted(path.parent.glob("test_data_set_0/input_*.pb"))))
    return found


def with_constants(model: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto | None:
    """`model` with all its inputs but the first as initializers, where they are plain arrays."""
    late = [t.name for t in model.graph.input[1:] if isinstance(feeds.get(t.name), np.ndarray)]
    plain = [name for name in late if feeds[name].dtype.kind in "fiub"]
    if not plain:
        return None
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if model.ir_version >= 4:  # before, an initializer is an input too
        kept = [t for t in model.graph.input if t.name not in plain]
        del changed.graph.input[:]
        changed.graph.input.extend(kept)
    changed.graph.initializer.extend(numpy_helper.from_array(feeds[name], name) for name in plain)
    return changed


def run(model: onnx.ModelProto | Path, feeds: dict[str, Any]) -> list[Any] | None:
    """The outputs by ONNX Runtime without its own optimizations; None where it refuses."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = ort.InferenceSession(source, options, ["CPUExecutionProvider"])
        names = {t.name for t in session.get_inputs()}
        return list(session.run(None, {name: x for name, x in feeds.items() if name in names}))
    except Exception:  # ONNX Runtime's own exceptions have no common base
        if isinstance(model, Path):
            raise
        return None


def assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        if wanted.dtype.kind in "fc":
            # Another order of the same half-precision casts may move the last bit.
            rtol = max(1e-5, 2 * float(np.finfo(wanted.dtype).eps))
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert_same(a, b)
    else:
        assert found == wanted


def check(model: onnx.ModelProto, feeds: dict[str, Any], folder: Path) -> str:
    """Simplify `model` and compare; "not run", "same" (the graph is as it was) or "changed"."""
    random = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
    wanted = None if random & {node.op_type for node in model.graph.node} else run(model, feeds)
    again = None if wanted is None else run(model, feeds)
    if wanted is None or repr(wanted) != repr(again):
        return "not run"
    onnx.save(model, folder / "given.onnx")
    report = simplify(folder / "given.onnx", folder / "plain.onnx")
    found = run(folder / "plain.onnx", feeds)
    assert found is not None
    for a, b in zip(found, wanted, strict=True):
        assert_same(a, b)
    plain = onnx.load(folder / "plain.onnx")
    constants = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    kept = [t.name for t in model.graph.input if not report.passes or t.name not in constants]
    assert [t.name for t in plain.graph.input] == kept
    assert [t.name for t in plain.graph.output] == [t.name for t in model.graph.output]
    return "changed" if report.passes else "same"


def feeds_of(model: onnx.ModelProto, inputs: Any) -> dict[str, Any]:
    if inputs and isinstance(inputs[0], Path):
        inputs = [numpy_helper.to_array(onnx.load_tensor(str(path))) for path in inputs]
    feeds: dict[str, Any] = dict(zip((t.name for t in model.graph.input), inputs, strict=False))
    return feeds


def variants(chosen: slice) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    for name, model, inputs in cases()[chosen]:
        try:
            feeds = feeds_of(model, inputs)
        except Exception:  # a sequence or a map in a file
            continue
        yield name, model, feeds
        constants = with_constants(model, feeds)
        if constants is not None:
            yield f"{name}, constants", constants, feeds


def survey(chosen: slice, folder: Path) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    failures = []
    for name, model, feeds in variants(chosen):
        try:
            counts[check(model, feeds, folder)] += 1
        except Exception as error:
            counts["failed"] += 1
            failures.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return counts, failures


def test_some_of_them(tmp_path: Path) -> None:
    counts, failures = survey(slice(0, None, EVERY), tmp_path)
    assert not failures
    assert counts["same"] + counts["changed"] > 75


@pytest.mark.slow
def test_all_of_them(tmp_path: Path) -> None:
    counts, failures = survey(slice(None), tmp_path)
    print(dict(counts))
    assert not failures, "\n".join(failures)
    assert counts["same"] + counts["changed"] > 2000
