"""AlexNet (Krizhevsky, 2014) with torchvision's names; a published state dict loads as it is.

It has no norm to fold: the deploy form differs only where it was deepened.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .deepening import deep_options, deepened
from .options import Option, classifier_options, fraction

VARIANTS: Mapping[str, dict[str, Any]] = {"alexnet": {}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant; Table 2 of VanillaNet is alexnet with `deep` and `series_order`."""
    return {**classifier_options(name), "drop_rate": fraction(0.5), **deep_options()}


def build(name: str, *, deploy: bool = False, deep: bool = False, series_order: int = 0, **options: Any) -> nn.Module:
    """Build a variant, deepened where that is asked for."""
    return deepened(AlexNet(**VARIANTS[name], **options), deep=deep, series_order=series_order, deploy=deploy)


class AlexNet(nn.Module):
    """Five convs and three linear layers, for heights and widths from 63 on.

    Args:
        num_classes: of the classifier.
        in_channels: of the input.
        drop_rate: of the dropouts before the first two linear layers, while training.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, drop_rate: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(drop_rate),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(drop_rate),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → logits [N, num_classes]."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]
