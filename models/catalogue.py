"""The catalogue as data: names, families, parameters and sizes, without torch.

What builds a network, and its options, are loaded from the family's module when they are asked for.
"""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plainconv.exporter.bundle.presets import COCO, DIGITS, IMAGENET, YOLO, Recipe
from plainconv.exporter.errors import SourceError

from .options import Option, problems_of
from .parameters import PARAMETERS

if TYPE_CHECKING:
    from torch import Tensor, nn

CIFAR: Recipe = MappingProxyType(
    {**IMAGENET, "share": 1.0, "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
)


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue.

    `takes` says in words which inputs fit, `input_shape` is the published one [N, C, H, W]. `preprocessing` says what
    it was evaluated with, at any size: a recipe, as `exporter.bundle.presets` has them. `postprocess` says what the
    outputs mean, as the command line has it, where their shapes do not.
    `heads` names the classifier's weight [num_classes, …] in the training and in the deploy form, "" where the first
    axis of none is the number of classes.
    """

    name: str
    family: str
    module: str
    takes: str
    heads: tuple[str, str]
    input_shape: tuple[int, int, int, int] = (1, 3, 224, 224)
    preprocessing: Recipe = field(default_factory=lambda: IMAGENET)
    postprocess: str | None = None

    @property
    def params_training(self) -> int:
        """Parameters of the training form."""
        return PARAMETERS[self.name][0]

    @property
    def params_plain(self) -> int:
        """Parameters of the deploy form; these are what the papers' tables count."""
        return PARAMETERS[self.name][1]

    @property
    def options(self) -> Mapping[str, Option]:
        """What the network may be built with, by keyword."""
        return MappingProxyType(self._loaded().options_of(self.name))

    def build(self, *, deploy: bool = False, **options: Any) -> "nn.Module":
        """Build the network with `options`, and with the defaults of all others.

        Raises:
            ValueError: options do not fit each other.
        """
        defaults = {option: known.default for option, known in self.options.items()}
        return self._loaded().build(self.name, deploy=deploy, **{**defaults, **options})  # type: ignore[no-any-return]

    def options_from_state(self, state: Mapping[str, "Tensor"]) -> dict[str, Any]:
        """Read off a state dict the options that its shapes tell."""
        read = getattr(self._loaded(), "options_from_state", None)
        return read(state) if read else {}

    def _loaded(self) -> Any:
        return importlib.import_module(f".{self.module}", __package__)


def entries() -> Mapping[str, Entry]:
    """Every network by name, VanillaNet first."""
    return _CATALOGUE


def find(name: str) -> Entry:
    """Return the entry called `name`.

    Raises:
        SourceError: there is none; the message gives the closest names.
    """
    if name in _CATALOGUE:
        return _CATALOGUE[name]
    close = difflib.get_close_matches(name.lower().replace("-", "_"), _CATALOGUE, cutoff=0.5)
    remedy = f"did you mean {' or '.join(close)}?" if close else "`exporter models` lists them"
    raise SourceError(f"{name!r} is none of the {len(_CATALOGUE)} networks of the catalogue; {remedy}")


def create(name: str, *, deploy: bool = False, **options: Any) -> "nn.Module":
    """Build a network with the published state-dict keys, freshly initialized, in train mode.

    Args:
        name: one of `entries()`.
        deploy: build the published deploy form in place of the training form.
        options: of the network; `entries()[name].options` has them, with defaults.

    Raises:
        SourceError: the name is unknown, or an option is unknown, of the wrong kind or does not fit the others.
    """
    entry = find(name)
    if problems := problems_of(options, entry.options):
        raise SourceError(f"{name}: {'; '.join(problems)}")
    try:
        return entry.build(deploy=deploy, **options)
    except ValueError as error:
        raise SourceError(f"{name}: {error}") from error


_DETECTED = "heights and widths that are multiples of 32"
_WIDE, _SQUARE, _SCENE = (1, 3, 800, 1280), (1, 3, 640, 640), (1, 1, 96, 96)
_FAMILIES = {  # by how a name begins
    "retinanet": Entry("", "RetinaNet", "detection.retinanet", _DETECTED, ("", ""), _WIDE, COCO),
    "mask_rcnn": Entry("", "Mask R-CNN", "detection.mask_rcnn", _DETECTED, ("", ""), _WIDE, COCO),
    "parnet_xl_yolo": Entry("", "ParNet YOLO", "detection.parnet_yolo", _DETECTED, ("", ""), _SQUARE, YOLO),
    "parnet_xl_csp_yolo": Entry("", "ParNet YOLO", "detection.parnet_yolo", _DETECTED, ("", ""), _SQUARE, YOLO),
    "digits_detector": Entry(
        "",
        "Digits",
        "digits_detector",
        "heights and widths that are multiples of 16",
        ("", ""),
        _SCENE,
        DIGITS,
        "detect:,,,xyxy",
    ),
    "digits_segmenter": Entry(
        "",
        "Digits",
        "digits_segmenter",
        "heights and widths that are multiples of 8",
        ("", ""),
        _SCENE,
        DIGITS,
        "segment",
    ),
    "vanillanet": Entry(
        "", "VanillaNet", "vanillanet", "heights and widths from 32 on", ("cls2.0.weight", "cls.2.weight")
    ),
    "parnet": Entry("", "ParNet", "parnet", "heights and widths that are multiples of 32", ("head.fc.weight",) * 2),
    "resnet": Entry("", "ResNet", "resnet", "any height and width", ("fc.weight",) * 2),
    "alexnet": Entry("", "AlexNet", "alexnet", "heights and widths from 63 on", ("classifier.6.weight",) * 2),
    "repvgg": Entry("", "RepVGG", "repvgg", "any height and width", ("linear.weight",) * 2),
}


def _entries() -> Iterator[Entry]:
    for name in PARAMETERS:
        entry = replace(next(family for word, family in _FAMILIES.items() if name.startswith(word)), name=name)
        if name.endswith("_digits"):
            entry = replace(entry, input_shape=(1, 1, 32, 32), preprocessing=DIGITS)
        elif "_cifar" in name:
            takes = "heights and widths that are multiples of 4"
            entry = replace(entry, input_shape=(1, 3, 32, 32), preprocessing=CIFAR, takes=takes)
        elif "_ensemble" in name:
            entry = replace(entry, heads=("members.0.head.fc.weight",) * 2)
        elif entry.family == "VanillaNet":
            share = 0.95 if "_12" in name or "_13" in name else 0.875
            entry = replace(entry, preprocessing={**IMAGENET, "interpolation": "bicubic", "share": share})
        if name.endswith("_ada_pool"):
            entry = replace(entry, takes="any height and width")
        yield entry


_CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _entries()})
