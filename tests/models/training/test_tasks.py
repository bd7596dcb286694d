"""What each network is trained for: the losses fall where they should, and scores are of the whole."""

import numpy as np
import pytest
import torch
from torch import nn

from plainconv.models import create
from plainconv.models.digits_detector import STRIDES, DigitsDetector
from plainconv.models.training.recipe import Recipe
from plainconv.models.training.scenes import Scenes
from plainconv.models.training.tasks import CLASSIFY, RADIUS, ap50, detection_loss, miou, task_of

SCENES = Scenes(
    torch.zeros(2, 1, 64, 64),
    torch.tensor([[[8.0, 8.0, 24.0, 26.0], [20.0, 30.0, 60.0, 64.0]], [[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 0.0, 0.0]]]),
    torch.tensor([[3, 7], [5, -1]]),
    torch.zeros(2, 64, 64, dtype=torch.uint8),
)


class Raw(nn.Module):
    """A detector whose raw maps are given, those of the scenes' digits or others."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.maps = []
        for k, stride in enumerate(STRIDES):
            maps = torch.full((2, 14, 64 // stride, 64 // stride), -8.0)
            for image, (boxes, labels) in enumerate(zip(SCENES.boxes, SCENES.labels, strict=True)):
                for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                    if label < 0 or (max(x2 - x1, y2 - y1) > 28) != (k == 1):
                        continue
                    for row, column in np.ndindex(*maps.shape[2:]):
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        reach = torch.tensor([x - x1, y - y1, x2 - x, y2 - y])
                        off = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                        if reach.min() > 0 and off < RADIUS * stride:
                            maps[image, :4, row, column] = (reach / stride).expm1().log()
                            maps[image, 4 + (label if right else (label + 1) % 10), row, column] = 8.0
            self.maps.append(maps)

    def levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return DigitsDetector.forward(self, images)  # type: ignore[arg-type]


def test_the_right_maps_lose_least() -> None:
    """Given maps that say the boxes and classes → next to no loss and AP 1; with wrong classes a large one and 0."""
    rows, draw = torch.arange(2), torch.Generator()
    right, wrong = (float(detection_loss(Raw(each), SCENES, rows, Recipe(), draw)) for each in (True, False))
    assert right < 1.0 < 5.0 < wrong
    assert ap50(Raw(True), SCENES) == 1.0
    assert ap50(Raw(False), SCENES) == 0.0


@pytest.mark.parametrize("name", ["digits_detector", "digits_segmenter"])
def test_a_few_steps_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[:, 8:26, 8:24] = 4
    scenes = Scenes(masks[:, None] / 4 + 0.1 * torch.randn(2, 1, 64, 64), SCENES.boxes, SCENES.labels, masks)
    network, task = create(name), task_of(name)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = task.loss(network, scenes, torch.arange(2), Recipe(), torch.Generator())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_mean_iou_of_the_right_masks_is_one() -> None:
    masks = torch.randint(0, 11, (2, 64, 64), generator=torch.Generator().manual_seed(1)).byte()

    class Right(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(masks.long(), 11).permute(0, 3, 1, 2).float()

    scenes = Scenes(SCENES.images, SCENES.boxes, SCENES.labels, masks)
    assert miou(Right(), scenes) == 1.0
    assert miou(Right(), Scenes(SCENES.images, SCENES.boxes, SCENES.labels, (masks + 1) % 11)) == 0.0


def test_networks_that_only_name_digits_are_classified() -> None:
    assert task_of("parnet_digits") is CLASSIFY
