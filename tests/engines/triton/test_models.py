"""Which models serve a bundle: engines or graphs, batches, devices, names."""

import dataclasses

import pytest
import triton_bundles as bundles
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.triton import choice as triton_choice
from plainconv.engines.triton import models as triton_models
from plainconv.engines.triton.models import MOST_LETTERS, model_name
from plainconv.engines.triton.repository import TritonOptions, plan_models
from plainconv.exporter.bundle import ShapeRange, SplitRecord, TensorSpec
from plainconv.exporter.errors import EngineError


def plan(bundle, **options):
    return plan_models(bundle, TritonOptions(**options))


def altered(bundle, **fields):
    """The same with other fields in its manifest."""
    manifest = dataclasses.replace(bundle.manifest, **fields)
    return dataclasses.replace(bundle, manifest=manifest)


@pytest.fixture
def make(tmp_path):
    return lambda *args, **options: bundles.make(tmp_path / "b", *args, **options)


# ------------------------------------------------------------------ which


def test_a_graph_alone(make):
    """Given a bundle without engines -> its fp32 graph by ONNX Runtime on the CPU, one model of its name."""
    planned = plan(make())
    (model,) = planned.models
    assert (planned.name, planned.precision, planned.notes) == ("small_net", "fp32", ())
    assert (model.runtime, model.gpus, model.files) == ("onnxruntime", None, {"model.onnx": "model.onnx"})
    assert (model.max_batch, model.delay_us, model.instances) == (32, 0, 1)


def test_a_graph_of_a_lower_precision_and_its_weights(make):
    """Given a precision -> its graph; weights keep the name that the graph knows them by."""
    bundle = make(data=True, fp16=True)
    assert plan(bundle, precision="fp16").models[0].files == {"model.onnx": "model.fp16.onnx"}
    (model,) = plan(bundle, name="n").models
    assert model.files == {"model.onnx": "model.onnx", "model.onnx.data": "model.onnx.data"}


def test_the_fastest_engine(make, tmp_path):
    """Given engines -> the fastest precision, or the one asked for, or still the graph."""
    make(fp16=True)
    bundles.add_engines(tmp_path / "b")
    bundle = bundles.add_engines(tmp_path / "b", "fp16")
    (model,) = plan(bundle).models
    assert (model.runtime, model.gpus, plan(bundle).precision) == ("tensorrt", (), "fp16")
    assert model.files == {"model.plan": "engines/net-tensorrt-fp16.engine"}
    assert plan(bundle, precision="fp32").models[0].files == {"model.plan": "engines/net-tensorrt-fp32.engine"}
    assert plan(bundle, devices=()).models[0].runtime == "onnxruntime"
    assert plan(bundle, engine="onnxruntime", devices=(1, 0, 1)).models[0].gpus == (1, 0)


def test_engines_of_tensorrt_rtx(make, tmp_path):
    """Given TensorRT-RTX engines alone -> the graph and a note of why; asked for TensorRT, an error that says so."""
    make()
    bundle = bundles.add_engines(tmp_path / "b", backend="tensorrt_rtx", batches=((1, 4, 16),))
    planned = plan(bundle)
    assert planned.models[0].runtime == "onnxruntime" and "TensorRT-RTX engines are left out" in planned.notes[0]
    assert planned.models[0].max_batch == 16  # what its user meant
    bundles.make(tmp_path / "s", bundles.FIVE)
    split = bundles.add_engines(tmp_path / "s", backend="tensorrt_rtx", batches=((1, 4, 16),))
    assert {m.max_batch for m in plan(split).models} == {16}
    with pytest.raises(
        EngineError, match=r"found TensorRT-RTX ones, which Triton's TensorRT backend cannot load; .*build"
    ):
        plan(bundle, engine="tensorrt")


def test_one_of_several_engines(make, tmp_path, monkeypatch):
    """Given two engines of one graph -> the one that runs here, or else the first; and a note."""
    make()
    bundle = bundles.add_engines(tmp_path / "b")
    (first,) = bundle.engines
    other = dataclasses.replace(first, file="engines/other.engine", targets=("sm86",))
    bundle = altered(bundle, engines=(first, other))
    monkeypatch.setattr(triton_choice, "why_not_run", lambda engine: "it is for another")
    assert plan(bundle).models[0].files["model.plan"] == first.file
    monkeypatch.setattr(triton_choice, "why_not_run", lambda engine: None if engine is other else "it is for another")
    assert plan(bundle).models[0].files["model.plan"] == other.file
    assert plan(bundle).notes == (
        "engines/other.engine is one of 2 TensorRT engines of its graph, for sm86, tensorrt 10.13.3.9",
    )


