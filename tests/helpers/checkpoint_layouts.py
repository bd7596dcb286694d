"""What known trainers write into a checkpoint file, one layout each, of harmless types and a small network of our own.

`LAYOUTS` maps a name to a file's content; its plain weights are those of `STATE`, averaged ones those of `OTHER`.
"""

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import random
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

State = dict[str, Tensor]


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.proj = nn.Conv2d(4, 6, 1, bias=False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(6, 2)


def drawn(seed: int, network: Callable[[], nn.Module] = Net) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else torch.tensor(7)
        for key, tensor in network().state_dict().items()
    }


STATE, OTHER = drawn(1), drawn(2)


def at(prefix: str, state: Mapping[str, Any] = STATE) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


def inside(old: str, new: str, state: Mapping[str, Any] = STATE) -> dict[str, Any]:
    return {key.replace(old, new, 1): value for key, value in state.items()}


def ddp() -> dict[str, Any]:
    optimizer = torch.optim.AdamW(Net().parameters()).state_dict()
    return {"optimizer": optimizer, "lr_scheduler": {"base_lrs": [0.1], "last_epoch": 3}, "scaler": {"scale": 2.0}}


def averaged_model(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    network = Net()
    network.load_state_dict(dict(state))
    return dict(AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9)).state_dict())


