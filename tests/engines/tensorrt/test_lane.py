"""A lane of a TensorRT runner, by the calls that it makes: against doubles that compute, and check every one."""

import numpy as np
import pytest

from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.errors import EngineError

COPIES_IN, COPIES_OUT = ["to device"] * 2, ["to host"] * 2
BIND = ["shape"] * 2, ["address"] * 4


def assert_equal(results, wanted):
    assert results.keys() == wanted.keys()
    for name, array in wanted.items():
        assert results[name].dtype == array.dtype
        np.testing.assert_array_equal(results[name], array)


def test_results_at_every_batch(make_runner, standin_tensorrt, reference):
    """Given calls of several sizes, in turn and again and again -> each result is its own, in arrays of its own."""
    with make_runner() as runner:
        calls = [standin_tensorrt.inputs_of(batch, seed) for seed, batch in enumerate((4, 1, 3, 4, 4, 4, 1, 3, 1, 1))]
        results = [runner(inputs) for inputs in calls]
    for inputs, result in zip(calls, results, strict=True):
        assert_equal(result, reference(inputs))


def test_memory_is_for_the_largest_shapes_and_allocated_once(make_runner, standin_tensorrt, device):
    """Given a profile up to batch 4 -> a buffer and staging of those sizes for each tensor, and none at any call."""
    with make_runner() as runner:
        sizes = [4 * 3 * 64 * 4, 4 * 4, 4 * 4 * 64 * 4, 4 * 4 * 2]
        assert [call[1] for call in device.calls if call[0] == "allocate"] == sizes
        assert [call[1] for call in device.calls if call[0] == "allocate_host"] == sizes
        device.calls.clear()
        for batch in (1, 4, 2, 2, 2, 2):
            runner(standin_tensorrt.inputs_of(batch))
        assert not {"allocate", "allocate_host", "create_stream"} & set(device.names())


def test_order_of_a_first_call(make_runner, standin_tensorrt, device):
    """Given a call -> copies in, engine, copies out of this batch's bytes, on one stream, and only then a wait."""
    with make_runner() as runner:
        device.calls.clear()
        runner(standin_tensorrt.inputs_of(2))
        work = [call for call in device.calls if call[0] not in ("shape", "address")]
        stream = work[-1][-1]
        assert [call[0] for call in work] == [*COPIES_IN, "execute", *COPIES_OUT]
        assert [call[2] for call in work if call[0] in ("to device", "to host")] == [2 * 768, 2 * 4, 2 * 1024, 2 * 8]
        assert all(call[-1] == stream for call in work) and list(device.streams) == [stream]


def test_contexts_hear_only_what_is_new(make_runner, standin_tensorrt, device):
    """Given an engine that is not captured -> one context; the same shapes again are copies, engine and wait alone."""
    with make_runner(captures=False) as runner:
        runner(standin_tensorrt.inputs_of(2))
        for batch, told in ((2, []), (2, []), (3, ["shape"] * 2), (3, []), (2, ["shape"] * 2)):
            device.calls.clear()
            runner(standin_tensorrt.inputs_of(batch))
            assert device.names() == [*told, *COPIES_IN, "execute", *COPIES_OUT]
        assert runner.double.created == 1 and "CUDA graphs of its own" in runner.why_not_captured


def test_profiles(make_runner, standin_tensorrt, reference, device):
    """Given two profiles -> a context for each, chosen once; calls in turn are told no profile again."""
    profiles = (standin_tensorrt.profile(1, 1), standin_tensorrt.profile(2, 4))
    with make_runner(profiles=profiles, captures=False) as runner:
        assert [call[1] for call in device.calls if call[0] == "profile"] == [0, 1]
        device.calls.clear()
        for batch in (1, 3, 1, 4, 3, 1):
            inputs = standin_tensorrt.inputs_of(batch, batch)
            assert_equal(runner(inputs), reference(inputs))
        assert runner.double.created == 2 and "profile" not in device.names()


def test_request_outside_the_profiles_touches_nothing(make_runner, standin_tensorrt, device):
    with make_runner() as runner:
        device.calls.clear()
        with pytest.raises(
            EngineError, match=r"in no optimization profile of the engine \(profile 0: x \[1, 3, 8, 8\]"
        ):
            runner(standin_tensorrt.inputs_of(5))
        assert device.calls == []


