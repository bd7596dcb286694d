"""What a bundle says of images: how one becomes the input, what the outputs mean, and the names of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bundle import Manifest, Preprocessing, classes_of, default_of
from ..bundle.postprocessing import not_averaged, postprocessing_given
from ..bundle.preprocessing import TEN, misfit
from ..bundle.presets import preprocessing_given
from ..errors import SourceError
from ..source.images import classes_given
from ..source.network import Network


def check_given(preprocessing: Any, postprocess: str | None, classes: Any, is_folded_open: bool) -> None:
    """Raise SourceError for what is wrong whatever the network is, before any work."""
    if is_folded_open:
        said = "--fold-preprocessing takes images [N, H, W, C], --dynamic-size opens those of [N, C, H, W]"
        raise SourceError(f"{said}; leave one of them out")
    preprocessing_given(preprocessing)
    postprocessing_given(postprocess)
    classes_given(classes)


def fill(
    manifest: Manifest, network: Network, postprocess: str | None, classes: str | Path | Sequence[str] | None
) -> tuple[str, ...]:
    """Into the manifest, whose inputs and outputs are known; returns what the user should know.

    Raises SourceError, in one line, where what was asked for does not fit them.
    """
    wanted = network.preprocessing
    if wanted is not None:
        _check_fit(wanted, manifest)
    manifest.preprocessing = wanted
    manifest.postprocessing = postprocessing_given(postprocess, manifest.outputs)
    record = manifest.postprocessing or default_of(manifest.outputs)
    if wanted is not None and (problem := not_averaged(wanted.crops, record)):
        raise SourceError(f"{problem}; take another --preprocessing")
    count = None if record is None else classes_of(record, manifest.outputs)
    names = classes_given(classes)
    if names and count not in (None, len(names)):
        raise SourceError(f"--classes has {len(names)} names, the network tells {count} classes apart; give as many")
    manifest.classes = names or (network.classes if count in (None, len(network.classes)) else ())
    if network.classes and not manifest.classes:
        return (f"the checkpoint names {len(network.classes)} classes, the network tells {count} apart: left out",)
    return ()


def _check_fit(wanted: Preprocessing, manifest: Manifest) -> None:
    """Raise SourceError where the network does not take what images become, or not for these open sizes."""
    if problem := misfit(wanted, manifest.inputs):
        other = f"give --dynamic-batch 1:{TEN}:{TEN}" if "crops of an image" in problem else "another --input-shape"
        raise SourceError(f"{problem}; take another --preprocessing, or {other}")
    most = manifest.source.get("dynamic_batch", [0])[-1]
    if 0 < most < wanted.crops:
        said = f"preprocessing gives {wanted.crops} crops of an image, --dynamic-batch ends at {most}"
        raise SourceError(f"{said}; give it {wanted.crops} or more")
    least, *_, largest = manifest.source.get("dynamic_size", ((), ()))
    sides = wanted.shape[1:] if wanted.layout == "nchw" else wanted.shape[:2]
    ranges = zip(sides, least, largest, strict=False)
    if not all(side is None or low <= side <= high for side, low, high in ranges):
        made, low, high = ("x".join(map(str, each)) for each in (sides, least, largest))
        said = f"preprocessing gives {made} (height x width), --dynamic-size goes from {low} to {high}"
        raise SourceError(f"{said}; take another --preprocessing, or other sizes")
