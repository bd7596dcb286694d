"""Our reading of the ParNet-XL detector: shapes, norms left, a batch left open."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from plainconv.exporter.reparam import reparameterize
from plainconv.models import create
from plainconv.models.detection.csp import CSP
from plainconv.models.detection.parnet_yolo import ParNetYolo

Draw = Callable[[nn.Module], dict[str, Tensor]]


def _narrow(drawn_state: Draw, *, csp: bool) -> ParNetYolo:
    network = ParNetYolo(planes=(8, 12, 16, 24), neck=16, num_classes=5, csp=csp, detections=40, score_threshold=0.3)
    drawn = drawn_state(network)
    network.load_state_dict({**drawn, **{k: v for k, v in network.state_dict().items() if "anchor" in k}})
    return network.double().eval()


@pytest.mark.slow
@pytest.mark.parametrize("csp", [False, True])
def test_norms_left_are_those_that_no_conv_reaches(csp: bool, drawn_state: Draw) -> None:
    """A norm behind an activation or a gate, with an activation behind itself, is in no conv's reach.

    Those behind two concatenated convs, which the CSP streams have, go into both.
    """
    network = _narrow(drawn_state, csp=csp)
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    _, report = reparameterize(network, image)
    gates = 14  # the skip of each stride-1 block, whose gate reads the norm
    fusions = 4
    necks = 5  # SPPCSP, and four CSP2: one half of what they norm is an activation
    assert report.counts_after["norm"] == gates + fusions + necks


@pytest.mark.slow
def test_traces_at_a_batch_left_open(drawn_state: Draw) -> None:
    network = _narrow(drawn_state, csp=True)
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    program = torch.export.export(network, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.inference_mode():
        found, wanted = program.module()(images), network(images)
    assert wanted["boxes"].shape == (3, 40, 4) and int(wanted["count"].min()) > 0
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_csp_streams_work_on_half_of_their_channels() -> None:
    with torch.device("meta"):
        network = create("parnet_xl_csp_yolo")
    assert all(isinstance(stream, CSP) for stream in network.backbone.streams)
    assert [len(stream.m) for stream in network.backbone.streams] == [4, 5, 5]
    assert [stream.m[0].rbr_identity.num_features for stream in network.backbone.streams] == [100, 200, 400]


@pytest.mark.parametrize("csp", [False, True])
def test_sizes_that_no_image_of_the_training_had_are_refused(csp: bool) -> None:
    network = ParNetYolo(planes=(8, 12, 16, 24), neck=16, num_classes=5, csp=csp)
    with pytest.raises(ValueError, match="100×160 are no multiples of 32; pad the image"):
        network(torch.empty(1, 3, 100, 160))