def test_fixed_shapes(make_runner, standin_tensorrt, reference, device, tmp_path):
    """Given an engine without a profile -> it is told none, and takes its own shapes alone."""
    model = standin_tensorrt.make_model(tmp_path / "fixed.onnx", batch=2)
    with standin_tensorrt.make_runner(device, model, profiles=(), batch=2) as runner:
        inputs = standin_tensorrt.inputs_of(2)
        for _ in range(4):
            assert_equal(runner(inputs), reference(inputs))
        with pytest.raises(EngineError, match=r"input x has shape \[1, 3, 8, 8\], wanted \[2, 3, 8, 8\]"):
            runner(standin_tensorrt.inputs_of(1))
        assert "profile" not in device.names()


@pytest.mark.parametrize("captures", [True, False])
def test_stages(make_runner, standin_tensorrt, device, reference, captures):
    """Given a device whose copies take 1 ms and whose engine takes 10 -> so say the stages; results stay right."""
    inputs = standin_tensorrt.inputs_of(3, 7)
    with make_runner(captures=captures) as runner:
        for _ in range(3):
            assert runner.stages(inputs) == {"copy in": 2.0, "compute": 10.0, "copy out": 2.0}
        assert ("launch" in device.names()) == captures
        assert_equal(runner(inputs), reference(inputs))
        with pytest.raises(EngineError, match="in no optimization profile"):
            runner.stages(standin_tensorrt.inputs_of(5))
    assert device.empty


def test_scratch_is_shared_by_the_contexts_of_a_lane(make_runner, standin_tensorrt, device):
    """Given contexts that need 5000 bytes to work in -> one such block for all of them."""
    with make_runner(scratch=5000) as runner:
        for _ in range(4):
            for batch in (1, 2):
                runner(standin_tensorrt.inputs_of(batch))
        assert runner.double.created == 3
        assert [call[1] for call in device.calls if call[0] == "allocate"].count(5000) == 1
    assert device.empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refuses": ("context",)}, "gives no execution context"),
        ({"refuses": ("data dependent",)}, r"the shape of logits depends on the data \(\[-1, 4\]\)"),
        ({"refuses": ("shape",)}, r"does not take x of shape \[4, 3, 8, 8\]"),
        ({"profiles": (), "batch": "batch"}, r"x float32\[batch, 3, 8, 8\] has a free axis and the engine no"),
        (
            {"outputs": (TensorSpec("z", "float32", (1,)),)},
            r"the engine has tensors \['logits', 'pooled', 'scale', 'x'\], its bundle says \['scale', 'x', 'z'\]",
        ),
    ],
)
def test_engine_that_does_not_suit(make_runner, device, options, message):
    """Given an engine that refuses -> one line, and nothing stays allocated."""
    with pytest.raises(EngineError, match=message):
        make_runner(**options)
    assert device.empty


@pytest.mark.parametrize("refuses", ["address", "execute"])
def test_call_that_fails(make_runner, standin_tensorrt, device, refuses):
    """Given an engine that does not start -> one line, after the copies that were under way; then it may run again."""
    with make_runner() as runner:
        runner.double.refuses = (refuses,)
        for _ in range(3):
            with pytest.raises(EngineError, match="takes no buffer for x" if refuses == "address" else "did not run"):
                runner(standin_tensorrt.inputs_of(2))
            assert not any(stream.queue for stream in device.streams.values())
        runner.double.refuses = ()
        runner(standin_tensorrt.inputs_of(2))
    assert device.empty


@pytest.mark.parametrize("call", ["create_stream", "create context", "profile", "shape", "allocate", "allocate_host"])
@pytest.mark.parametrize("after", range(4))
def test_lane_that_cannot_be_made_keeps_nothing(make_runner, device, monkeypatch, call, after):
    """Given a call of CUDA or TensorRT that fails the first, second, third or fourth time -> nothing stays behind."""
    note, seen = device.note, []

    def failing(name, *arguments):
        note(name, *arguments)
        seen.append(name)
        if name == call and seen.count(call) == after + 1:
            raise EngineError("out of memory")

    monkeypatch.setattr(device, "note", failing)
    try:
        make_runner(scratch=512).close()
        assert seen.count(call) <= after
    except EngineError as error:
        assert "out of memory" in str(error)
    assert device.empty
