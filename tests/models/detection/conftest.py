"""The narrow detectors of the conformance vectors, with their weights, in float64."""

from collections.abc import Callable
from typing import Any

import conformance as conformance_helper
import pytest
import torch
from torch import Tensor, nn

from plainconv.models.detection.mask_rcnn import MaskRCNN
from plainconv.models.detection.retinanet import DIMS, STRIDES, RetinaNet

Detector = Callable[..., tuple[Any, conformance_helper.Parts, Tensor]]


def loaded(network: nn.Module, vector: conformance_helper.Parts) -> nn.Module:
    network.load_state_dict({key: torch.from_numpy(array) for key, array in vector.state().items()})
    return network.double().eval()


@pytest.fixture(scope="session")
def retinanet() -> Detector:
    """Given options → the network, its vector and its image, float64."""

    def build(
        vector_name: str = "retinanet_narrow", **options: Any
    ) -> tuple[nn.Module, conformance_helper.Parts, Tensor]:
        vector = conformance_helper.load_parts(vector_name)
        told = vector.options
        network = RetinaNet(
            told.get("dims", DIMS),
            told.get("strides", STRIDES),
            series_order=told["act_num"],
            channels=told.get("channels", 256),
            **options,
        )
        return loaded(network, vector), vector, torch.from_numpy(vector.image).double()

    return build


@pytest.fixture(scope="session")
def mask_rcnn() -> Detector:
    """Given options → the network, its vector and its image, float64."""

    def build(
        vector_name: str = "mask_rcnn_narrow", **options: Any
    ) -> tuple[nn.Module, conformance_helper.Parts, Tensor]:
        vector = conformance_helper.load_parts(vector_name)
        told, test = vector.options, vector.options["test_cfg"]
        network = MaskRCNN(
            told.get("dims", DIMS),
            told.get("strides", STRIDES),
            series_order=told["act_num"],
            channels=told.get("channels", 256),
            hidden=told.get("fc", 1024),
            proposals=test["rpn"]["max_per_img"],
            detections=test["rcnn"]["max_per_img"],
            **options,
        )
        return loaded(network, vector), vector, torch.from_numpy(vector.image).double()

    return build
