"""What is wrong with a model repository: one thing broken at a time."""

import shutil
from pathlib import Path

import onnx
import pytest
import triton_bundles as bundles
from google.protobuf import text_format

from plainconv.engines.triton.config import read_config
from plainconv.engines.triton.repository import TritonOptions, problems, write_repository
from plainconv.exporter.errors import EngineError

KIND_AUTO, KIND_GPU, KIND_CPU = 0, 1, 2
TYPE_STRING, TYPE_FP16, TYPE_INT32 = 13, 10, 8


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two repositories: of ONNX graphs on the CPU, and of engines on GPUs 0 and 1."""
    folder = tmp_path_factory.mktemp("written")
    bundle = bundles.make(folder / "b", bundles.FIVE, data=True)
    write_repository(bundle, folder / "onnx", TritonOptions(name="net"))
    bundle = bundles.add_engines(folder / "b", parts=True, batches=((1, 1, 1), (1, 8, 32)))
    write_repository(bundle, folder / "tensorrt", TritonOptions(name="net", devices=(0, 1), max_delay_us=50))
    return folder


@pytest.fixture
def repository(written, tmp_path):
    """A copy of either, by name."""

    def copy(name):
        return Path(shutil.copytree(written / name, tmp_path / name))

    return copy


def edit(repository, name, change):
    """Change the configuration of a model."""
    path = repository / name / "config.pbtxt"
    config = read_config(path)
    change(config)
    path.write_text(text_format.MessageToString(config))


def step(config, name):
    return next(s for s in config.ensemble_scheduling.step if s.model_name == f"net.{name}")


@pytest.mark.parametrize("kind", ["onnx", "tensorrt"])
def test_what_is_written_has_none(repository, kind):
    folder = repository(kind)
    assert problems(folder) == problems(folder, ["net"]) == problems(folder, gpus=[0, 1]) == []


def test_models_of_others_are_no_concern(repository):
    """Given a model without a configuration, and a broken one, of others -> nothing; by name, they are."""
    folder = repository("onnx")
    (folder / "theirs").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken/config.pbtxt").write_text("name {")
    assert problems(folder) == []
    assert len(problems(folder, ["theirs", "broken"])) == 2


def test_no_repository(tmp_path):
    with pytest.raises(EngineError, match=r"absent cannot be read .*; give a model repository"):
        problems(tmp_path / "absent")


def set_(**fields):
    return lambda thing: [setattr(thing, key, value) for key, value in fields.items()]


def group(change):
    return lambda config: change(config.instance_group[0])


MODEL = {  # what to break of net.left, and what is said of it
    "name": (set_(name="other"), "is that of 'other'"),
    "max batch": (set_(max_batch_size=-1), "max_batch_size is -1"),
    "no input": (lambda c: c.ClearField("input"), "has no input"),
    "an input twice": (lambda c: c.input.add().CopyFrom(c.input[0]), "has no input, or one twice"),
    "no output": (lambda c: c.ClearField("output"), "has no output"),
    "a nameless input": (lambda c: set_(name="")(c.input[0]), "has no name"),
    "a type of none of ours": (lambda c: set_(data_type=TYPE_STRING)(c.input[0]), "has type TYPE_STRING"),
    "no dims": (lambda c: c.output[0].ClearField("dims"), "has dims []"),
    "an empty axis": (lambda c: c.output[0].dims.__setitem__(0, 0), "has dims [0, 8, 8]"),
    "a reshape": (lambda c: c.output[0].reshape.shape.append(4), "is reshaped from [4, 8, 8] to [4]"),
    "a platform of another backend": (set_(platform="pytorch_libtorch"), "does not go with backend"),
    "no instances": (lambda c: c.ClearField("instance_group"), "has no instance_group"),
    "a count": (group(set_(count=0)), "has 0 instances"),
    "a kind": (group(set_(kind=KIND_AUTO)), "runs on KIND_AUTO"),
    "a profile that is no number": (group(lambda g: g.profile.append("fast")), "wanted numbers"),
    "a GPU twice": (group(lambda g: (g.ClearField("gpus"), g.gpus.extend([1, 1]))), "names a GPU twice"),
    "a GPU of none of ours": (group(lambda g: g.gpus.append(7)), "of [0, 1]"),
    "batching without batches": (set_(max_batch_size=1), "batches dynamically up to 1"),
    "no warmup batch": (lambda c: set_(batch_size=0)(c.model_warmup[0]), "is a batch of 0, wanted 1 to 32"),
    "a warmup batch too large": (lambda c: set_(batch_size=33)(c.model_warmup[0]), "is a batch of 33"),
    "a warmup of nothing": (lambda c: c.model_warmup[0].inputs.clear(), "has inputs [], wanted"),
    "a warmup of an open axis": (
        lambda c: c.model_warmup[0].inputs["a"].dims.__setitem__(1, -1),
        "a is TYPE_FP32[batch, 4, -1, 8], wanted",
    ),
    "a warmup of another shape": (
        lambda c: c.model_warmup[0].inputs["a"].dims.__setitem__(1, 9),
        "a is TYPE_FP32[batch, 4, 9, 8], wanted",
    ),
    "a warmup of another type": (
        lambda c: set_(data_type=TYPE_FP16)(c.model_warmup[0].inputs["a"]),
        "a is TYPE_FP16[batch, 4, 8, 8], wanted TYPE_FP32[batch, 4, 8, 8]",
    ),
}


@pytest.mark.parametrize("name", MODEL)
def test_a_model(repository, name):
    """Given one field of an engine's configuration broken -> it is found, and named."""
    folder = repository("tensorrt")
    change, said = MODEL[name]
    edit(folder, "net.left", change)
    found = problems(folder, gpus=[0, 1])
    assert [line for line in found if line.startswith("net.left: ") and said in line], found


