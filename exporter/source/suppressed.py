"""Non-maximum suppression as the last step of a detector, in its graph: fixed-size outputs, and how many of them count.

    boxes, scores of each class → the best class of each box → the best K boxes above `score` → suppression by class

The rule is that of `engines.predict`, and of the detectors in the catalogue, whose operator this is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plainconv.models.detection.boxes import best, rows
from plainconv.models.detection.ops import top

from ..bundle import Postprocessing
from ..bundle.postprocessing import postprocessing_given
from ..errors import SourceError
from .network import Network

FORMS = ("plain", "node")
"""How it is expressed in ONNX: by tensor algebra and a Loop, which every runtime has, or by NonMaxSuppression."""
CANDIDATES = 1000
"""Boxes that are compared with each other, at most: what they take grows with the square."""
RETURNS = ("boxes", "scores", "labels", "count", "exact")


@dataclass(frozen=True)
class Suppression:
    """How the outputs of a network are read, at these places among them, and how suppression is expressed."""

    wanted: Postprocessing
    boxes: int
    scores: int
    form: str


class Suppressed(nn.Module):
    """`network` of one input, whose boxes are suppressed."""

    def __init__(self, network: nn.Module, suppression: Suppression) -> None:
        super().__init__()
        self.network = network
        self.suppression = suppression

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """What `network` takes → boxes [B, D, 4], x1 y1 x2 y2, scores [B, D], labels [B, D], count [B], exact [B].

        `exact`: no box that would count was left out. Then whatever else `network` returns.
        """
        outputs = _outputs(self.network(image))
        at, wanted = self.suppression, self.suppression.wanted
        boxes, scores = outputs[at.boxes], outputs[at.scores]
        if wanted.form == "rows":
            boxes, scores = boxes[:, :4].transpose(1, 2), scores[:, 4:].transpose(1, 2)
        score, label = scores.max(2)
        counts = score > wanted.score
        most = min(CANDIDATES, score.shape[1])
        score, index = top(torch.where(counts, score, torch.zeros_like(score)), most)
        box = rows(boxes, index)
        if wanted.coordinates == "cxcywh":
            centre, half = box[..., :2], box[..., 2:] * 0.5
            box = torch.cat([centre - half, centre + half], -1)
        found = best(
            box,
            score,
            torch.gather(label, 1, index),
            classes=scores.shape[2],
            iou_threshold=wanted.iou,
            most=wanted.max,
            form=at.form,
        )
        exact = (counts.sum(1) <= most) | (found["count"] == wanted.max)
        others = (each for i, each in enumerate(outputs) if i not in (at.boxes, at.scores))
        return (*found.values(), exact, *others)


def _outputs(returned: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    return (returned,) if isinstance(returned, Tensor) else tuple(returned)


def suppress(network: Network, postprocess: str | None, form: str) -> None:
    """Put the suppression of `postprocess`, which says that the network detects, into it.

    Raises SourceError, in one line, where it is no detector, or does suppress already.
    """
    if network.given is not None:
        raise SourceError(
            f"{network.name} is an ONNX file, whose graph is the reference: --nms {form} given; leave it out, and "
            "whoever runs the bundle suppresses"
        )
    if len(network.inputs) != 1:
        raise SourceError(f"{network.name} takes {len(network.inputs)} inputs, --nms {form} wants one; leave it out")
    wanted = postprocessing_given(postprocess or network.postprocess or "detect", network.output_specs())
    if wanted is None or wanted.kind != "detect":
        kind = "none" if wanted is None else wanted.kind
        raise SourceError(f"--nms {form} is a detector's, and --postprocess says {kind}; leave it out")
    if wanted.form == "final":
        raise SourceError(f"{network.name} gives {wanted.scores} suppressed already; leave --nms {form} out")
    names = list(network.output_names)
    places = {names.index(wanted.boxes), names.index(wanted.scores)}
    others = tuple(name for i, name in enumerate(names) if i not in places)
    if taken := sorted(set(others) & set(RETURNS)):
        raise SourceError(f"{network.name} gives {taken[0]} beside its boxes, as --nms would; call it something else")
    at = Suppression(wanted, names.index(wanted.boxes), names.index(wanted.scores), form)
    network.module = Suppressed(network.module, at).eval()
    network.returns = (*RETURNS, *others)
    network.postprocess = f"detect:{wanted.score!r},{wanted.iou!r},{wanted.max}"
