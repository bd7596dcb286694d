"""CUDA graphs of calls that come again: when they are captured, what they replay, and what happens when they cannot."""

import gc

import numpy as np
import pytest

from plainconv.engines.tensorrt.replay import Call, Replay
from plainconv.exporter.errors import EngineError


def graph_calls(device):
    return [name for name in device.names() if name in ("begin_capture", "end_capture", "launch", "execute")]


def test_a_call_is_run_then_captured_then_replayed(make_runner, standin_tensorrt, device):
    """Given one call four times -> as it is, as it is on a context of its own, captured and launched, launched alone.

    At last a call is one launch and one wait.
    """
    inputs = standin_tensorrt.inputs_of(2)
    with make_runner() as runner:
        device.calls.clear()
        steps = []
        for _ in range(4):
            runner(inputs)
            steps.append(graph_calls(device))
        assert steps == [["execute"], ["execute"], ["begin_capture", "execute", "end_capture", "launch"], ["launch"]]
        runner(inputs)
        assert device.names() == ["launch"]
        assert runner.why_not_captured is None


def test_a_replay_computes_what_is_there_now(make_runner, standin_tensorrt, reference):
    """Given a captured call and other contents -> the outputs of those, and the arrays of before as they were."""
    with make_runner() as runner:
        for _ in range(3):
            first = runner(standin_tensorrt.inputs_of(2, seed=1))
        second = runner(standin_tensorrt.inputs_of(2, seed=2))
    for result, seed in ((first, 1), (second, 2)):
        for name, array in reference(standin_tensorrt.inputs_of(2, seed)).items():
            np.testing.assert_array_equal(result[name], array)


def test_graphs_are_bounded(make_runner, standin_tensorrt, reference, device):
    """Given 24 batches in turn, each thrice, twice over -> the right results, and never more than 16 graphs."""
    with make_runner(profiles=(standin_tensorrt.profile(1, 24),)) as runner:
        for batch in [*range(1, 25)] * 2:
            inputs = standin_tensorrt.inputs_of(batch, batch)
            for _ in range(3):
                result = runner(inputs)
            np.testing.assert_array_equal(result["logits"], reference(inputs)["logits"])
            assert len(device.graphs) <= 16
        gc.collect()
        assert len(device.graphs) == 16 and len(runner.double.contexts) == 17
        device.calls.clear()
        runner(standin_tensorrt.inputs_of(24))
        assert device.names() == ["launch"]
    gc.collect()
    assert device.empty and not runner.double.contexts


def test_more_shapes_than_graphs_make_no_new_contexts(make_runner, standin_tensorrt):
    """Given 24 batches that come round and round -> each is gone from memory when it comes again, and none is captured.

    Making a context costs far more than it saves where it is thrown away before it is used again.
    """
    with make_runner(profiles=(standin_tensorrt.profile(1, 24),)) as runner:
        for batch in [*range(1, 25)] * 4:
            runner(standin_tensorrt.inputs_of(batch))
        assert runner.double.created == 1


@pytest.mark.parametrize("step", ["begin_capture", "end_capture"])
def test_capture_that_fails_for_good(make_runner, standin_tensorrt, reference, device, step):
    """Given a stream that cannot be captured -> the right results all the same, three attempts, and the reason."""
    with make_runner() as runner:
        device.fail[step] = 100
        for seed in range(8):
            inputs = standin_tensorrt.inputs_of(2, seed)
            np.testing.assert_array_equal(runner(inputs)["logits"], reference(inputs)["logits"])
        assert device.names().count("begin_capture") == 3
        assert f"{step} failed as it was told to" in runner.why_not_captured
    assert device.empty


def test_engine_that_cannot_be_captured(make_runner, standin_tensorrt, reference, device):
    """Given an engine that does not run in a capture -> its graph is thrown away, and calls run as they are."""
    with make_runner(refuses=("capture",)) as runner:
        for seed in range(8):
            inputs = standin_tensorrt.inputs_of(2, seed)
            np.testing.assert_array_equal(runner(inputs)["pooled"], reference(inputs)["pooled"])
        assert "did not run" in runner.why_not_captured
        assert device.graphs == {} and "launch" not in device.names()


def test_capture_that_fails_once(make_runner, standin_tensorrt, device):
    """Given a capture that someone else's call broke -> the next one succeeds."""
    with make_runner() as runner:
        device.fail["end_capture"] = 1
        for _ in range(4):
            runner(standin_tensorrt.inputs_of(2))
        assert runner.why_not_captured is None and len(device.graphs) == 1


def test_no_memory_for_another_context(make_runner, standin_tensorrt, reference, device):
    """Given no memory for a second context -> calls run on the first, and the reason is kept."""
    with make_runner() as runner:
        runner.double.refuses = ("context",)
        for seed in range(4):
            inputs = standin_tensorrt.inputs_of(2, seed)
            np.testing.assert_array_equal(runner(inputs)["logits"], reference(inputs)["logits"])
        assert "gives no execution context" in runner.why_not_captured


def test_launch_that_fails(make_runner, standin_tensorrt, device):
    """Given a launch that fails -> one line, after the stream has been waited for."""
    with make_runner() as runner:
        for _ in range(3):
            runner(standin_tensorrt.inputs_of(2))
        device.fail["launch"] = 1
        with pytest.raises(EngineError, match="launch failed"):
            runner(standin_tensorrt.inputs_of(2))
        assert not any(stream.queue for stream in device.streams.values())


def test_contexts_that_are_not_needed_any_more(device):
    """Given more calls than there are plans for, then closing -> each context is dropped once, after its graph."""
    stream, dropped = device.cuda.create_stream(), []
    replay = Replay(
        device.cuda,
        stream,
        fresh=lambda call, _: call.shapes,
        sequence=lambda *_: device.enqueue(stream),
        check=lambda _: None,
        drop=lambda context: dropped.append((context, len(device.graphs))),
    )
    for size in range(20):
        for _ in range(4):
            replay.enqueue(Call(((size,),), ()), None)
        while not device.cuda.idle(stream):
            pass
    assert [context for context, _ in dropped] == [((size,),) for size in range(4)]
    assert all(graphs == 15 for _, graphs in dropped)
    replay.close()
    assert sorted(context for context, _ in dropped) == [((size,),) for size in range(20)]
    device.cuda.destroy_stream(stream)
    assert device.empty