def test_a_split(make):
    """Given a split -> a model a part and an ensemble last; whole leaves it aside."""
    bundle = make(bundles.FIVE)
    models = plan(bundle).models
    assert [m.name for m in models] == [*(f"small_net.{part}" for part in bundles.FIVE), "small_net"]
    assert [m.runtime for m in models] == [*["onnxruntime"] * 5, "ensemble"]
    assert [len(plan(bundle, whole=True).models), len(plan(make_no(bundle)).models)] == [1, 1]
    assert models[-1].steps[0].outputs == {"a": "stem0.a"} and models[-1].steps[1].outputs == {"a": "stem1.a"}


def make_no(bundle):
    return altered(bundle, splits=())


def test_a_value_that_nothing_reads_is_no_tensor(make):
    """Given a part that gives what no other reads -> left out of the ensemble, which Triton would refuse with it."""
    right = plan(make(bundles.THREE)).models[-1].steps[1]
    assert right.outputs == {"r": "r"}


def test_engines_of_parts(make, tmp_path):
    """Given an engine of each part -> each on the GPU of its device."""
    make(bundles.FIVE)
    bundle = bundles.add_engines(tmp_path / "b", parts=True)
    models = plan(bundle).models[:-1]
    assert [m.runtime for m in models] == ["tensorrt"] * 5
    assert [m.gpus for m in models] == [(0,), (1,), (0,), (1,), (0,)]
    assert [m.gpus for m in plan(bundle, devices=(4, 2)).models[:-1]] == [(4,), (2,), (4,), (2,), (4,)]
    assert [m.gpus for m in plan(bundle, devices=(3, 3)).models[:-1]] == [(3,)] * 5
    assert plan(bundle, engine="onnxruntime").models[0].gpus is None
    assert plan(bundle, engine="onnxruntime", devices=(0, 1)).models[1].gpus == (1,)
    assert plan(bundle, devices=()).models[0].runtime == "onnxruntime"


def test_an_engine_lacking(make, tmp_path):
    """Given engines of some parts -> the graphs, or the engine of the whole with a note; TensorRT alone: an error."""
    make(bundles.FIVE)
    bundle = bundles.add_engines(tmp_path / "b", parts=True, but=("right",))
    assert {m.runtime for m in plan(bundle).models} == {"onnxruntime", "ensemble"}
    with pytest.raises(EngineError, match=r"found others, or some parts only; .*--engine onnxruntime"):
        plan(bundle, engine="tensorrt")
    bundle = bundles.add_engines(tmp_path / "b")
    planned = plan(bundle)
    assert [m.runtime for m in planned.models] == ["tensorrt"]
    assert planned.notes == ("the fp32 split is left aside: its part right has no TensorRT engine",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "tensorrt_rtx"}, "unknown engine 'tensorrt_rtx'; wanted one of auto, tensorrt, onnxruntime"),
        ({"engine": "tensorrt"}, "holds no TensorRT engine that serves it, found none; `exporter build"),
        ({"engine": "tensorrt", "precision": "fp16"}, "serves it in fp16, found none; .* --precision fp16"),
        ({"engine": "tensorrt", "devices": ()}, "a TensorRT engine runs on no CPU"),
        ({"precision": "int8"}, "there is no int8 graph in the bundle, which has fp32"),
        (
            {"devices": (0,)},
            "1 devices are given, the fp32 split is over 2; give --devices 0,1 or other GPUs, or --whole",
        ),
        ({"devices": (0, 1, 2)}, "3 devices are given"),
        ({"name": "-net"}, "'-net' is no model name"),
    ],
)
def test_what_a_bundle_has_not(make, options, said):
    with pytest.raises(EngineError, match=said):
        plan(make(bundles.FIVE), **options)


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("parts", [None, bundles.FIVE], ids=["whole", "split"])
@pytest.mark.parametrize(
    ("batches", "most"),
    [
        (((1, 8, 32),), 32),
        (((1, 1, 1),), 1),
        (((1, 1, 1), (2, 8, 16)), 16),
        (((1, 1, 1), (4, 8, 16)), 1),  # 2 and 3 would meet no profile
        (((4, 8, 16), (1, 2, 4)), 16),
        (((4, 8, 16),), 0),
    ],
)
def test_batches_of_engines(make, tmp_path, parts, batches, most):
    """Given optimization profiles -> the most such that every batch up to it is taken, as any number may meet."""
    make(parts)
    bundle = bundles.add_engines(tmp_path / "b", batches=batches, parts=parts is not None)
    planned = plan(bundle)
    assert {m.max_batch for m in planned.models} == {most}
    assert {m.profiles for m in planned.models if m.files} == {len(batches)}
    assert bool(planned.notes) == (most == 0)
    assert {m.delay_us for m in planned.models} == ({0, None} if parts and most > 1 else {0} if most > 1 else {None})
    batches_of = {(w.batch, w.shapes[name][0]) for m in planned.models for w in m.warmups for name in w.shapes}
    wanted = {(n, 4) for n in (1, *(b[1] for b in batches)) if n <= most} if most else {(1, batches[0][1])}
    assert batches_of == wanted


