"""The blocks and the head of YOLOR, as published."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plainconv.models.detection.csp import CSP, CSP2, SPPCSP, DownC, IDetect
from plainconv.models.detection.parnet_yolo import ParNetYolo


@pytest.fixture(scope="module")
def levels(conformance: ModuleType) -> dict[str, Tensor]:
    vector = conformance.load_parts("yolor_blocks")

    def run(prefix: str, block: nn.Module, x: Tensor) -> Tensor:
        state = {key: torch.from_numpy(array) for key, array in vector.state(f"{prefix}.").items()}
        block.load_state_dict(state)
        with torch.inference_mode():
            return block.double().eval()(x)  # type: ignore[no-any-return]

    fine, coarse = (torch.from_numpy(conformance.image(shape)).double() for shape in ((1, 48, 8, 8), (1, 64, 2, 2)))
    csp = run("csp", CSP(24, 24, 2), run("csp2", CSP2(48, 24, 3), fine))
    return {"spp": run("spp", SPPCSP(64, 32), coarse), "csp": csp, "down": run("down", DownC(24, 40), csp)}


@pytest.fixture(scope="module")
def decoded(conformance: ModuleType, levels: dict[str, Tensor]) -> Tensor:
    vector = conformance.load_parts("yolor_blocks")
    head = IDetect(80, vector.options["anchors"], (24, 40, 32))
    state = {key: torch.from_numpy(array) for key, array in vector.state("detect.").items()}
    head.load_state_dict({**state, "anchors": head.anchors, "anchor_grid": head.anchor_grid})
    with torch.inference_mode():
        return head.double().eval()([levels["csp"], levels["down"], levels["spp"]])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["spp", "csp", "down"])
def test_block_computes_the_published_one(name: str, levels: dict[str, Tensor], conformance: ModuleType) -> None:
    assert conformance.load_parts("yolor_blocks").error(name, levels[name].numpy()) <= 1e-10


def test_head_decodes_as_published(decoded: Tensor, conformance: ModuleType) -> None:
    assert conformance.load_parts("yolor_blocks").error("decoded", decoded.numpy()) <= 1e-10


def test_suppression_keeps_the_published_detections(decoded: Tensor, conformance: ModuleType) -> None:
    vector: Any = conformance.load_parts("yolor_blocks")
    told, wanted = vector.options["nms"], vector.outputs["dets"]
    network = ParNetYolo(
        planes=(8, 8, 8, 8),
        neck=8,
        score_threshold=told["conf_thres"],
        iou_threshold=told["iou_thres"],
        detections=told["max_det"],
    )
    found = {name: tensor[0].numpy() for name, tensor in network.best_of(decoded).items()}
    count = int(found["count"])
    assert count == len(wanted) and bool(found["exact"])
    assert found["labels"][:count].tolist() == wanted[:, 5].tolist()
    assert np.abs(found["boxes"][:count] - wanted[:, :4]).max() <= 1e-9
    assert np.abs(found["scores"][:count] - wanted[:, 4]).max() <= 1e-12
