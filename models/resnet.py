"""ResNet (He et al., 2015) with torchvision's names, and the wide ones of depth 12 that ParNet is measured against.

A published state dict loads as it is. The deploy form has each norm in the conv before it, which then has a bias.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from .deepening import deep_options, deepened
from .options import Option, classifier_options
from .parnet_blocks import ACTIVATIONS, gate

BOTTLENECK = 4  # times as many channels out of a bottleneck block as within

BlockKind = Literal["basic", "bottleneck"]

VARIANTS: Mapping[str, dict[str, Any]] = {
    "resnet_50": {"layers": (3, 4, 6, 3), "block": "bottleneck"},
    # Non-deep Networks, Table 8
    "resnet12_wide": {"layers": (2, 1, 1, 1), "width": 176},
    "resnet12_wide_sse": {"layers": (2, 1, 1, 1), "width": 170, "gates": True, "activation": "silu"},
    "resnet_digits": {"layers": (1, 1, 1, 1), "width": 12},
}
_DEEP: Mapping[str, Any] = {"resnet_digits": {"deep": True, "series_order": 2}}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant; Table 2 of VanillaNet is resnet_50 with `deep` and `series_order`."""
    options = classifier_options(name)
    return options if name.startswith("resnet12") else {**options, **deep_options(**_DEEP.get(name, {}))}


def build(name: str, *, deploy: bool = False, deep: bool = False, series_order: int = 0, **options: Any) -> nn.Module:
    """Build a variant, deepened where that is asked for."""
    network = ResNet(**VARIANTS[name], **options, deploy=deploy)
    return deepened(network, deep=deep, series_order=series_order, deploy=deploy)


class ResNet(nn.Module):
    """Stem, four stages of blocks with a shortcut each, and a classifier; for any height and width.

    Args:
        layers: blocks of each stage.
        block: of two 3×3 convs, or of 1×1, 3×3 and 1×1.
        width: channels of the stem and of the first stage; each further stage has twice as many.
        gates: give each shortcut squeeze and excitation, s·σ(W·GAP(s)) (ResNet12-Wide-SSE).
        activation: "relu" or "silu".
        num_classes: of the classifier.
        in_channels: of the input.
        deploy: build the deploy form.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        block: BlockKind = "basic",
        width: int = 64,
        gates: bool = False,
        activation: str = "relu",
        num_classes: int = 1000,
        in_channels: int = 3,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_and_norm(in_channels, width, 7, 2, deploy=deploy)
        self.relu = ACTIVATIONS[activation]()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = width, []
        for stage, blocks in enumerate(layers):
            inner, parts = width << stage, []
            for i in range(blocks):
                stride = 2 if stage and i == 0 else 1
                parts.append(Block(channels, inner, stride, block, gates=gates, activation=activation, deploy=deploy))
                channels = inner * BOTTLENECK if block == "bottleneck" else inner
            stages.append(nn.Sequential(*parts))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → logits [N, num_classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """y = act(F(x) + s), s = x or BN(w1*x); F of two or three convs with a norm each, the stride in the first 3×3."""

    def __init__(
        self,
        channels: int,
        inner: int,
        stride: int,
        kind: BlockKind,
        *,
        gates: bool,
        activation: str,
        deploy: bool,
    ) -> None:
        super().__init__()
        outer = inner * BOTTLENECK if kind == "bottleneck" else inner
        if kind == "basic":
            shapes = [(channels, inner, 3, stride), (inner, outer, 3, 1)]
        else:
            shapes = [(channels, inner, 1, 1), (inner, inner, 3, stride), (inner, outer, 1, 1)]
        self.convs = len(shapes)
        for i, (c_in, c_out, kernel, step) in enumerate(shapes, 1):
            conv, norm = conv_and_norm(c_in, c_out, kernel, step, deploy=deploy)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm)
        self.relu = ACTIVATIONS[activation]()
        self.downsample: nn.Module | None = None
        if (channels, stride) != (outer, 1):
            self.downsample = nn.Sequential(*conv_and_norm(channels, outer, 1, stride, deploy=deploy))
        self.se = gate(outer, outer) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, outer, ⌈H / stride⌉, ⌈W / stride⌉]."""
        skip = x if self.downsample is None else self.downsample(x)
        if self.se is not None:
            skip = skip * self.se(skip)
        for i in range(1, self.convs + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            x = self.relu(x if i < self.convs else x + skip)
        return x


def conv_and_norm(channels: int, width: int, kernel: int, stride: int, *, deploy: bool) -> tuple[nn.Module, nn.Module]:
    """Make a conv, padded to keep the size at stride 1, and its norm, which the deploy form has in the conv's bias."""
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=deploy)
    return conv, nn.Identity() if deploy else nn.BatchNorm2d(width)