FILES = {
    "no configuration": ("tensorrt", "net.left/config.pbtxt", "cannot be read"),
    "no version": ("tensorrt", "net.left/1", "no version folder"),
    "no version of the ensemble": ("tensorrt", "net/1", "no version folder"),
    "no engine": ("tensorrt", "net.left/1/model.plan", "has no 1/model.plan"),
    "no graph": ("onnx", "net.left/1/model.onnx", "has no 1/model.onnx"),
    "no weights": ("onnx", "net.left/1/left.onnx.data", "has no 1/left.onnx.data, where weights"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(repository, name):
    """Given a file taken away -> it is found missing."""
    kind, file, said = FILES[name]
    folder = repository(kind)
    path = folder / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    model = file.partition("/")[0]
    found = problems(folder, [p.name for p in folder.iterdir()])
    assert [line for line in found if line.startswith(f"{model}: ") and said in line], found


def test_no_text_of_a_configuration(repository):
    """Given a configuration cut short, or with a field of no such message -> it is none; the others are checked."""
    folder = repository("onnx")
    path = folder / "net.left/config.pbtxt"
    path.write_text(path.read_text() + "\nmax_batch: 3")
    edit(folder, "net.right", set_(name="other"))
    found = problems(folder)
    assert "is no model configuration" in found[0] and "max_batch" in found[0]
    assert any(line.startswith("net.right: ") for line in found)


def test_an_empty_engine(repository):
    folder = repository("tensorrt")
    (folder / "net.left/1/model.plan").write_bytes(b"")
    assert problems(folder) == ["net.left: has no 1/model.plan"]


@pytest.mark.parametrize(("kind", "change"), [("onnx", KIND_GPU), ("tensorrt", KIND_CPU)])
def test_where_it_runs(repository, kind, change):
    """Given an engine on the CPU -> refused; a graph on a GPU -> fine, if it is one that it may use."""
    folder = repository(kind)
    edit(folder, "net.left", group(set_(kind=change)))
    assert (problems(folder) == []) == (kind == "onnx")
    edit(folder, "net.left", group(lambda g: g.gpus.append(3)))
    assert problems(folder, gpus=[0]) != []


def test_profiles_of_a_graph(repository):
    folder = repository("onnx")
    edit(folder, "net.left", group(lambda g: g.profile.append("0")))
    assert problems(folder) == ["net.left: has optimization profiles, which only a TensorRT engine has"]


def test_a_scalar_without_a_batch(repository):
    """Given a tensor reshaped to no axes in a model that does not batch -> Triton has no scalars."""
    folder = repository("tensorrt")

    def change(config):
        config.max_batch_size = 0
        config.ClearField("dynamic_batching")
        config.output[0].ClearField("dims")
        config.output[0].dims.append(1)
        config.output[0].reshape.SetInParent()

    edit(folder, "net.left", change)
    assert "net.left: output l: is a scalar, which Triton does not serve without a batch" in problems(folder)


GRAPH = {
    "a name": (lambda c: set_(name="z")(c.output[0]), "has outputs ['z'], its model.onnx has ['l']"),
    "a type": (
        lambda c: set_(data_type=TYPE_FP16)(c.output[0]),
        "output l is TYPE_FP16[-1, 4, 8, 8], in model.onnx TYPE_FP32",
    ),
    "an axis": (lambda c: c.output[0].dims.__setitem__(1, 9), "output l is TYPE_FP32[-1, 4, 9, 8], in model.onnx"),
    "a rank": (lambda c: c.output[0].dims.append(1), "output l is TYPE_FP32[-1, 4, 8, 8, 1]"),
    "the batch": (
        lambda c: (set_(max_batch_size=0)(c), c.ClearField("dynamic_batching")),
        "output l is TYPE_FP32[4, 8, 8]",
    ),
}


@pytest.mark.parametrize("name", GRAPH)
def test_a_graph_and_its_configuration(repository, name):
    """Given a configuration that says of its ONNX file what is not so -> it is found, from the file."""
    folder = repository("onnx")
    change, said = GRAPH[name]
    edit(folder, "net.left", change)
    found = problems(folder, ["net.left"])
    assert [line for line in found if said in line], found


def test_a_graph_of_another(repository):
    """Given the file of another part, and a file that is no ONNX -> found."""
    folder = repository("onnx")
    shutil.copy(folder / "net.fuse/1/model.onnx", folder / "net.left/1/model.onnx")
    assert any("has inputs ['a'], its model.onnx has ['l', 'r', 'x']" in line for line in problems(folder))
    (folder / "net.left/1/model.onnx").write_bytes(b"no graph")
    assert any("1/model.onnx is no ONNX file" in line for line in problems(folder))


def test_weights_of_an_inner_graph(repository):
    """Given a constant of a branch whose data lie in a file that is not there -> found, though no run has met it."""
    folder = repository("onnx")
    path = folder / "net.left/1/model.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="lost.bin")
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["z"], value=tensor)], "inner", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=inner))
    path.write_bytes(model.SerializeToString())
    assert problems(folder) == ["net.left: has no 1/lost.bin, where weights of model.onnx lie"]


