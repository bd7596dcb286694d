"""What Triton would compute by the configurations that were written: an interpreter of them, and the whole network."""

import numpy as np
import onnxruntime
import pytest
import triton_bundles as bundles
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from plainconv.engines.triton.config import read_config, type_name
from plainconv.engines.triton.repository import TritonOptions, write_repository

NUMPY = {"TYPE_FP32": np.float32}


class Server:
    """Serves a model repository on the CPU, knowing nothing but its files, as Triton's core says it."""

    def __init__(self, repository):
        self.repository = repository
        self.configs = {path.name: read_config(path / "config.pbtxt") for path in repository.iterdir()}
        self.sessions = {
            name: onnxruntime.InferenceSession(str(repository / name / "1/model.onnx"))
            for name, config in self.configs.items()
            if config.backend == "onnxruntime"
        }

    def warm_up(self):
        """Run every warmup; how many."""
        count = 0
        for name, config in self.configs.items():
            for sample in config.model_warmup:
                batch = (sample.batch_size,) if config.max_batch_size else ()
                self.infer(
                    name,
                    {
                        key: np.zeros((*batch, *data.dims), NUMPY[type_name(data.data_type)])
                        for key, data in sample.inputs.items()
                    },
                )
                count += 1
        return count

    def infer(self, name, inputs, order=lambda steps: steps):
        config = self.configs[name]
        self._check(config, config.input, inputs)
        outputs = self._ensemble(config, inputs, order) if not config.backend else self._run(name, inputs)
        self._check(config, config.output, outputs)
        return outputs

    def _run(self, name, inputs):
        names = [tensor.name for tensor in self.configs[name].output]
        return dict(zip(names, self.sessions[name].run(names, inputs), strict=True))

    def _ensemble(self, config, inputs, order):
        """Each step as soon as what it reads is there; of several, any first."""
        tensors, waiting = dict(inputs), list(config.ensemble_scheduling.step)
        while waiting:
            step = order([step for step in waiting if set(step.input_map.values()) <= set(tensors)])[0]
            waiting.remove(step)
            made = self.infer(step.model_name, {name: tensors[of] for name, of in step.input_map.items()})
            for name, tensor in step.output_map.items():
                assert tensor not in tensors
                tensors[tensor] = made[name]
        return {tensor.name: tensors[tensor.name] for tensor in config.output}

    @staticmethod
    def _check(config, declared, arrays):
        assert {tensor.name for tensor in declared} == set(arrays)
        for tensor in declared:
            array, shape = arrays[tensor.name], list(arrays[tensor.name].shape)
            assert array.dtype == NUMPY[type_name(tensor.data_type)]
            if config.max_batch_size:
                assert 1 <= shape.pop(0) <= config.max_batch_size
            assert len(shape) == len(tensor.dims)
            assert all(n in (-1, m) for n, m in zip(tensor.dims, shape, strict=True))


def whole(bundle, x):
    names = [spec.name for spec in bundle.outputs]
    session = onnxruntime.InferenceSession(str(bundle.onnx))
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", [None, bundles.THREE, bundles.FIVE], ids=["whole", "three", "five"])
@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("size", [8, "S"])
@pytest.mark.parametrize("data", [False, True], ids=["", "external data"])
def test_the_configurations_compute_the_network(tmp_path, parts, batch, size, data):
    """Given a network, whole or in parts, its batch and size fixed or open -> by the configurations, its outputs."""
    bundle = bundles.make(tmp_path / "b", parts, batch, size, data=data)
    plan = write_repository(bundle, tmp_path / "models", TritonOptions(name="net", devices=()))
    server = Server(tmp_path / "models")

    assert {config.max_batch_size for config in server.configs.values()} == {32 if batch == "N" else 0}
    for n in (1, 3, 32) if batch == "N" else (batch,):
        for pixels in (8, 5) if size == "S" else (8,):
            x = np.random.default_rng(n).normal(size=(n, 4, pixels, pixels)).astype(np.float32)
            same(server.infer("net", {"x": x}), whole(bundle, x))
    assert server.warm_up() == (0 if size == "S" else len(plan.models) - (parts is not None))


@given(st.randoms())
@settings(max_examples=examples(15), deadline=None, derandomize=True)
def test_any_order_in_which_steps_may_start(served, random):
    """Given steps that start in any order that what they read allows -> the same outputs."""
    bundle, server = served

    def order(steps):
        random.shuffle(steps)
        return steps

    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    same(server.infer("net", {"x": x}, order), whole(bundle, x))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    bundle = bundles.make(folder / "b", bundles.FIVE)
    write_repository(bundle, folder / "models", TritonOptions(name="net"))
    return bundle, Server(folder / "models")


def test_a_wrong_wire_is_seen(tmp_path):
    """Given the two steps that compute a value swapped for others' -> the interpreter above gives other numbers."""
    bundle = bundles.make(tmp_path / "b", bundles.FIVE)
    write_repository(bundle, tmp_path / "models", TritonOptions(name="net"))
    path = tmp_path / "models/net/config.pbtxt"
    text = path.read_text()
    left, right = 'value: "left.l"', 'value: "r"'
    reads = text.rindex(left), text.rindex(right)
    assert all(at > text.index('"net.fuse"') for at in reads)
    fuse = text[text.index('"net.fuse"') :].replace(left, "?").replace(right, left).replace("?", right)
    path.write_text(text[: text.index('"net.fuse"')] + fuse)
    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    found = Server(tmp_path / "models").infer("net", {"x": x})
    assert np.abs(found["logits"] - whole(bundle, x)["logits"]).max() > 1e-2