def test_the_smallest_engine_of_parts(make, tmp_path):
    """Given parts of different limits -> each its own, the ensemble the least."""
    bundle = make(bundles.FIVE)
    bundle = bundles.add_engines(tmp_path / "b", parts=True)
    (split,) = bundle.manifest.splits
    first = dataclasses.replace(split.engines[0], profiles=(bundles.profile(split.parts[0].inputs, (1, 2, 4)),))
    bundle = altered(bundle, splits=(dataclasses.replace(split, engines=(first, *split.engines[1:])),))
    assert [m.max_batch for m in plan(bundle).models] == [4, 32, 32, 32, 32, 4]
    assert [m.max_batch for m in plan(bundle, max_batch=3).models] == [3] * 6
    with pytest.raises(EngineError, match="a largest batch of 5, but the engine of part stem0 takes 1 to 4"):
        plan(bundle, max_batch=5)


def test_the_delay_is_paid_once(make):
    """Given a delay -> of the parts that read nothing but the network's inputs; the others take what waits already."""
    models = plan(make(bundles.FIVE), max_delay_us=70).models
    delays = {m.name.rpartition(".")[2]: m.delay_us for m in models}
    assert delays == {"stem0": 70, "stem1": 70, "left": 0, "right": 0, "fuse": 0, "small_net": None}


def test_a_fixed_batch(make):
    """Given a network of a fixed batch -> no batching, no word; options for it are refused."""
    bundle = make(batch=2)
    planned = plan(bundle)
    assert (planned.models[0].max_batch, planned.models[0].delay_us, planned.notes) == (0, None, ())
    assert [(w.batch, w.shapes) for w in planned.models[0].warmups] == [(1, {"x": (2, 4, 8, 8)})]
    with pytest.raises(EngineError, match=r"nothing can be batched: the batch of x .* is fixed; leave --max-batch out"):
        plan(bundle, max_batch=2)
    with pytest.raises(EngineError, match="takes no batches to wait for; leave --max-delay-us out"):
        plan(bundle, max_delay_us=5)


@pytest.mark.parametrize("shape", [("M", 4), (1, 4), ("N", "N"), ("N", "4*N"), ("N", "N+1")])
def test_an_axis_that_is_no_batch(make, shape):
    """Given an output whose first axis is another, or whose other axes grow with the batch -> no batching, and why."""
    bundle = make()
    bundle = altered(bundle, outputs=(TensorSpec("logits", "float32", shape), bundle.outputs[1]))
    planned = plan(bundle)
    assert planned.models[0].max_batch == 0
    assert "should be the open axis N of x" in planned.notes[0]


def test_a_part_that_is_not_batched(make):
    """Given one tensor between parts without the batch -> no model of the network batches."""
    bundle = make(bundles.FIVE)
    (split,) = bundle.manifest.splits
    left = dataclasses.replace(split.parts[2], outputs=(TensorSpec("l", "float32", ("l.0", 4, 8, 8)),))
    split = dataclasses.replace(split, parts=(*split.parts[:2], left, *split.parts[3:]))
    planned = plan(altered(bundle, splits=(split,)))
    assert {m.max_batch for m in planned.models} == {0}
    assert "axis 0 of l float32[l.0, 4, 8, 8]" in planned.notes[0]


def test_sizes_of_engines(make, tmp_path):
    """Given an open size -> warmed up at the usual one, where an engine says it; else not, and a note."""
    bundle = make(size="S")
    assert plan(bundle).models[0].warmups == () and "is not warmed up" in plan(bundle).notes[0]
    bundle = bundles.add_engines(tmp_path / "b", sizes=(4, 8, 16))
    for engine in ("auto", "onnxruntime"):
        warmups = plan(bundle, engine=engine).models[0].warmups
        assert [(w.batch, w.shapes) for w in warmups] == [(1, {"x": (4, 8, 8)}), (8, {"x": (4, 8, 8)})]


def test_profiles_of_different_sizes(make, tmp_path):
    """Given few large images or many small ones -> the fewer, as a batch of either size may be asked for."""
    make(size="S")
    bundle = bundles.add_engines(tmp_path / "b")
    (engine,) = bundle.engines
    profiles = tuple({"x": ShapeRange((1, 4, n, n), (b, 4, n, n), (b, 4, n, n))} for b, n in ((32, 8), (2, 16)))
    bundle = altered(bundle, engines=(dataclasses.replace(engine, profiles=profiles),))
    (model,) = plan(bundle).models
    assert model.max_batch == 2
    assert [(w.batch, w.shapes["x"]) for w in model.warmups] == [(1, (4, 8, 8)), (1, (4, 16, 16)), (2, (4, 16, 16))]


