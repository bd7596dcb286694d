import torch
from torch import nn

from plainconv.exporter.pipeline.records import report_json
from plainconv.exporter.reparam import reparameterize


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.wide = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(torch.relu(self.stem(x)))


def test_a_merged_region_is_on_record_with_its_modules_and_its_error() -> None:
    """Given conv and norm, and two padded convs that may not merge → the one as a region, the other with a remedy."""
    torch.manual_seed(0)
    _, report = reparameterize(Net().eval(), torch.randn(1, 3, 8, 8))
    record = report_json(report)
    (region,) = record["merged"]
    assert region["modules"] == ["stem.0", "stem.1"]
    assert (region["ops"], region["kernel"], region["macs_after"]) == (2, [4, 3, 3, 3], 64 * 4 * 27)
    assert 0 <= region["error"] < 1e-12
    assert report.ops_before == {"conv2d": 3, "batch_norm": 1, "relu": 2}
    assert record["left_alone"]
    assert all(len(reason.split("; ")) == 2 and ": " in reason for reason in record["left_alone"])