WIRES = {  # what to break of the ensemble, and what is said
    "instances": (lambda c: c.instance_group.add(), "is an ensemble with an instance_group"),
    "a warmup": (lambda c: c.model_warmup.add(), "is an ensemble with an instance_group, a warmup"),
    "no steps": (lambda c: c.ensemble_scheduling.ClearField("step"), "has no steps"),
    "a step of no model": (
        lambda c: set_(model_name="net.lost")(step(c, "left")),
        "a step 'net.lost', which is no model",
    ),
    "batches of more than a member's": (set_(max_batch_size=33), "takes batches of 33, its step"),
    "no batches": (set_(max_batch_size=0), "takes batches of 0, its step"),
    "an input of none": (
        lambda c: step(c, "left").input_map.__setitem__("z", "x"),
        "step net.left maps inputs ['a', 'z']",
    ),
    "an input left out": (lambda c: step(c, "fuse").input_map.pop("r"), "step net.fuse maps inputs ['l', 'x']"),
    "an output of none": (lambda c: step(c, "left").output_map.__setitem__("z", "t"), "step net.left maps outputs"),
    "no outputs": (lambda c: step(c, "left").output_map.clear(), "step net.left maps outputs []"),
    "two makers": (
        lambda c: step(c, "stem1").output_map.__setitem__("a", "stem0.a"),
        "tensor 'stem0.a' is made twice, the second time by step net.stem1",
    ),
    "an input that is made": (lambda c: step(c, "left").output_map.__setitem__("l", "x"), "tensor 'x' is made twice"),
    "no maker": (
        lambda c: step(c, "left").input_map.__setitem__("a", "lost"),
        "tensor 'lost' is read by step net.left, but nothing makes it",
    ),
    "no reader": (
        lambda c: step(c, "left").input_map.__setitem__("a", "stem1.a"),
        "tensor 'stem0.a' is read by nothing",
    ),
    "an unused input": (
        lambda c: c.input.add().CopyFrom(type(c.input[0])(name="y", data_type=11, dims=[4])),
        "tensor 'y' is read by nothing",
    ),
    "an output that is not made": (
        lambda c: c.output.add().CopyFrom(type(c.output[0])(name="y", data_type=11, dims=[4])),
        "tensor 'y' is read by an output, but nothing makes it",
    ),
    "an output that is an input": (
        lambda c: c.output.add().CopyFrom(type(c.output[0])(name="x", data_type=11, dims=[4, 8, 8])),
        "output 'x' is an input too",
    ),
    "a cycle": (
        lambda c: step(c, "stem1").input_map.__setitem__("x", "r"),
        "the steps net.stem1, net.right, net.fuse wait for each other",
    ),
    "a step that waits for itself": (
        lambda c: step(c, "left").input_map.__setitem__("a", "left.l"),
        "the steps net.left, net.fuse wait for each other",
    ),
    "an output of another shape": (
        lambda c: c.output[0].dims.__setitem__(0, 5),
        "but an output reads TYPE_FP32[batch, 5]",
    ),
    "an output of another type": (
        lambda c: set_(data_type=TYPE_INT32)(c.output[0]),
        "an output reads TYPE_INT32[batch, 4]",
    ),
    "an input of another rank": (
        lambda c: c.input[0].dims.append(1),
        "'x' is made as TYPE_FP32[batch, 4, 8, 8, 1], but step",
    ),
    "a tensor of another shape": (
        lambda c: step(c, "left").input_map.__setitem__("a", "logits"),
        "tensor 'logits' is made as TYPE_FP32[batch, 4], but step net.left reads TYPE_FP32[batch, 4, 8, 8]",
    ),
}