def counted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a profiler leaves behind in each module."""
    counts = {f"{m}.{c}": torch.zeros(1) for m in ("backbone.stem", "head") for c in ("total_ops", "total_params")}
    return {**state, **counts, "total_ops": torch.zeros(1), "total_params": torch.zeros(1)}


ARGS = argparse.Namespace(model="resnet", data_path=pathlib.Path("/data"), lr=np.float64(0.1), epochs=np.int64(90))
MATRICES = {k: v.flatten(1) if k.endswith("proj.weight") else v for k, v in STATE.items()}
NUMPY = {k: v.numpy() for k, v in STATE.items()}

LAYOUTS: dict[str, Any] = {
    "bare": STATE,
    "ordered": collections.OrderedDict(STATE),
    "bare, wrapped twice": at("module._orig_mod."),
    "torchvision reference": {"model": STATE, **ddp(), "epoch": 3, "args": ARGS},
    "torchvision reference with ema": {
        "model": STATE,
        **ddp(),
        "epoch": 3,
        "args": ARGS,
        "model_ema": averaged_model(OTHER),
    },
    "ImageNet example": {"epoch": 1, "arch": "x", "state_dict": at("module."), "best_acc1": torch.tensor(7.0), **ddp()},
    "timm": {
        "epoch": 1,
        "arch": "x",
        "state_dict": STATE,
        "optimizer": ddp()["optimizer"],
        "version": 2,
        "args": ARGS,
        "amp_scaler": {},
        "state_dict_ema": OTHER,
        "metric": 71.5,
    },
    "timm, numpy metric": {"state_dict": STATE, "metric": np.float64(71.5), "epoch": np.int64(4)},
    "Lightning model.": {
        "epoch": 1,
        "global_step": 9,
        "pytorch-lightning_version": "2.1",
        "state_dict": at("model."),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [ddp()["optimizer"]],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "path": pathlib.PurePosixPath("a")},
    },
    "Lightning net.": {"state_dict": at("net.")},
    "Lightning network.": {"state_dict": at("network.")},
    "Lightning, criterion beside": {"state_dict": {**at("model."), "criterion.weight": torch.ones(2)}},
    "Lightning, metrics beside": {
        "state_dict": {**at("model."), "train_acc.tp": torch.ones(2), "val_loss.value": torch.ones(1)}
    },
    "Lightning, compiled": {"state_dict": at("model._orig_mod.")},
    "Lightning, EMA inside": {
        "state_dict": {**at("model."), **at("ema_model.module.", OTHER), "ema_model.n_averaged": torch.tensor(3)}
    },
    "Lightning, EMA callback": {
        "state_dict": at("model."),
        "callbacks": {"EMACallback": {"ema_state_dict": at("model.", OTHER)}},
    },
    "fastai": {"model": STATE, "opt": {"hypers": [{"lr": 0.1}], "state": [{"sqr_avg": torch.ones(3)}]}},
    "mmengine": {
        "meta": {
            "epoch": 1,
            "experiment_name": "x",
            "seed": 1,
            "dataset_meta": {"classes": ("a", "b")},
            "time": datetime.datetime(2024, 1, 2),
        },
        "state_dict": STATE,
        "message_hub": {"log_scalars": {"loss": np.array([1.0, 2.0])}, "resumed_keys": collections.OrderedDict()},
    },
    "mmengine EMA": {"state_dict": STATE, "ema_state_dict": {"steps": torch.tensor(4), **at("module.", OTHER)}},
    "mmcv, wrapped": {"meta": {}, "state_dict": at("student.")},
    "Ultralytics": {
        "epoch": -1,
        "best_fitness": np.float64(0.4),
        "model": STATE,
        "ema": None,
        "updates": None,
        "train_args": {"lr0": 0.01},
        "train_metrics": {},
        "date": datetime.datetime.now().isoformat(),
        "version": "8",
        "license": "AGPL",
        "docs": "https://",
    },
    "DDP inside": {"model": inside("backbone.", "backbone.module.")},
    "FSDP": inside("backbone.", "_fsdp_wrapped_module.backbone._fsdp_wrapped_module."),
    "activation checkpoints": inside("backbone.stem", "backbone.stem._checkpoint_wrapped_module"),
    "DeepSpeed": {"module": STATE, "optimizer": None, "global_steps": 3, "ds_config": {}, "buffer_names": ["a"]},
    "Fabric": {"model": at("_forward_module."), "iteration": 3},
    "AveragedModel": averaged_model(STATE),
    "AveragedModel beside": {"model": STATE, "swa_model": averaged_model(OTHER)},
    "BasicSR": {"params": STATE},
    "BasicSR EMA": {"params": STATE, "params_ema": OTHER},
    "BasicSR EMA alone": {"params_ema": STATE},
    "DINO teacher": {"teacher": {**at("backbone."), "head.mlp.0.weight": torch.ones(3, 3)}, "epoch": 3, "args": ARGS},
    "DINO student": {
        "student": {**at("module.backbone."), "module.head.mlp.weight": torch.ones(3)},
        "dino_loss": {"center": torch.ones(1, 3)},
    },
    "DINO backbone.module.": {"teacher": at("backbone.module.")},
    "MoCo": {
        "state_dict": {**at("module.encoder_q."), "module.queue": torch.ones(2, 3), "module.queue_ptr": torch.zeros(1)}
    },
    "model_state_dict": {
        "epoch": 1,
        "model_state_dict": STATE,
        "optimizer_state_dict": ddp()["optimizer"],
        "loss": torch.tensor(0.3),
    },
    "net": {"net": at("module."), "acc": 93.1, "epoch": 9},
    "network": {"network": STATE},
    "weights": {"weights": STATE, "config": types.SimpleNamespace(width=3)},
    "nested": {"state": {"model": {"weights": STATE}}, "step": 3},
    "in parts": {
        "backbone": {k[9:]: v for k, v in STATE.items() if k[0] == "b"},
        "head": {k[5:]: v for k, v in STATE.items() if k[0] == "h"},
    },
    "profiler's counts": counted(STATE),
    "None and float entries": {**STATE, "scale": 1.5, "nothing": None, "name": "net"},
    "extra state": {**STATE, "backbone._extra_state": torch.ones(3), "head._extra_state": None},
    "criterion": {**STATE, "criterion.weight": torch.ones(2), "loss_fn.pos_weight": torch.ones(2)},
    "no counters": {k: v for k, v in STATE.items() if not k.endswith("num_batches_tracked")},
    "matrices": {"state_dict": MATRICES},
    "kernels": {k: v[..., None, None] if k == "head.weight" else v for k, v in STATE.items()},
    "NumPy arrays": {"model": NUMPY, "epoch": 3},
    "NumPy, by columns": {k: np.asfortranarray(v) for k, v in NUMPY.items()},
    "NumPy, the other byte order": {k: v.astype(v.dtype.newbyteorder(">")) for k, v in NUMPY.items()},
    "parameters": {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in STATE.items()},
    "dtype beside": {"model": STATE, "dtype": torch.float16},
    "random states": {
        "model": STATE,
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "numpy generator": np.random.default_rng(3),
            "cuda": [torch.get_rng_state()],
        },
    },
    "harmless objects": {
        "model": STATE,
        "a": collections.defaultdict(list, x=[1]),
        "b": {1, 2},
        "c": frozenset({3}),
        "d": collections.deque([1.0], maxlen=3),
        "e": collections.Counter("abc"),
        "f": datetime.timedelta(1),
        "g": datetime.date(2024, 1, 2),
        "h": decimal.Decimal("1.5"),
        "i": fractions.Fraction(1, 3),
        "j": uuid.UUID(int=3),
        "k": 1j,
        "l": slice(3),
        "m": b"bytes",
        "n": range(3),
        "o": np.bool_(True),
        "p": np.arange(3),
        "q": np.array(["a"]),
        "r": np.float32,
        "s": float,
        "t": torch.Size([3]),
        "u": torch.device("cpu"),
        "v": 10**30,
        "w": np.array([None]),
        "x": datetime.UTC,
    },
    "nested defaultdict": collections.defaultdict(dict, model=STATE),
    "namespace": {
        "model": STATE,
        "args": types.SimpleNamespace(out=pathlib.Path("x"), when=datetime.datetime(2024, 1, 2)),
    },
}
