import torch
from torch import Tensor, nn

from plainconv.exporter.parity.evaluate import reference_from_module
from plainconv.exporter.parity.uncast import without_autocast


class Narrowed(nn.Module):
    """One convolution in bfloat16, as published detectors write it, and one decorated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.seen: list[torch.dtype] = []

    @torch.amp.autocast("cpu", dtype=torch.bfloat16)
    def tail(self, x: Tensor) -> Tensor:
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x)
        z = self.tail(y)
        self.seen += [y.dtype, z.dtype]
        return z.float()


def test_regions_are_off_within_and_on_again_behind() -> None:
    net, x = Narrowed().eval(), torch.randn(1, 3, 8, 8)
    with without_autocast():
        net(x)
    net(x)
    assert net.seen == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_a_network_is_allowed_the_rounding_of_its_weights_type_alone() -> None:
    reference = reference_from_module(Narrowed().eval(), torch.randn(1, 3, 8, 8))
    (wanted,) = reference.outputs.values()
    assert 0 < wanted.own_errors.max() < 1e-5