@pytest.mark.parametrize("kind", ["onnx", "tensorrt"])
@pytest.mark.parametrize("name", WIRES)
def test_a_wire(repository, kind, name):
    """Given one thing of an ensemble broken -> it is found, whatever runs its parts."""
    folder = repository(kind)
    change, said = WIRES[name]
    edit(folder, "net", change)
    found = problems(folder)
    assert [line for line in found if line.startswith("net: ") and said in line], found


def test_a_part_that_changed(repository):
    """Given a part whose tensors became others after its ensemble -> the ensemble does not fit it."""
    folder = repository("tensorrt")
    edit(folder, "net.left", lambda c: set_(data_type=TYPE_FP16)(c.output[0]))
    assert any("'left.l' is made as TYPE_FP16[batch, 4, 8, 8], but step net.fuse" in line for line in problems(folder))
    edit(folder, "net.left", set_(max_batch_size=16))
    assert "net: takes batches of 32, its step net.left of 16" in problems(folder)


def test_an_open_axis_fits_any(repository):
    """Given an axis that one side leaves open -> it may be what the other says, as in Triton; a batch may not."""
    folder = repository("tensorrt")
    edit(folder, "net.left", lambda c: c.output[0].dims.__setitem__(1, -1))
    assert problems(folder) == []
