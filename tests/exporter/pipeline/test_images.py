"""What a bundle says of images, held to the network and to what is left open."""

from typing import Any

import pytest
import torch
from torch import nn

from plainconv.exporter.bundle import Manifest, TensorSpec
from plainconv.exporter.bundle.presets import preprocessing_given
from plainconv.exporter.errors import SourceError
from plainconv.exporter.pipeline.images import fill
from plainconv.exporter.source.network import Network

LOGITS = (TensorSpec("y", "float32", ("n", 5)),)
BOXES = (TensorSpec("boxes", "float32", ("n", 9, 4)), TensorSpec("scores", "float32", ("n", 9, 2)))
SIZES = [(32, 32), (64, 64), (160, 320)]


def filled(
    preprocessing: str, shape: tuple[Any, ...], outputs: tuple[TensorSpec, ...] = LOGITS, **source: Any
) -> Manifest:
    manifest = Manifest(inputs=(TensorSpec("x", "float32", shape),), outputs=outputs, source=source)
    network = Network("n", nn.Identity(), {"x": torch.zeros(1)}, preprocessing_given(preprocessing), {}, "0" * 64)
    fill(manifest, network, "detect" if outputs is BOXES else None, None)
    return manifest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("imagenet-64-tencrop", (1, 3, 64, 64)),
            "a batch of 1; take another --preprocessing, or give --dyn",
        ),
        (("imagenet-64-tencrop", ("n", 3, 64, 64), BOXES), "and postprocessing is detect, wanted classify"),
        (("imagenet-64", (1, 3, 64, 65)), "or another --input-shape"),
    ],
)
def test_what_does_not_fit_the_network(given: Any, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        filled(*given)


def test_what_is_left_open_covers_what_images_become() -> None:
    """Given ten crops, and open sizes -> taken where they are covered, else one line with both."""
    made = filled("imagenet-64-tencrop", ("n", 3, 64, 64), dynamic_batch=[1, 10, 10]).preprocessing
    assert made is not None and made.crops == 10
    with pytest.raises(SourceError, match="--dynamic-batch ends at 8; give it 10 or more"):
        filled("imagenet-64-tencrop", ("n", 3, 64, 64), dynamic_batch=[1, 4, 8])
    filled("yolo-160x320", (1, 3, "h", "w"), dynamic_size=SIZES)
    with pytest.raises(SourceError, match=r"gives 320x160 .*, --dynamic-size goes from 32x32 to 160x320; take"):
        filled("yolo-320x160", (1, 3, "h", "w"), dynamic_size=SIZES)
