"""What each network is trained for: its data, the loss of a batch, and what it is worth on what was held out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..digits import Digits, load_digits, save_digits, shifted
from ..digits_detector import STRIDES, decode, places
from .recipe import Recipe
from .scenes import Scenes, load_scenes, save_scenes
from .scores import Boxes, average_precision, detections, mean_iou

RADIUS = 1.5  # strides around a digit's centre within which places answer for it
LARGEST = (28.0, torch.inf)  # the longest side of a box that a level answers for
EVALUATED_AT_ONCE = 50


@dataclass(frozen=True)
class Task:
    """Data to train on and held out, the loss of some rows of it, and what a network in eval mode is worth.

    `loss` takes network, data, rows, recipe and a generator; `counts` says what `score` is.
    """

    load: Callable[[], tuple[Any, Any]]
    loss: Callable[[nn.Module, Any, Tensor, Recipe, torch.Generator], Tensor]
    score: Callable[[nn.Module, Any], float]
    save: Callable[[Any, Path], None]
    counts: str
    epochs: int = 40


def task_of(name: str) -> Task:
    """The task of a network of the catalogue."""
    return _OTHERS.get(name, CLASSIFY)


# ------------------------------------------------------------------ digits to name


def classification_loss(
    network: nn.Module, digits: Digits, rows: Tensor, recipe: Recipe, draw: torch.Generator
) -> Tensor:
    """Cross entropy of shifted digits."""
    logits = network(shifted(digits.images[rows], recipe.shift, draw))
    return functional.cross_entropy(logits, digits.labels[rows], label_smoothing=recipe.smoothing)


def accuracy(network: nn.Module, digits: Digits) -> float:
    """Return the share of `digits` that the network, in eval mode, gets right."""
    with torch.inference_mode():
        right = network.eval()(digits.images).argmax(1) == digits.labels
    return int(right.sum()) / len(right)


# ------------------------------------------------------------------ digits to find


def detection_loss(network: Any, scenes: Scenes, rows: Tensor, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """1 − GIoU of the boxes at the places that answer for a digit, and the scores' cross entropy, per such place.

    What a score is held to is how well its box fits, its IoU, for the digit's class, and 0 for all others.
    """
    batch = scenes.rows(rows)
    raws = network.levels(batch.images)
    decoded = torch.cat([decode(raw, stride) for raw, stride in zip(raws, STRIDES, strict=True)], 2).transpose(1, 2)
    logits = torch.cat([raw[:, 4:].flatten(2) for raw in raws], 2).transpose(1, 2)
    answers = torch.cat([_answers(raw, k, batch) for k, raw in enumerate(raws)], 1)
    image, place, box = answers.nonzero(as_tuple=True)
    overlap, generalized = _fit(decoded[image, place, :4], batch.boxes[image, box])
    wanted = torch.zeros_like(logits)
    wanted[image, place, batch.labels[image, box]] = overlap.detach()
    scores = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    return (scores + 2 * (1 - generalized).sum()) / max(len(image), 1)


def _answers(raw: Tensor, level: int, scenes: Scenes) -> Tensor:
    """Which places of a level answer for which digit: [N, h·w, 5]."""
    centres = places(raw, STRIDES[level]).flatten(2).transpose(1, 2)[:, :, None]
    low, high = scenes.boxes[:, None, :, :2], scenes.boxes[:, None, :, 2:]
    inside = ((centres > low) & (centres < high)).all(3)
    near = ((centres - (low + high) / 2).abs() < RADIUS * STRIDES[level]).all(3)
    longest = (high - low).amax(3)
    smallest = 0.0 if level == 0 else LARGEST[level - 1]
    return inside & near & (longest > smallest) & (longest <= LARGEST[level]) & (scenes.labels[:, None] >= 0)


def _fit(boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """IoU, and GIoU = IoU − (hull − union) / hull, of pairs of boxes [K, 4]."""
    low, high = torch.maximum(boxes[:, :2], wanted[:, :2]), torch.minimum(boxes[:, 2:], wanted[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1) - both
    hull = (torch.maximum(boxes[:, 2:], wanted[:, 2:]) - torch.minimum(boxes[:, :2], wanted[:, :2])).prod(1)
    overlap = both / union
    return overlap, overlap - (hull - union) / hull


def ap50(network: nn.Module, scenes: Scenes) -> float:
    """AP at IoU ½ of what the network, in eval mode, finds."""
    return average_precision(detections(_outputs(network, scenes)), truth_of(scenes))


def truth_of(scenes: Scenes) -> list[Boxes]:
    """The boxes and labels of each scene."""
    there = scenes.labels.numpy() >= 0
    return [
        Boxes(boxes[some], labels[some], np.ones(int(some.sum())))
        for boxes, labels, some in zip(scenes.boxes.numpy(), scenes.labels.numpy(), there, strict=True)
    ]


# ------------------------------------------------------------------ digits to cut out


def segmentation_loss(
    network: nn.Module, scenes: Scenes, rows: Tensor, recipe: Recipe, draw: torch.Generator
) -> Tensor:
    """Cross entropy of the pixels, the background's at a fifth of the digits' weight."""
    logits = network(scenes.images[rows])
    weights = torch.ones(logits.shape[1])
    weights[0] = 0.2
    return functional.cross_entropy(logits, scenes.masks[rows].long(), weights)


def miou(network: nn.Module, scenes: Scenes) -> float:
    """Mean IoU of what the network, in eval mode, cuts out."""
    logits = _outputs(network, scenes)
    return mean_iou(logits.argmax(1), scenes.masks.numpy(), logits.shape[1])


def _outputs(network: nn.Module, scenes: Scenes) -> np.ndarray:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(images) for images in torch.split(scenes.images, EVALUATED_AT_ONCE)]).numpy()


CLASSIFY = Task(lambda: load_digits(), classification_loss, accuracy, save_digits, "of the held-out digits right")
_OTHERS = {
    "digits_detector": Task(
        lambda: load_scenes(), detection_loss, ap50, save_scenes, "AP50 on the held-out scenes", 20
    ),
    "digits_segmenter": Task(
        lambda: load_scenes(), segmentation_loss, miou, save_scenes, "mean IoU on the held-out scenes", 10
    ),
}
