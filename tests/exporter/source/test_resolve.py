"""SOURCE as a user writes it → a network in eval mode, or one line that says why not."""

import pickle
import sys

import pytest
import torch
from torch import nn

from plainconv.exporter.errors import CheckpointError, SourceError
from plainconv.exporter.source.network import Request
from plainconv.exporter.source.resolve import load_network

NETS = """
import dataclasses
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

@dataclasses.dataclass
class Config:
    width: int = 5

def built(): return Net(Config().width)
def needs(width): return Net(width)
def train(): return Net().train()
def number(): return 42
def raises(): raise RuntimeError("first line\\nsecond line")
def leaves(): raise SystemExit(3)
def half(): return Net().half()
def brain(): return Net().bfloat16()
class Mixed(Net):
    def __init__(self):
        super().__init__()
        self.head.half()

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)).to(self.head.weight.dtype)).float()

def double(): return Net().double()
def wrapped(change):
    class Wrapped(Net):
        def forward(self, x): return change(super().forward(x))
    return Wrapped()
def pair(): return wrapped(lambda y: (y, y))
def mapping(): return wrapped(lambda y: {"y": y})
def label(): return wrapped(lambda y: y.argmax(1))
def short(): return wrapped(lambda y: y.argmax(1).short())
def nothing(): return wrapped(lambda y: y[:, :0])
def nan(): return wrapped(lambda y: torch.log(-y.abs() - 1))
def infinite():
    net = Net()
    net.conv.weight.data[0] = float("inf")
    return net
def two(): 
    class Two(Net):
        def forward(self, x, y): return super().forward(x) + y
    return Two()
def words(): return nn.Sequential(nn.Embedding(10, 4), nn.Flatten())
def line(): return nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU())
def mlp(): return nn.Sequential(nn.Linear(16, 4))
def plain(): return nn.Sequential(nn.ReLU())
number_3 = 3
"""

SHAPE = (1, 3, 8, 8)


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's folder; what is imported from it is forgotten afterwards."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def load(user, name, shape=SHAPE, **request):
    return load_network(f"{user / 'nets.py'}:{name}", Request(input_shape=shape, **request))


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("Net", SHAPE, {}),
        ("train", SHAPE, {}),
        ("built", SHAPE, {}),
        ("needs", SHAPE, {"width": 2}),
        ("line", (1, 4, 100), {}),
        ("mlp", (1, 16), {}),
        ("plain", (2, 3, 5), {}),
        ("label", SHAPE, {}),
    ],
)
def test_callable_gives_a_network_in_eval_mode(user, name, shape, options):
    network = load(user, name, shape, options=options)
    assert network.example.shape == shape
    assert not any(module.training for module in network.module.modules())
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert len(network.weights_sha256) == 64


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("number", "returned int; wanted an nn.Module"),
        ("raises", "raised RuntimeError: first line; wanted an nn.Module"),
        ("leaves", "raised SystemExit: 3; wanted an nn.Module"),
        ("needs", "'width'; wanted an nn.Module; its arguments are given by --set NAME=VALUE"),
        ("absent", "has no callable absent; it has Net, Config"),
        ("number_3", "has no callable number_3"),
        ("nothing", "gives an empty output"),
        ("short", "gives logits in torch.int16; wanted one of bool, int8"),
        ("nan", "gives NaN or infinity for a normal input of shape 1,3,8,8"),
        ("infinite", "conv.weight has 27 NaN or infinite values"),
        ("double", "conv.weight is float64 on cpu; wanted float32 on cpu"),
        ("two", "cannot take one float32 input of shape 1,3,8,8"),
        ("words", "cannot take one float32 input of shape 1,3,8,8"),
    ],
)
def test_what_is_no_network_is_one_line(user, name, says):
    with pytest.raises(SourceError) as refused:
        load(user, name)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "dtype", "precision"), [
    ("half", torch.float16, "fp16"), ("brain", torch.bfloat16, "bf16"), ("Mixed", torch.float16, "fp16"),
])  # fmt: skip
def test_half_precision_is_widened_and_said(user, name, dtype, precision):
    """Given weights in half precision → the same numbers in float32, buffers too, and one line that says so."""
    network = load(user, name)
    state = network.module.state_dict()
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    narrow = {key: x for key, x in state.items() if x.is_floating_point() and (name != "Mixed" or "head" in key)}
    assert all(torch.equal(x.to(dtype).float(), x) for x in narrow.values())
    type_ = str(dtype).removeprefix("torch.")
    found = f"{network.name} has weights in {type_}: exported in float32, which holds each exactly"
    assert network.warnings == (f"{found}; --precision {precision} makes it that again",)


