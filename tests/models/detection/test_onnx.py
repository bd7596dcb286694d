"""The detectors in ONNX, by `to_onnx`: ONNX Runtime finds what the eager network finds, at other sizes too."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from plainconv.exporter.to_onnx.export import onnx_from_module

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("fixture", "options"),
    [
        ("retinanet", {"nms": "plain"}),
        ("retinanet", {"nms": "node"}),
        ("mask_rcnn", {"nms": "plain"}),
        ("mask_rcnn", {"nms": "node", "sampling": 2, "paste": True}),
    ],
)
def test_onnx_runtime_finds_the_same(
    fixture: str, options: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    network, _, image = request.getfixturevalue(fixture)(**options)
    network, image = network.float(), image.float()
    with torch.inference_mode():
        names = list(network(image))
    path = onnx_from_module(network, image, tmp_path / "detector.onnx", output_names=names, dynamic_batch=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.cat([image.flip(3), image, image.flip(2)])
    with torch.inference_mode():
        wanted = {name: tensor.numpy() for name, tensor in network(images).items()}
    found = dict(zip(names, session.run(None, {"input": images.numpy()}), strict=True))
    assert {name: array.shape for name, array in found.items()} == {n: array.shape for n, array in wanted.items()}
    assert found["count"].tolist() == wanted["count"].tolist()
    for b, count in enumerate(wanted["count"]):
        _match(found, wanted, b, int(count))


def _match(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], b: int, count: int) -> None:
    """Each detection has its own counterpart; of scores that float32 does not tell apart, the order may differ."""
    free = list(range(count))
    for i in range(count):
        (j, *_) = [
            j
            for j in free
            if found["labels"][b, j] == wanted["labels"][b, i]
            and np.abs(found["boxes"][b, j] - wanted["boxes"][b, i]).max() < 0.01
            and abs(found["scores"][b, j] - wanted["scores"][b, i]) < 1e-5
        ]
        free.remove(j)
        if "masks" in wanted:
            difference = np.abs(found["masks"][b, j].astype(float) - wanted["masks"][b, i])
            assert difference.mean() < 1e-3  # pasted, a pixel on the edge may fall either way
    assert not free
