"""Every network gives the published logits, float64, read through the checkpoint reader."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from plainconv.exporter.reparam import reparameterize
from plainconv.models.checkpoints.published import load_checkpoint


@pytest.mark.parametrize("form", [pytest.param("training", marks=pytest.mark.slow), "plain"])
def test_gives_the_published_logits(vector_name: str, form: str, conformance: ModuleType, tmp_path: Path) -> None:
    vector = conformance.load(vector_name)
    path = tmp_path / "published.pth"
    torch.save({key: torch.from_numpy(array) for key, array in vector.state().items()}, path)
    loaded = load_checkpoint(vector.network, path, slope=vector.slope, options=vector.options)
    assert loaded.info.layout == "training"
    network = loaded.module.double()
    path.unlink()  # up to 950 MB, which pytest would keep
    image = torch.from_numpy(vector.image).double()
    if form == "plain":
        network, report = reparameterize(network, image)
        norms = report.counts_before["norm"]
        assert report.counts_after["norm"] < norms or norms == 0  # AlexNet has none
    with torch.inference_mode():
        logits = network(image).numpy()
    assert np.abs(logits - vector.logits).max() <= 1e-10 * np.abs(vector.logits).max()
    # VanillaNet's logits hardly depend on the image under these weights: the part that does must agree by itself
    dependent, expected = (y[0] - y[1] for y in (logits, vector.logits))
    assert np.abs(dependent - expected).max() <= 1e-9 * np.abs(expected).max()


def test_half_way_slope_changes_the_logits(conformance: ModuleType) -> None:
    """The two vectors of VanillaNet-5 differ, so a reader that forgot the slope would be found out."""
    faded, half = conformance.load("vanillanet_5"), conformance.load("vanillanet_5_slope0.5")
    assert faded.shapes == half.shapes
    assert np.abs(faded.logits - half.logits).max() > 0.1


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("stem1.0.weight", [-0.0026777100283652544, -0.23031899333000183]),
        ("stem1.1.running_var", [0.9575703144073486, 1.0966591835021973]),
        ("stem1.1.weight", [1.0014994144439697, 0.8661073446273804]),
        ("stem1.1.bias", [0.5529439449310303, 0.27721184492111206]),
    ],
)
def test_weights_are_those_the_vectors_were_made_with(key: str, first: list[float], conformance: ModuleType) -> None:
    shape = (1, 1, 1, 2) if key == "stem1.0.weight" else (2,)
    assert conformance.weight(key, shape).ravel().tolist() == first
    assert conformance.image((2,)).tolist() == [0.1257302165031433, -0.13210485875606537]