ranges = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(lambda r: (r[0], r[0] + r[1]))


@given(st.lists(ranges, min_size=1, max_size=4))
def test_every_batch_to_the_reach_is_taken_and_no_more(covered):
    """Given ranges of batches -> 1 to the reach lie in one, the next does not."""
    profiles = tuple({"x": ShapeRange((a, 4), (a, 4), (b, 4))} for a, b in covered)
    reach = triton_models._reach(profiles)
    taken = {n for a, b in covered for n in range(a, b + 1)}
    assert set(range(1, reach + 1)) <= taken and reach + 1 not in taken


# ------------------------------------------------------------------ names, and what no ensemble can be


@given(st.text(max_size=200))
def test_any_network_has_a_model_name(network):
    """Given what a network is called -> a name that could be given; one that could be stays the same."""
    name = model_name("", network)
    assert model_name(name, "") == name and len(name) <= MOST_LETTERS


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,130}", fullmatch=True))
def test_a_name_is_taken_as_it_is_or_refused(name):
    """Given a name -> itself; refused where it is long, or begins as a hidden folder or an option does."""
    if name[0] in ".-" or len(name) > MOST_LETTERS:
        with pytest.raises(EngineError, match="is no model name, wanted up to 120 letters"):
            model_name(name, "x")
    else:
        assert model_name(name, "x") == name


@pytest.mark.parametrize("name", ["a/b", "../a", "a b", "ä", "a\n", "a\\b", "a:b"])
def test_a_name_that_is_no_folder_or_url(name):
    with pytest.raises(EngineError, match="is no model name"):
        model_name(name, "x")


@given(st.lists(st.text("aA./ é_", min_size=1, max_size=5), min_size=1, max_size=6, unique_by=str.lower))
def test_names_of_parts_differ(names):
    """Given parts of any names -> model names that differ on any file system."""

    class Named:
        def __init__(self, name):
            self.part = self
            self.name = name

    class Chosen:
        pieces = tuple(map(Named, names))

    made = triton_models._names("net", Chosen, "a" * 64)
    assert len({name.lower() for name in made}) == len(names)
    assert all(model_name(name, "") == name and name.startswith("net.") for name in made)


def test_a_name_too_long_for_its_parts(make):
    with pytest.raises(
        EngineError, match=f"has {MOST_LETTERS + 5} letters, wanted up to {MOST_LETTERS}; give a shorter"
    ):
        plan(make(bundles.FIVE), name="n" * (MOST_LETTERS - 1))


def test_tensors_named_as_the_network(make):
    """Given an output of the name that a value between parts would get -> the value gets another."""
    bundle = make(bundles.FIVE)
    (split,) = bundle.manifest.splits
    bundle = altered(bundle, outputs=(*bundle.outputs, TensorSpec("left.l", "float32", ("N", 4))))
    steps = triton_models._steps(split, {p.name: p.name for p in split.parts}, bundle)
    assert steps[2].outputs == {"l": "left.l_"} and steps[4].inputs["l"] == "left.l_"


def part(split: SplitRecord, index, **fields):
    parts = list(split.parts)
    parts[index] = dataclasses.replace(parts[index], **fields)
    return dataclasses.replace(split, parts=tuple(parts))


def test_what_no_ensemble_can_be(make):
    """Given a part that reads or gives nothing, an input for nobody, an output that is an input -> refused."""
    bundle = make(bundles.FIVE)
    (split,) = bundle.manifest.splits
    wrong = {
        "its part small_net.stem0 reads or gives nothing": altered(
            bundle, splits=(part(split, 2, inputs=(), sources={}),)
        ),
        "its part small_net.right reads or gives nothing": altered(bundle, splits=(part(split, 3, outputs=()),)),
        "its input y is read by no part": altered(
            bundle, inputs=(*bundle.inputs, TensorSpec("y", "float32", ("N", 1)))
        ),
        "its output x is an input": altered(
            bundle, splits=(dataclasses.replace(split, results={**split.results, "x": None}),)
        ),
    }
    for said, each in wrong.items():
        with pytest.raises(EngineError, match=f"the fp32 split is no ensemble that Triton takes: {said}; give --whole"):
            plan(each)


def test_a_scalar(make):
    """Given an output of no axes -> Triton has none; of one axis, the batch, it is one number an image."""
    bundle = make(batch=1)
    with pytest.raises(EngineError, match=r"s float32\[\] of small_net is a scalar, which Triton does not serve"):
        plan(altered(bundle, outputs=(TensorSpec("s", "float32", ()),)))
    bundle = altered(
        bundle, inputs=(TensorSpec("x", "float32", ("N",)),), outputs=(TensorSpec("s", "float32", ("N",)),)
    )
    (model,) = plan(bundle).models
    assert model.max_batch == 32 and model.warmups == ()
