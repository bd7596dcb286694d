"""The main job on tiny networks: every family, shapes and batches, and what stops it."""

import gc
import hashlib
import importlib.util
import json
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from places import ASSETS
from torch import nn

from plainconv.engines.options import BuildOptions
from plainconv.exporter.bundle import Bundle
from plainconv.exporter.errors import PlainconvError, PlanError, ReparamError
from plainconv.exporter.pipeline import export as pipeline
from plainconv.exporter.pipeline.build import BuildJob
from plainconv.exporter.pipeline.export import Job, export_bundle, validate_bundle
from plainconv.exporter.pipeline.split import SplitJob
from plainconv.exporter.source.network import Network, Request
from plainconv.exporter.source.resolve import weights_sha256


class Net(nn.Module):
    """conv, norm, ReLU, head; and what a test does to its result."""

    def __init__(self, change=lambda y: y):
        super().__init__()
        self.conv, self.norm, self.head, self.change = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3), change

    def forward(self, x):
        return self.change(self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


class OwnNorm(nn.Module):
    """A batch norm that the catalogue knows nothing of."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.register_buffer("mean", torch.randn(channels))
        self.register_buffer("var", torch.rand(channels) + 0.5)

    def forward(self, x):
        scale = self.weight / torch.sqrt(self.var + 1e-5)
        return (x - self.mean[:, None, None]) * scale[:, None, None]


@pytest.fixture
def export(monkeypatch, tmp_path):
    """Export a module as if SOURCE had named it."""

    def run(module, shape=(1, 3, 8, 8), **options):
        def load(source, request):
            torch.manual_seed(0)
            example, sha256 = torch.randn(shape), weights_sha256(module)
            return Network(source, module.eval(), {"input": example}, None, {"source": source}, sha256)

        monkeypatch.setattr(pipeline, "load_network", load)
        return export_bundle(Job("net", Request(), tmp_path / "b", **options))

    torch.manual_seed(0)
    return run


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 5, 1)), (1, 4, 20)),
        (nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), (1, 16)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), OwnNorm(4), nn.ReLU(), nn.Conv2d(4, 2, 1)), (1, 3, 8, 6)),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), (2, 3, 8, 8)),
    ],
    ids=["conv1d", "mlp", "own norm", "no parameters, batch of two"],
)
def test_users_network_holds(export, module, shape):
    bundle = Bundle.open(export(module, shape))
    assert [p["status"] for p in bundle.manifest.parities] == ["held", "held"]
    assert bundle.inputs[0].shape == shape
    assert validate_bundle(bundle.folder, eval_data=None) == []


@pytest.mark.parametrize("name", ["vanillanet_digits", pytest.param("parnet_digits", marks=pytest.mark.slow)])
def test_dynamic_batch_at_a_size_of_its_own(name, tmp_path):
    request = Request(checkpoint=ASSETS / f"{name}.pth", input_shape=(1, 1, 64, 32))
    job = Job(name, request, tmp_path / "b", dynamic_batch=(1, 2, 4))
    bundle = Bundle.open(export_bundle(job))
    assert bundle.inputs[0].shape == ("batch", 1, 64, 32)
    assert {p["status"] for p in bundle.manifest.parities} == {"held"}


def test_network_that_looks_at_its_values_is_refused(export, tmp_path):
    with pytest.raises(ReparamError, match="data-dependent control flow"):
        export(Net(lambda y: y if y.sum() > 0 else -y))
    assert list(tmp_path.iterdir()) == []


def test_output_that_does_not_depend_on_the_input_is_written_but_not_certified(export):
    bundle = Bundle.open(export(Net(lambda y: y * 0)))
    statuses = {p["status"] for p in bundle.manifest.parities}
    assert statuses == {"not certified: the output does not depend on the input; give images that it answers to"}


def test_eager_network_is_freed_before_the_onnx_is_written(monkeypatch, tmp_path):
    """Given a network that only the job holds → it is gone once the plain one exists."""
    alive = []

    def load(source, request):
        torch.manual_seed(0)
        module = Net().eval()
        alive.append(weakref.ref(module))
        return Network(
            source, module, {"input": torch.randn(1, 3, 8, 8)}, None, {"source": source}, weights_sha256(module)
        )

    def write(*arguments):
        gc.collect()
        assert alive[0]() is None
        return written(*arguments)

    written = pipeline._write_onnx
    monkeypatch.setattr(pipeline, "load_network", load)
    monkeypatch.setattr(pipeline, "_write_onnx", write)
    export_bundle(Job("net", Request(), tmp_path / "b"))


def test_lower_precisions_are_made_of_the_exported_network_and_timed(export):
    """Given precisions -> a graph of each in the bundle, held to the eager network, its seconds on record."""
    bundle = Bundle.open(export(Net(), build=BuildJob(precisions=("fp32", "fp16", "bf16"), engine="none")))
    assert [(graph.precision, graph.layers) for graph in bundle.manifest.graphs] == [
        ("fp16", {"fp16": 2}),
        ("bf16", {"bf16": 2}),
    ]
    steps = [(p["step"], p["status"]) for p in bundle.manifest.parities]
    assert steps[-2:] == [("ONNX fp16", "held"), ("ONNX bf16", "held")]
    assert {"fp16", "bf16"} <= set(bundle.manifest.extra["seconds"])
    assert bundle.engines == ()
    assert validate_bundle(bundle.folder, eval_data=None) == []


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (BuildJob(precisions=("fp15",), engine="none"), "unknown precision 'fp15'"),
        (BuildJob(precisions=("int8",), engine="none", calibration=Path("nope.npz")), "nope.npz: No such file"),
        (BuildJob(engine="tpu"), "unknown engine 'tpu'"),
        (BuildJob(engine="tensorrt_rtx", builder=BuildOptions(targets=("sm1",))), "unknown target 'sm1'"),
        (BuildJob(("fp32", "fp8"), "tensorrt_rtx", builder=BuildOptions(targets=("sm80",))), "sm80 has no fp8"),
    ],
)
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
def test_a_build_that_cannot_be_is_refused_before_the_network_is_loaded(monkeypatch, tmp_path, build, says):
    monkeypatch.setattr(pipeline, "load_network", lambda *_: pytest.fail("the network was loaded"))
    with pytest.raises(PlainconvError, match=says):
        export_bundle(Job("net", Request(), tmp_path / "b", build=build))
    assert list(tmp_path.iterdir()) == []


class Branches(nn.Module):
    """A stem, two branches that only their sum joins, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.left, self.right = (nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) * 2) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head((self.left(x) + self.right(x)).mean((2, 3)))


