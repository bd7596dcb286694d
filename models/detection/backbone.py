"""VanillaNet as a backbone, and the feature pyramid on it, under the names of their published checkpoints."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from ..series_activation import NORM_EPS, SeriesActivation
from ..vanillanet import Stage


class VanillaBackbone(nn.Module):
    """VanillaNet without its classifier, and without the fading activation: its deep training is done (§4.4).

    Args:
        dims: channels before, between and behind the stages.
        strides: of each stage's pool, one less than `dims`.
        taps: the stages whose outputs are features.
        series_order: n of every series activation (VanillaNet eq. 6).
        deploy: one conv where the training form has two, as in VanillaNet's deploy form.
    """

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], taps: Sequence[int], *, series_order: int, deploy: bool
    ) -> None:
        super().__init__()
        self.deploy, self.taps = deploy, tuple(taps)
        conv = nn.Conv2d(3, dims[0], 4, 4)
        act = SeriesActivation(dims[0], series_order, deploy=deploy)
        if deploy:
            self.stem = nn.Sequential(conv, act)
        else:
            self.stem1 = nn.Sequential(conv, nn.BatchNorm2d(dims[0], eps=NORM_EPS))
            self.stem2 = nn.Sequential(nn.Conv2d(dims[0], dims[0], 1), nn.BatchNorm2d(dims[0], eps=NORM_EPS), act)
        self.stages = nn.ModuleList(
            Stage(
                dim,
                dim_out,
                nn.Identity() if stride == 1 else nn.MaxPool2d(stride),
                series_order=series_order,
                slope=None,
                deploy=deploy,
            )
            for dim, dim_out, stride in zip(dims[:-1], dims[1:], strides, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] → features of each tap, the finest first."""
        x = self.stem(x) if self.deploy else self.stem2(self.stem1(x))
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.taps:
                features.append(x)
        return features


class FeaturePyramid(nn.Module):
    """FPN (Lin et al., 2017): each level is its own features by a 1×1 conv, and the level above it, enlarged.

    Args:
        widths: channels of the features, the finest first.
        channels: of every level.
        extra: levels made by 3×3 convs of stride 2, the first from the coarsest features; 0 adds one, of every second
            pixel of the coarsest level.
    """

    def __init__(self, widths: Sequence[int], channels: int, *, extra: int = 0) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(named_conv(width, channels, 1) for width in widths)
        self.fpn_convs = nn.ModuleList(named_conv(channels, channels, 3) for _ in widths)
        self.fpn_convs.extend(named_conv(channels if i else widths[-1], channels, 3, 2) for i in range(extra))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[N, C, H, W] each, the finest first → the levels, the finest first."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            above = functional.interpolate(laterals[i], size=laterals[i - 1].shape[-2:], mode="nearest")
            laterals[i - 1] = laterals[i - 1] + above
        convs = list(self.fpn_convs)
        levels = [conv(x) for conv, x in zip(convs, laterals, strict=False)]
        extra = convs[len(laterals) :]
        if not extra:
            return [*levels, functional.max_pool2d(levels[-1], 1, 2)]
        x = features[-1]
        for conv in extra:
            x = conv(x)
            levels.append(x)
        return levels


def named_conv(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Make a conv with a bias, padded to keep the size at stride 1, whose keys are `conv.*`."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, width, kernel, stride, kernel // 2)))
