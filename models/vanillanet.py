"""VanillaNet (Chen et al., 2023): a chain of 1×1 convs, max pools and series activations, without a single branch.

Modules carry the published names, so that a published state dict loads as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .deep_training import FadingActivation
from .options import Option, classifier_options, fraction, whole, wholes
from .series_activation import NORM_EPS, SeriesActivation

PUBLISHED_POOL_SIZES = (38, 19, 10)  # of the † checkpoint; the supplement's §A has (40, 20, 10)

CHANNELS = 512  # behind the stem, at width 1


def variant(depth: int, width: float = 1.0) -> dict[str, Any]:
    """`dims` and `strides` of VanillaNet-`depth`, 5 to 13 (VanillaNet supplement, Table 1).

    The stem and the classifier count as layers. From depth 8 on, each further layer repeats the third width.
    """
    c1, c2, c4, c8 = (int(CHANNELS * width) * factor for factor in (1, 2, 4, 8))
    if depth <= 6:
        return {"dims": (c1, c2, c4, c8, c8)[: depth - 1], "strides": (2, 2, 2, 1)[: depth - 2]}
    repeats = depth - 7
    return {"dims": (c1, c1, c2, c4, *[c4] * repeats, c8, c8), "strides": (1, 2, 2, *[1] * repeats, 2, 1)}


VARIANTS: Mapping[str, dict[str, Any]] = {
    **{f"vanillanet_{depth}": variant(depth) for depth in range(5, 14)},
    "vanillanet_13_x1_5": variant(13, width=1.5),
    "vanillanet_13_x1_5_ada_pool": variant(13, width=1.5),
    "vanillanet_digits": variant(6, width=1 / 16),
}


def options_of(name: str) -> dict[str, Option]:
    """Return the options of a variant."""
    options = {
        **classifier_options(name),
        "series_order": whole(3, low=0, high=15),
        "slope": fraction(1.0),
        "drop_rate": fraction(0.0),
    }
    return {**options, "pool_sizes": wholes(PUBLISHED_POOL_SIZES)} if name.endswith("_ada_pool") else options


def build(name: str, *, deploy: bool = False, **options: Any) -> nn.Module:
    """Build a variant.

    Raises:
        ValueError: as `VanillaNet` does.
    """
    return VanillaNet(**VARIANTS[name], **options, deploy=deploy)


class VanillaNet(nn.Module):
    """VanillaNet: stem, stages and classifier (VanillaNet §2), for any height and width from 32 on.

    Args:
        dims: channels before, between and behind the stages.
        strides: of each stage's pool, one less than `dims`.
        num_classes: of the classifier.
        in_channels: of the input.
        series_order: n of every series activation (VanillaNet eq. 6).
        slope: λ of every fading activation (VanillaNet eq. 1); the deploy form has none.
        drop_rate: of the dropout before the classifier, while training.
        pool_sizes: the † variant: adaptive pools of these sizes in the stages of stride 2, and a stem of stride 3.
        deploy: build the deploy form, which has one conv where the training form has two.

    Raises:
        ValueError: the deploy form is given a slope, or `pool_sizes` are not as many as the stages of stride 2.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        series_order: int = 3,
        slope: float = 1.0,
        drop_rate: float = 0.0,
        pool_sizes: Sequence[int] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        if deploy and slope != 1.0:
            raise ValueError(f"slope is {slope:g}, but the deploy form has no fading activation; leave slope out")
        self.deploy = deploy
        stem_stride, stem_pad = (4, 0) if pool_sizes is None else (3, 1)
        stem = nn.Conv2d(in_channels, dims[0], 4, stem_stride, stem_pad)
        act = SeriesActivation(dims[0], series_order, deploy=deploy)
        stages = (
            Stage(dim, dim_out, pool, series_order=series_order, slope=slope, deploy=deploy)
            for dim, dim_out, pool in zip(dims[:-1], dims[1:], _pools(strides, pool_sizes), strict=True)
        )
        shrink = nn.AdaptiveAvgPool2d(1), nn.Dropout(drop_rate)
        classify = nn.Conv2d(dims[-1], num_classes, 1)
        if deploy:
            self.stem = nn.Sequential(stem, act)
            self.stages = nn.ModuleList(stages)
            self.cls = nn.Sequential(*shrink, classify)
        else:
            self.fade = FadingActivation(slope)
            self.stem1 = nn.Sequential(stem, _norm(dims[0]))
            self.stem2 = nn.Sequential(nn.Conv2d(dims[0], dims[0], 1), _norm(dims[0]), act)
            self.stages = nn.ModuleList(stages)
            self.cls1 = nn.Sequential(*shrink, classify, _norm(num_classes))
            self.cls2 = nn.Sequential(nn.Conv2d(num_classes, num_classes, 1))
        self.apply(_initialize)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → logits [N, num_classes]."""
        x = self.stem(x) if self.deploy else self.stem2(self.fade(self.stem1(x)))
        for stage in self.stages:
            x = stage(x)
        x = self.cls(x) if self.deploy else self.cls2(self.fade(self.cls1(x)))
        return x.flatten(1)


class Stage(nn.Module):
    """1×1 conv and norm → fading activation → 1×1 conv and norm → pool → series activation (VanillaNet §2, §3.1).

    The deploy form has one 1×1 conv, with a bias, in place of the two; slope None leaves the fading activation out.
    """

    def __init__(
        self, dim: int, dim_out: int, pool: nn.Module, *, series_order: int, slope: float | None, deploy: bool
    ) -> None:
        super().__init__()
        self.deploy = deploy
        if deploy:
            self.conv = nn.Conv2d(dim, dim_out, 1)
        else:
            self.conv1 = nn.Sequential(nn.Conv2d(dim, dim, 1), _norm(dim))
            self.fade = nn.Identity() if slope is None else FadingActivation(slope)
            self.conv2 = nn.Sequential(nn.Conv2d(dim, dim_out, 1), _norm(dim_out))
        self.pool = pool
        self.act = SeriesActivation(dim_out, series_order, deploy=deploy)

    def forward(self, x: Tensor) -> Tensor:
        """[N, dim, H, W] → [N, dim_out, H', W'], pooled."""
        x = self.conv(x) if self.deploy else self.conv2(self.fade(self.conv1(x)))
        return self.act(self.pool(x))  # type: ignore[no-any-return]


def options_from_state(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Read off a state dict what its shapes tell: n of the series activations, from the (2n+1)² kernel of the first."""
    first = state.get("stem2.2.weight", state.get("stem.1.weight"))
    if first is None or first.ndim != 4 or first.shape[-1] % 2 == 0:
        return {}
    return {"series_order": first.shape[-1] // 2}


def _pools(strides: Sequence[int], sizes: Sequence[int] | None) -> list[nn.Module]:
    """Make each stage's pool: none at stride 1, else a max pool of that stride, or adaptive to the next of `sizes`."""
    if sizes is None:
        return [nn.Identity() if stride == 1 else nn.MaxPool2d(stride) for stride in strides]
    strided = sum(stride != 1 for stride in strides)
    if len(sizes) != strided:
        raise ValueError(f"{len(sizes)} pool_sizes were given for {strided} stages of stride 2; give one for each")
    remaining = iter(sizes)
    return [nn.Identity() if stride == 1 else nn.AdaptiveMaxPool2d(next(remaining)) for stride in strides]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS)


def _initialize(module: nn.Module) -> None:
    """Draw kernels from a truncated normal of deviation 0.02, and clear biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