@pytest.mark.parametrize(("name", "wanted"), [("pair", ("output_0", "output_1")), ("mapping", ("y",))])
def test_outputs_are_named(user, name, wanted):
    """Given a network that returns a tuple or a dict -> its outputs by name, and a network that returns them flat."""
    network = load(user, name)
    assert network.output_names == wanted
    returned = network.module(network.example)
    assert len(returned if isinstance(returned, tuple) else (returned,)) == len(wanted)


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (1, 4, 8, 8), (8, 8), (1, 3, 8, 8, 8), (1, 3, 2**31 - 1, 2**31 - 1)])
def test_shape_it_cannot_take_is_named(user, shape):
    with pytest.raises(SourceError, match=f"of shape {','.join(map(str, shape))} .*--input-shape N,C,H,W"):
        load(user, "Net", shape)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("vanilanet_6", "did you mean vanillanet_6"),
        ("nets.py", "wanted FILE.py:CALLABLE"),
        ("nets.py:", "wanted FILE.py:CALLABLE"),
        ("timm:", "timm:NAME"),
        ("absent.py:f", "absent.py is not a file"),
        ("absent.module:f", "cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        ("vanillanet_digits", "has no weights; wanted --checkpoint FILE, or --random-init SEED"),
    ],
)
def test_source_that_names_nothing(source, says, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SourceError) as refused:
        load_network(source, Request())
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["def f(:", "raise SystemExit", "import absent", "from . import sibling"])
def test_file_that_does_not_import_is_one_line(user, text):
    (user / "broken.py").write_text(text)
    with pytest.raises(SourceError, match=r"broken.py cannot be imported: \w+: .*; wanted a file that imports"):
        load_network(f"{user / 'broken.py'}:f", Request())


@pytest.mark.parametrize("request_", [{"slope": 0.5}, {"layout": "deploy"}])
def test_options_of_the_catalogue_are_refused_elsewhere(user, request_):
    with pytest.raises(SourceError, match="are for networks of the catalogue"):
        load(user, "Net", checkpoint=user / "c.pth", **request_)


def test_users_packages_of_our_names_are_theirs(user):
    """Given a repository with packages models and engines → they are what its file imports, and ours work beside."""
    for package in ("models", "engines"):
        (user / package).mkdir()
        (user / package / "__init__.py").write_text(f"OWNER = 'user of {package}'")
    (user / "net.py").write_text(
        "import engines, models\nfrom nets import Net\n"
        "def build():\n    net = Net()\n    net.owners = models.OWNER, engines.OWNER\n    return net"
    )
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ("models", "engines")}
    try:
        network = load_network(f"{user / 'net.py'}:build", Request(input_shape=SHAPE))
        assert network.module.owners == ("user of models", "user of engines")
        ours = load_network("vanillanet_digits", Request(random_init=0))
        assert type(ours.module).__module__ == "plainconv.models.vanillanet"
    finally:
        sys.modules.update(hidden)


def test_users_file_named_as_a_library_shadows_nothing(user):
    (user / "torch.py").write_text("from nets import Net\nimport pickle\nWHO = __name__")
    network = load_network(f"{user / 'torch.py'}:Net", Request(input_shape=SHAPE))
    assert sys.modules["torch"] is torch
    assert pickle.loads(pickle.dumps(network.module)).state_dict().keys() == network.module.state_dict().keys()


def test_network_can_be_freed(user):
    network = load(user, "Net")
    del network.module
    assert not hasattr(network, "module")


def test_random_init_is_repeatable_and_random(user):
    first, again, other = (load(user, "Net", random_init=seed).weights_sha256 for seed in (0, 0, 1))
    assert first == again != other


def test_own_checkpoint_is_loaded(user):
    state = nn.Sequential(nn.Linear(16, 4)).state_dict()
    torch.save(state, user / "c.pth")
    network = load(user, "mlp", (1, 16), checkpoint=user / "c.pth")
    assert torch.equal(network.module[0].weight, state["0.weight"])
    assert network.provenance["checkpoint"]["file"] == "c.pth"


@pytest.mark.parametrize(("key", "index"), [("best", 1), ("model", 0)])
def test_key_chooses_and_is_recorded(user, key, index):
    states = [nn.Sequential(nn.Linear(16, 4)).state_dict() for _ in range(2)]
    torch.save({"model": states[0], "best": {f"module.{k}": v for k, v in states[1].items()}}, user / "c.pth")
    network = load(user, "mlp", (1, 16), checkpoint=user / "c.pth", key=key)
    assert torch.equal(network.module[0].weight, states[index]["0.weight"])
    assert network.provenance["checkpoint"]["weights"] == key
    with pytest.raises(CheckpointError, match="model and best both fit and differ; say which: --key model or --key"):
        load(user, "mlp", (1, 16), checkpoint=user / "c.pth")


def test_what_a_checkpoint_has_beside_the_weights_is_warned_of(user):
    state = nn.Sequential(nn.Linear(16, 4)).state_dict()
    torch.save({**state, "n_averaged": torch.tensor(3), "aux.weight": torch.ones(2)}, user / "c.pth")
    network = load(user, "mlp", (1, 16), checkpoint=user / "c.pth", drop=("aux.*",))
    assert network.warnings == ("c.pth: left out what is no weight: n_averaged",)


@pytest.mark.parametrize("given", [{"key": "model"}, {"drop": ("aux.*",)}])
def test_key_and_drop_need_a_checkpoint(user, given):
    with pytest.raises(SourceError, match="--key or --drop given without --checkpoint"):
        load(user, "mlp", (1, 16), **given)


def test_checkpoint_of_a_timm_network_as_its_trainer_wrapped_it(user):
    timm = pytest.importorskip("timm")
    state = timm.create_model("test_vgg", pretrained=False).state_dict()
    torch.save({"state_dict": {f"model._orig_mod.{k}": v for k, v in state.items()}}, user / "c.pth")
    network = load_network("timm:test_vgg", Request(checkpoint=user / "c.pth", input_shape=(1, 3, 96, 96)))
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.module.state_dict().items())