def streams(tmp_path, module):
    """Two streams, by a profile in which every node of the exported network takes a millisecond."""
    names = [node.name for node in onnx.load(module).graph.node]
    (tmp_path / "slow.json").write_text(json.dumps(dict.fromkeys(names, 1e-3)))
    return SplitJob(streams=2, profile=str(tmp_path / "slow.json"))


def test_split_of_the_exported_network_is_held_and_timed(export, tmp_path):
    """Given streams -> the parts in the bundle, held to the eager network on the user's images too; their seconds."""
    net = Branches()
    whole = export(net)
    job = streams(tmp_path, whole / "model.onnx")
    images = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        labels = net(torch.from_numpy(images)).argmax(1).numpy()
    np.savez(tmp_path / "labelled.npz", images=images, labels=labels)
    bundle = Bundle.open(export(net, force=True, split=job, eval_data=tmp_path / "labelled.npz"))
    (split,) = bundle.splits
    assert (split.devices, split.streams, split.engines) == (1, 2, ())
    steps = {p["step"]: p for p in bundle.manifest.parities}
    assert steps["parts fp32 (ONNX Runtime)"]["status"] == "held"
    assert steps["parts fp32 (ONNX Runtime)"]["accuracy"] == {"correct": 40, "images": 40, "changed": 0}
    assert {"split", "part engines"} <= set(bundle.manifest.extra["seconds"])
    assert validate_bundle(bundle.folder, eval_data=tmp_path / "labelled.npz") == []
    again = Bundle.open(bundle.folder).manifest
    assert again.splits == bundle.splits and len(again.parities) == len(bundle.manifest.parities)


def test_network_that_cannot_be_split_leaves_nothing(export, tmp_path):
    """Given a chain, and branches too small to pay -> PlanError with the reason, no bundle."""
    for module, says in ((Net(), "the network is a chain"), (Branches(), "leave it whole, or force it")):
        with pytest.raises(PlanError, match=says):
            export(module, split=SplitJob(devices=2))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (SplitJob(), "0 of --devices, --streams and --plan given"),
        (SplitJob(plan=Path("nope.json")), "nope.json cannot be read"),
        (SplitJob(devices=2, profile="nope.json"), "nope.json cannot be read as JSON"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_the_network_is_loaded(monkeypatch, tmp_path, split, says):
    monkeypatch.setattr(pipeline, "load_network", lambda *_: pytest.fail("the network was loaded"))
    with pytest.raises(PlanError, match=says):
        export_bundle(Job("net", Request(), tmp_path / "b", split=split))
    assert list(tmp_path.iterdir()) == []


def test_the_plain_link_is_the_hash_that_the_specification_defines(export):
    """Given a bundle → its initialization link is reproduced from the weights by BUNDLE.md's own words."""
    net = Net()
    bundle = Bundle.open(export(net))
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        array = tensor.numpy()
        shape = ",".join(map(str, array.shape))
        digest.update(f"{name}\0{array.dtype.name}\0{shape}\0".encode() + array.tobytes())
    assert bundle.manifest.chain[0].sha256 == digest.hexdigest()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_file_in_half_precision_is_certified(tmp_path, kind):
    """Given a file whose convs are in half precision → held to float64 by RMS, within a few times its own error."""
    number = getattr(onnx.TensorProto, kind.upper())
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 22]> g (float[1,3,8,8] x) => (float[1,4] y) {{
            h = Cast<to={number}>(x) a = Conv<pads=[1,1,1,1]>(h, w) b = Relu(a) c = Cast<to=1>(b)
            d = GlobalAveragePool(c) y = Flatten(d)
        }}"""
    )
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) / 5
    tensor = onnx.helper.make_tensor("w", number, w.shape, w.ravel())
    model.graph.initializer.append(tensor)
    onnx.save(model, tmp_path / "half.onnx")
    bundle = Bundle.open(export_bundle(Job(str(tmp_path / "half.onnx"), Request(), tmp_path / "b")))
    (parity,) = bundle.manifest.parities
    assert (parity["status"], parity["measure"]) == ("held", "rms")
    assert 0 < parity["own_error"] < parity["tolerance"] < 0.25
